"""`Pool`: work is cut into chunks, one message each, and handed to actors as they become idle."""

from __future__ import annotations

import collections
import itertools
import os
from multiprocessing import TimeoutError

from ..._api import cluster_resources, kill, remote
from ..._calls import get, wait
from ..._cluster import init, is_initialized
from .results import AsyncResult, OrderedIMapIterator, ResultThread, UnorderedIMapIterator

__all__ = ["AsyncResult", "Pool", "PoolActor", "TimeoutError"]

_CHUNKS_PER_PROCESS = 4
_IN_FLIGHT_PER_PROCESS = 4  # of imap: chunks given to a process ahead of what the caller has taken


class PoolActor:
    """One process of a pool."""

    def __init__(self, initializer=None, initargs=()):
        if initializer is not None:
            initializer(*initargs)

    def ping(self):
        """Answers when the process is ready."""
        return os.getpid()

    def run_batch(self, func, batch, unpack):
        """The list of the items' values; when some call raised, a tuple with ``(True, value)`` or
        ``(False, error)`` for each item. Errors do not end the chunk.
        """
        values: list = []
        errors: dict = {}  # by the item's place
        items = iter(batch)
        calls = itertools.starmap(func, items) if unpack else map(func, items)
        while len(values) < len(batch):
            try:
                values.extend(calls)  # what came before an error stays
                if len(values) < len(batch):
                    raise StopIteration  # a call did, and extend() took it for the end
            except Exception as error:
                errors[len(values)] = _with_traceback(error)
                values.append(None)
        if not errors:
            return values
        return tuple(
            (False, errors[at]) if at in errors else (True, value)
            for at, value in enumerate(values)
        )

    def run(self, func, args, kwargs):
        """One call, as a chunk of one."""
        try:
            return [func(*(args or ()), **(kwargs or {}))]
        except Exception as error:
            return ((False, _with_traceback(error)),)


def _with_traceback(error):
    import traceback
    from ..._errors import _pack_one

    if _pack_one(error) is None:
        error = RuntimeError(
            f"{type(error).__name__}: {error} (the exception itself cannot be pickled)"
        )
    if hasattr(error, "add_note"):
        error.add_note("In a process of the pool:\n" + traceback.format_exc().rstrip())
    return error


