"""What a pool's asynchronous calls give: results and iterators."""

from __future__ import annotations

import collections
import threading
import time
from multiprocessing import TimeoutError

from ..._calls import get, wait


class ResultThread(threading.Thread):
    """Waits for chunks and runs the callbacks, so that the caller need not."""

    def __init__(self, refs, single: bool, callback, error_callback):
        super().__init__(daemon=True, name="sheaf-pool-results")
        self._refs = refs
        self._single = single
        self._callback = callback
        self._error_callback = error_callback
        self._done = threading.Event()
        self._values: list = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """Thread body."""
        try:
            self._gather()
            if self._error is None and self._callback is not None:
                self._callback(self._values[0] if self._single else self._values)
            elif self._error is not None and self._error_callback is not None:
                self._error_callback(self._error)
        except BaseException as error:  # a callback raised
            self._error = error
        finally:
            self._refs = []
            self._done.set()

    def _gather(self) -> None:
        # In order; the first error in order wins, as in multiprocessing.
        for ref in self._refs:
            try:
                chunk = get(ref)
            except BaseException as error:
                self._error = self._error or error
                continue
            if type(chunk) is list:  # no call raised
                self._values.extend(chunk)
                continue
            for good, value in chunk:
                if good:
                    self._values.append(value)
                else:
                    self._error = self._error or value

    def wait(self, timeout: float | None) -> bool:
        """Whether everything was there within ``timeout`` seconds."""
        return self._done.wait(timeout)

    def outcome(self):
        """``(values, error)``; only after `wait` has given True."""
        return self._values, self._error


class AsyncResult:
    """The result of an asynchronous call of a pool."""

    def __init__(self, thread: ResultThread, single: bool):
        self._thread = thread
        self._single = single

    def wait(self, timeout: float | None = None) -> None:
        """Waits until the result is there, at most ``timeout`` seconds."""
        self._thread.wait(timeout)

    def get(self, timeout: float | None = None):
        """The result; TimeoutError (multiprocessing's) after ``timeout`` seconds; or what the call
        raised.
        """
        if not self._thread.wait(timeout):
            raise TimeoutError
        values, error = self._thread.outcome()
        if error is not None:
            raise error
        return values[0] if self._single else values

    def ready(self) -> bool:
        """Whether the result is there."""
        return self._thread.wait(0)

    def successful(self) -> bool:
        """Whether nothing was raised; ValueError when the result is not there yet."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._thread.outcome()[1] is None


class _IMapIterator:
    """Keeps a bounded number of chunks in flight."""

    def __init__(self, pool, func, chunks, in_flight: int):
        self._pool = pool
        self._func = func
        self._chunks = chunks
        self._in_flight = in_flight
        self._exhausted = False
        self._running: collections.deque = collections.deque()
        self._ready: collections.deque = collections.deque()
        self._fill()

    def _fill(self) -> None:
        while not self._exhausted and len(self._running) < self._in_flight:
            chunk = next(self._chunks, None)
            if chunk is None:
                self._exhausted = True
                return
            self._running.append(
                self._pool._submit(
                    self._pool._next_index(), "run_batch", len(chunk), self._func, chunk, False
                )
            )

    def __iter__(self):
        return self

    def __next__(self):
        return self.next()

    def next(self, timeout: float | None = None):
        """The next result; TimeoutError after ``timeout`` seconds, StopIteration at the end, or
        what was raised.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ready:
            if not self._running:
                self._fill()
                if not self._running:
                    raise StopIteration
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ref = self._wait(left)
            if ref is None:
                raise TimeoutError
            self._running.remove(ref)
            self._fill()
            chunk = get(ref)
            self._ready.extend(((True, value) for value in chunk) if type(chunk) is list else chunk)
        good, value = self._ready.popleft()
        if not good:
            raise value
        return value

    def _wait(self, timeout):
        raise NotImplementedError


class OrderedIMapIterator(_IMapIterator):
    """Results in the order of the arguments."""

    def _wait(self, timeout):
        ready, _ = wait([self._running[0]], timeout=timeout)
        return ready[0] if ready else None


class UnorderedIMapIterator(_IMapIterator):
    """Results in the order in which they become ready."""

    def _wait(self, timeout):
        ready, _ = wait(list(self._running), timeout=timeout)
        return ready[0] if ready else None
