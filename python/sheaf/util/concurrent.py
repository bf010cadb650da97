"""``concurrent.futures`` on remote tasks."""

from __future__ import annotations

import concurrent.futures
import itertools
import threading
import time

from .._api import cancel, remote
from .._state import ensure_connected

__all__ = ["SheafExecutor", "RayExecutor"]


class SheafExecutor(concurrent.futures.Executor):
    """An Executor whose calls are remote tasks.

    Args:
        max_workers: calls in flight at most; None leaves the limit to the cluster's CPUs.
        remote_args: options of the tasks (`sheaf.remote`).

    Example::

        with SheafExecutor() as executor:
            assert list(executor.map(abs, [-1, -2])) == [1, 2]
    """

    def __init__(self, max_workers: int | None = None, remote_args: dict | None = None, **options):
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        ensure_connected()
        self._options = {**(remote_args or {}), **options}
        self._call = remote(_call).options(**self._options) if self._options else remote(_call)
        self._slots = threading.Semaphore(max_workers) if max_workers else None
        self._lock = threading.Lock()
        self._running: dict = {}
        self._shut = False

    def submit(self, fn, /, *args, **kwargs) -> concurrent.futures.Future:
        """Runs ``fn(*args, **kwargs)`` in a worker; RuntimeError after `shutdown`. Waits while at
        ``max_workers``.
        """
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
        if self._slots is not None:
            self._slots.acquire()
        ref = self._call.remote(getattr(fn, "_function", fn), args, kwargs)
        future = ref.future()
        with self._lock:
            self._running[future] = ref
        future.add_done_callback(self._finished)
        return future

    def _finished(self, future) -> None:
        with self._lock:
            self._running.pop(future, None)
        if self._slots is not None:
            self._slots.release()

    def map(self, fn, *iterables, timeout=None, chunksize: int = 1, buffersize=None):
        """As the built-in ``map``; ``chunksize`` calls travel in one task. TimeoutError after
        ``timeout`` seconds.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        deadline = None if timeout is None else time.monotonic() + timeout
        items = zip(*iterables)
        futures = []
        while chunk := list(itertools.islice(items, chunksize)):
            futures.append(self.submit(_call_chunk, getattr(fn, "_function", fn), chunk))

        def results():
            try:
                futures.reverse()
                while futures:
                    left = None if deadline is None else deadline - time.monotonic()
                    yield from futures.pop().result(left)
            finally:
                for future in futures:
                    future.cancel()

        return results()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """No more calls. ``wait``: until all are finished. ``cancel_futures``: cancel what is
        not.
        """
        with self._lock:
            self._shut = True
            running = dict(self._running)
        if cancel_futures:
            for ref in running.values():
                cancel(ref)
        if wait:
            concurrent.futures.wait(running)


RayExecutor = SheafExecutor


def _call(fn, args, kwargs):
    return fn(*args, **kwargs)


def _call_chunk(fn, chunk):
    return [fn(*args) for args in chunk]