class Pool:
    """A pool of processes with the interface of ``multiprocessing.Pool``.

    Args:
        processes: how many; default: the cluster's CPUs.
        initializer: called in each process first, with ``initargs``.
        maxtasksperchild: calls after which a process is replaced; None for never.
        context: accepted for compatibility; ignored.
        ray_address: cluster to join when not connected (see `sheaf.init`).
        ray_remote_args: options of the processes, which are actors.

    Raises: ValueError for fewer than one process.

    Example::

        with Pool(2) as pool:
            assert pool.map(abs, [-1, 2, -3]) == [1, 2, 3]
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer=None,
        initargs=None,
        maxtasksperchild: int | None = None,
        context=None,
        ray_address: str | None = None,
        ray_remote_args: dict | None = None,
    ):
        self._closed = False
        self._actors: list = []  # [actor, calls made]
        self._ending: list = []
        self._threads: list[ResultThread] = []
        self._next = 0
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._initializer = initializer
        self._initargs = tuple(initargs or ())
        self._max_calls = maxtasksperchild if maxtasksperchild is not None else float("inf")
        self._options = {"num_cpus": 1, **(ray_remote_args or {})}
        if not is_initialized():
            init(
                ray_address or os.environ.get("SHEAF_ADDRESS") or os.environ.get("RAY_ADDRESS"),
                num_cpus=None,
            )
        total = int(cluster_resources().get("CPU", 1)) or 1
        if processes is None:
            processes = total
        if processes <= 0:
            raise ValueError("Number of processes must be at least 1.")
        if processes > total and self._options.get("num_cpus") == 1 and not ray_remote_args:
            raise ValueError(
                f"Tried to start a pool with {processes} processes on an existing cluster, but "
                "there "
                f"are only {total} CPUs in the cluster."
            )
        self._processes = processes
        self._actors = [[self._new_actor(), 0] for _ in range(processes)]
        self._idle_order = collections.deque(range(processes))
        if initializer is not None:  # its effects are there when the pool is
            get([actor.ping.remote() for actor, _ in self._actors])

    # ---- processes

    def _new_actor(self):
        return remote(PoolActor).options(**self._options).remote(self._initializer, self._initargs)

    def _submit(self, index: int, method: str, n_calls: int, *args):
        entry = self._actors[index]
        if entry[1] >= self._max_calls:
            self._ending.append(entry[0].__ray_terminate__.remote())
            entry[0], entry[1] = self._new_actor(), 0
        entry[1] += n_calls
        return getattr(entry[0], method).remote(*args)

    def _next_index(self) -> int:
        self._next = (self._next + 1) % self._processes
        return self._next

    def _check_running(self) -> None:
        if self._closed:
            raise ValueError("Pool not running")

    # ---- one call

    def apply(self, func, args=None, kwargs=None):
        """``func(*args, **kwargs)`` in one process; its value, or what it raised."""
        return self.apply_async(func, args, kwargs).get()

    def apply_async(
        self, func, args=None, kwargs=None, callback=None, error_callback=None
    ) -> AsyncResult:
        """As `apply`, without waiting. Callbacks get the value or the error, in a thread of the
        pool's.
        """
        self._check_running()
        ref = self._submit(self._next_index(), "run", 1, _plain(func), args, kwargs)
        return self._collect([ref], callback, error_callback, single=True)

    def _collect(self, refs, callback=None, error_callback=None, single=False) -> AsyncResult:
        thread = ResultThread(refs, single, callback, error_callback)
        thread.start()
        self._threads = [other for other in self._threads if other.is_alive()]
        self._threads.append(thread)
        return AsyncResult(thread, single)

    # ---- many calls

    def _chunks(self, iterable, chunksize):
        if chunksize is not None and chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        iterator = iter(iterable)
        while chunk := list(itertools.islice(iterator, chunksize)):
            yield chunk

    def _calculate_chunksize(self, iterable) -> int:
        size, extra = divmod(len(iterable), self._processes * _CHUNKS_PER_PROCESS)
        return max(size + bool(extra), 1)

    def _map_async(
        self, func, iterable, chunksize, unpack, callback=None, error_callback=None
    ) -> AsyncResult:
        self._check_running()
        if not hasattr(iterable, "__len__"):
            iterable = list(iterable)
        if chunksize is None:
            chunksize = self._calculate_chunksize(iterable)
        func = _shared(_plain(func))
        refs = [
            self._submit(self._next_index(), "run_batch", len(chunk), func, chunk, unpack)
            for chunk in self._chunks(iterable, chunksize)
        ]
        return self._collect(refs, callback, error_callback)

    def map(self, func, iterable, chunksize: int | None = None) -> list:
        """``[func(item) for item in iterable]``; raises what the first failed call in order
        raised.
        """
        return self._map_async(func, iterable, chunksize, False).get()

    def map_async(
        self, func, iterable, chunksize: int | None = None, callback=None, error_callback=None
    ) -> AsyncResult:
        """As `map`, without waiting."""
        return self._map_async(func, iterable, chunksize, False, callback, error_callback)

    def starmap(self, func, iterable, chunksize: int | None = None) -> list:
        """``[func(*item) for item in iterable]``."""
        return self._map_async(func, iterable, chunksize, True).get()

    def starmap_async(
        self, func, iterable, chunksize: int | None = None, callback=None, error_callback=None
    ) -> AsyncResult:
        """As `starmap`, without waiting."""
        return self._map_async(func, iterable, chunksize, True, callback, error_callback)

    def imap(self, func, iterable, chunksize: int | None = 1) -> OrderedIMapIterator:
        """As `map`, but an iterator that gives results as they are ready, in order; reads
        ``iterable`` lazily.
        """
        self._check_running()
        return OrderedIMapIterator(
            self,
            _shared(_plain(func)),
            self._chunks(iterable, chunksize or 1),
            self._processes * _IN_FLIGHT_PER_PROCESS,
        )

    def imap_unordered(self, func, iterable, chunksize: int | None = 1) -> UnorderedIMapIterator:
        """As `imap`, in the order in which results become ready."""
        self._check_running()
        return UnorderedIMapIterator(
            self,
            _shared(_plain(func)),
            self._chunks(iterable, chunksize or 1),
            self._processes * _IN_FLIGHT_PER_PROCESS,
        )

    # ---- the end

    def close(self) -> None:
        """No more calls; those that were made are finished."""
        if not self._closed:
            self._closed = True
            self._ending += [entry[0].__ray_terminate__.remote() for entry in self._actors]

    def terminate(self) -> None:
        """Ends all processes at once; unfinished calls fail."""
        self._closed = True
        for entry in self._actors:
            kill(entry[0])
        self._actors = []

    def join(self) -> None:
        """Waits until all processes have ended; ValueError unless the pool is closed."""
        if not self._closed:
            raise ValueError("Pool is still running")
        for thread in self._threads:
            thread.join()
        if self._ending:
            wait(self._ending, num_returns=len(self._ending), timeout=60.0)
        self._ending = []

    def __enter__(self) -> "Pool":
        self._check_running()
        return self

    def __exit__(self, *_) -> None:
        self.terminate()

    def __del__(self):
        for entry in getattr(self, "_actors", ()):
            try:
                if not self._closed:
                    kill(entry[0])
            except Exception:  # not connected any more
                pass

    def __reduce__(self):
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")


def _plain(func):
    """A remote function may stand where a function is expected: its own function is meant."""
    return getattr(func, "_function", func)


def _shared(func):
    """Pickles the function once for all chunks."""
    return _Function(func)


class _Function:
    """A function that carries its pickled self; unpickled once in each process."""

    def __init__(self, func):
        import cloudpickle

        self._func = func
        self._data = cloudpickle.dumps(func, protocol=5)

    def __reduce__(self):
        return _known_function, (self._data,)

    def __call__(self, *args):
        return self._func(*args)


_functions: "collections.OrderedDict[bytes, object]" = collections.OrderedDict()


def _known_function(data: bytes):
    func = _functions.get(data)
    if func is None:
        import pickle

        func = _functions[data] = pickle.loads(data)
        if len(_functions) > 64:
            _functions.popitem(last=False)
    return func
