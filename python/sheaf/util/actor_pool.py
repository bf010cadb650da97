"""A fixed set of actors that share out work."""

from __future__ import annotations

from collections import deque

from .._calls import get, wait


class ActorPool:
    """Hands items to whichever of its actors is idle.

    Args:
        actors: handles of the actors.

    Example::

        pool = ActorPool([Worker.remote() for _ in range(2)])
        print(list(pool.map(lambda actor, x: actor.double.remote(x), [1, 2, 3])))
    """

    def __init__(self, actors: list):
        self._idle = list(actors)
        self._running: dict = {}  # reference, or a tuple of them -> (index, actor)
        self._results: dict = {}  # index -> the same, not given out yet
        self._next_submitted = 0
        self._next_returned = 0
        self._waiting: deque = deque()  # (fn, value)

    def map(self, fn, values):
        """Yields ``fn(actor, value)``'s results in the order of ``values``; results left from
        before are dropped.

        ``fn`` returns a reference. Raises: what the calls raise.
        """
        self._drain()
        for value in values:
            self.submit(fn, value)

        def results():
            while self.has_next():
                yield self.get_next()

        return results()

    def map_unordered(self, fn, values):
        """As `map`, but yields results as they become ready."""
        self._drain()
        for value in values:
            self.submit(fn, value)

        def results():
            while self.has_next():
                yield self.get_next_unordered()

        return results()

    def _drain(self) -> None:
        while self.has_next():
            try:
                self.get_next_unordered(timeout=0, ignore_if_timedout=True)
            except Exception:  # late, or failed: nobody asks any more
                pass

    def submit(self, fn, value) -> None:
        """Runs ``fn(actor, value)`` on an idle actor, or when one becomes idle."""
        if not self._idle:
            self._waiting.append((fn, value))
            return
        actor = self._idle.pop()
        ref = fn(actor, value)
        if isinstance(ref, list):  # a call with several results
            ref = tuple(ref)
        self._running[ref] = (self._next_submitted, actor)
        self._results[self._next_submitted] = ref
        self._next_submitted += 1

    def has_next(self) -> bool:
        """Whether a result is still to come."""
        return bool(self._running)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False):
        """The next result in order of submission.

        Args:
            timeout: seconds to wait at most.
            ignore_if_timedout: drop a result that is late, instead of keeping it for later.

        Raises: StopIteration when there is none, TimeoutError, and what the call raised.
        """
        if not self.has_next():
            raise StopIteration("No more results to get")
        if self._next_returned >= self._next_submitted:
            raise ValueError("It is not allowed to call get_next() after get_next_unordered().")
        ref = self._results[self._next_returned]
        if timeout is not None and not wait([_first(ref)], timeout=timeout)[0]:
            if not ignore_if_timedout:
                raise TimeoutError("Timed out waiting for result")
            self._take(ref)
            raise TimeoutError("Timed out waiting for result. The task has been ignored.")
        self._take(ref)
        return _get(ref)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False):
        """Any result that is ready; parameters and errors as for `get_next`."""
        if not self.has_next():
            raise StopIteration("No more results to get")
        firsts = {_first(ref): ref for ref in self._running}
        ready, _ = wait(list(firsts), num_returns=1, timeout=timeout)
        if not ready:
            if not ignore_if_timedout:
                raise TimeoutError("Timed out waiting for result")
            self._take(next(iter(self._running)))
            raise TimeoutError("Timed out waiting for result. The task has been ignored.")
        ref = firsts[ready[0]]
        self._take(ref)
        return _get(ref)

    def _take(self, ref) -> None:
        index, actor = self._running.pop(ref)
        self._results.pop(index, None)
        self._next_returned = max(self._next_returned, index + 1)
        self._return_actor(actor)

    def _return_actor(self, actor) -> None:
        self._idle.append(actor)
        if self._waiting:
            self.submit(*self._waiting.popleft())

    def has_free(self) -> bool:
        """Whether an actor is idle and nothing waits."""
        return bool(self._idle) and not self._waiting

    def pop_idle(self):
        """Takes an idle actor out of the pool; None when there is none."""
        return self._idle.pop() if self.has_free() else None

    def push(self, actor) -> None:
        """Adds an actor; ValueError when it is in the pool already."""
        if actor in self._idle or any(actor == busy for _, busy in self._running.values()):
            raise ValueError("Actor already belongs to current ActorPool")
        self._return_actor(actor)


def _first(ref):
    return ref[0] if isinstance(ref, tuple) else ref


def _get(ref):
    return get(list(ref)) if isinstance(ref, tuple) else get(ref)
