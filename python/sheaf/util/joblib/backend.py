"""joblib's backend interface on remote tasks."""

from __future__ import annotations

from joblib._parallel_backends import AutoBatchingMixin, ParallelBackendBase

from ..._api import cluster_resources, remote
from ..._calls import get
from ..._cluster import init, is_initialized

_SHARE_BYTES = (
    1 << 20
)  # arrays at least so large are stored once instead of travelling with each batch


class SheafBackend(AutoBatchingMixin, ParallelBackendBase):
    """Each batch of calls that joblib makes is one task."""

    supports_retrieve_callback = True
    supports_return_generator = True
    supports_timeout = True
    default_n_jobs = -1

    def __init__(
        self,
        nesting_level=None,
        inner_max_num_threads=None,
        ray_remote_args=None,
        remote_args=None,
        **kwargs,
    ):
        super().__init__(
            nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads, **kwargs
        )
        self._options = dict(remote_args or ray_remote_args or {})
        self._stored: dict[int, tuple] = {}

    def configure(self, n_jobs=1, parallel=None, **kwargs):
        """joblib starts to use the backend: gives the number of jobs."""
        if not is_initialized():
            init()
        self.parallel = parallel
        self._call = remote(_run_batch)
        if self._options:
            self._call = self._call.options(**self._options)
        return self.effective_n_jobs(n_jobs)

    def effective_n_jobs(self, n_jobs):
        """How many batches run at a time; -1 means all CPUs of the cluster."""
        if not is_initialized():
            init()
        total = max(int(cluster_resources().get("CPU", 1)), 1)
        if n_jobs is None:
            n_jobs = -1
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        return max(total + 1 + n_jobs, 1) if n_jobs < 0 else n_jobs

    def submit(self, func, callback=None):
        """Starts a batch; the callback gets its future."""
        future = self._call.remote(self._with_stored_arrays(func)).future()
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit

    def retrieve_result_callback(self, out):
        """The batch's results, out of its future."""
        return out.result()

    def abort_everything(self, ensure_ready=True):
        """joblib gives up: what has not started is cancelled."""
        self._stored.clear()
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)

    def terminate(self):
        """joblib is done with the backend."""
        self._stored.clear()

    def _with_stored_arrays(self, batch):
        # BatchedCalls holds (function, args, kwargs) triples; a data set is the same object in all
        # of them.
        items = getattr(batch, "items", None)
        if items is None:
            return batch
        replaced = [
            (
                function,
                [self._store(value) for value in args],
                {key: self._store(value) for key, value in kwargs.items()},
            )
            for function, args, kwargs in items
        ]
        return _Batch(batch, replaced)

    def _store(self, value):
        if getattr(value, "nbytes", 0) < _SHARE_BYTES:
            return value
        known = self._stored.get(id(value))
        if known is None or known[0] is not value:
            from ..._calls import put

            known = self._stored[id(value)] = (value, put(value))
        return known[1]


class _Batch:
    def __init__(self, batch, items):
        import copy

        self.batch = copy.copy(batch)
        self.batch.items = []
        self.items = items

    def __call__(self):
        from ..._core import ObjectRef

        def load(value):
            return get(value) if isinstance(value, ObjectRef) else value

        self.batch.items = [
            (function, [load(v) for v in args], {k: load(v) for k, v in kwargs.items()})
            for function, args, kwargs in self.items
        ]
        return self.batch()


def _run_batch(batch):
    return batch()
