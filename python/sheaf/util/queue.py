"""A first-in-first-out queue that lives in an actor: any task, actor or driver that has it may put
and get.
"""

from __future__ import annotations

import queue as _queue

from .._api import kill, remote
from .._calls import get as _get, wait as _wait

__all__ = ["Empty", "Full", "Queue"]


class Empty(_queue.Empty):
    """There was nothing to get."""


class Full(_queue.Full):
    """There was no room to put."""


class Queue:
    """The queue. Methods and errors are those of Python's ``queue.Queue`` and ``asyncio.Queue``.

    Args:
        maxsize: number of items at most; 0 for no limit.
        actor_options: options of the actor that holds it, e.g. ``{"num_cpus": 0}``.

    Example::

        queue = Queue(maxsize=100)
        queue.put(1)
        assert queue.get() == 1
    """

    def __init__(self, maxsize: int = 0, actor_options: dict | None = None):
        self.maxsize = maxsize
        self.actor = (
            remote(_QueueActor)
            .options(**{"max_concurrency": 1000, **(actor_options or {})})
            .remote(maxsize)
        )

    def __reduce__(self):
        return _rebuild, (self.maxsize, self.actor)

    def __len__(self) -> int:
        return self.size()

    def size(self) -> int:
        """Number of items."""
        return _get(self.actor.qsize.remote())

    qsize = size

    def empty(self) -> bool:
        """Whether there is no item."""
        return self.size() == 0

    def full(self) -> bool:
        """Whether there is no room."""
        return self.maxsize > 0 and self.size() >= self.maxsize

    def put(self, item, block: bool = True, timeout: float | None = None) -> None:
        """Adds an item; waits for room up to ``timeout`` seconds. Raises Full; ValueError for a
        negative timeout.
        """
        if not block:
            timeout = 0.0
        _check_timeout(timeout)
        call = self.actor.put.remote if timeout != 0 else self.actor.put_now.remote
        if not _get(call(item, timeout) if timeout != 0 else call(item)):
            raise Full

    def get(self, block: bool = True, timeout: float | None = None):
        """Takes the oldest item; waits for one up to ``timeout`` seconds. Raises Empty."""
        if not block:
            timeout = 0.0
        _check_timeout(timeout)
        found, item = _get(
            self.actor.get.remote(timeout) if timeout != 0 else self.actor.get_now.remote()
        )
        if not found:
            raise Empty
        return item

    def put_nowait(self, item) -> None:
        """`put` without waiting."""
        self.put(item, block=False)

    def get_nowait(self):
        """`get` without waiting."""
        return self.get(block=False)

    async def put_async(self, item, block: bool = True, timeout: float | None = None) -> None:
        """`put` for coroutines."""
        if not block:
            timeout = 0.0
        _check_timeout(timeout)
        if not await (
            self.actor.put.remote(item, timeout)
            if timeout != 0
            else self.actor.put_now.remote(item)
        ):
            raise Full

    async def get_async(self, block: bool = True, timeout: float | None = None):
        """`get` for coroutines."""
        if not block:
            timeout = 0.0
        _check_timeout(timeout)
        found, item = await (
            self.actor.get.remote(timeout) if timeout != 0 else self.actor.get_now.remote()
        )
        if not found:
            raise Empty
        return item

    def put_nowait_batch(self, items) -> None:
        """Adds all items or none; raises Full when they do not all fit, TypeError for what is not
        iterable.
        """
        if not hasattr(items, "__iter__"):
            raise TypeError("Argument 'items' must be an Iterable")
        items = list(items)
        if not _get(self.actor.put_batch.remote(items)):
            raise Full(f"Cannot add {len(items)} items to a queue of {self.maxsize}.")

    def get_nowait_batch(self, num_items: int) -> list:
        """Takes so many items at once; raises Empty when there are fewer."""
        if isinstance(num_items, bool) or not isinstance(num_items, int):
            raise TypeError("Argument 'num_items' must be an int")
        if num_items < 0:
            raise ValueError("'num_items' must be nonnegative")
        items = _get(self.actor.get_batch.remote(num_items))
        if items is None:
            raise Empty(f"Cannot get {num_items} items: there are fewer.")
        return items

    def shutdown(self, force: bool = False, grace_period_s: int = 5) -> None:
        """Ends the actor. ``force``: at once; otherwise it may finish calls for ``grace_period_s``
        seconds.
        """
        actor, self.actor = self.actor, None
        if actor is None:
            return
        if not force:
            ref = actor.__ray_terminate__.remote()
            _, late = _wait([ref], num_returns=1, timeout=grace_period_s)
            if not late:
                return
        kill(actor, no_restart=True)


def _rebuild(maxsize, actor):
    queue = Queue.__new__(Queue)
    queue.maxsize, queue.actor = maxsize, actor
    return queue


def _check_timeout(timeout) -> None:
    if timeout is not None and timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")


class _QueueActor:
    """Holds the items. One event loop: no two of its lines run at the same time."""

    def __init__(self, maxsize: int):
        import asyncio

        self.maxsize = maxsize
        self.queue = asyncio.Queue(maxsize)

    async def qsize(self):
        return self.queue.qsize()

    async def put(self, item, timeout):
        import asyncio

        try:
            await asyncio.wait_for(self.queue.put(item), timeout)
            return True
        except asyncio.TimeoutError:
            return False

    async def get(self, timeout):
        import asyncio

        try:
            return True, await asyncio.wait_for(self.queue.get(), timeout)
        except asyncio.TimeoutError:
            return False, None

    async def put_now(self, item):
        if self.queue.full():
            return False
        self.queue.put_nowait(item)
        return True

    async def get_now(self):
        if self.queue.empty():
            return False, None
        return True, self.queue.get_nowait()

    async def put_batch(self, items):
        if self.maxsize > 0 and self.queue.qsize() + len(items) > self.maxsize:
            return False
        for item in items:
            self.queue.put_nowait(item)
        return True

    async def get_batch(self, count):
        if self.queue.qsize() < count:
            return None
        return [self.queue.get_nowait() for _ in range(count)]
