"""The event loop of an async actor: its calls become asyncio tasks, within the limits of their concurrency groups."""

from __future__ import annotations

import asyncio
import collections
import sys
import types

from . import _core
from ._loop_selector import LeadingSelector

_EAGER = sys.version_info >= (3, 12)


class _Group:
    __slots__ = ("limit", "running", "waiting")

    def __init__(self, limit: int):
        self.limit = max(1, limit)
        self.running = 0
        self.waiting = collections.deque()


class AsyncServer:
    """Owned by the main thread; runs until the actor ends."""

    def __init__(self, loop, max_concurrency: int, groups: dict[str, int]):
        self.loop = loop
        self.groups = {"": _Group(max_concurrency)}
        self.groups.update((name, _Group(limit)) for name, limit in groups.items())
        self.tasks: dict[bytes, asyncio.Task] = {}
        self.variable = _core._async_variable()
        self.leaving = False

    def serve(self) -> None:
        """Serves calls until the worker shall leave and running calls have ended."""
        loop = self.loop
        calls_fd = _core._task_fd()
        loop.add_reader(calls_fd, self.take)
        selector = getattr(loop, "_selector", None)
        if isinstance(selector, LeadingSelector):
            selector.lead(calls_fd)
        loop.add_reader(_core._cancel_fd(), self.cancel)
        loop.call_soon(self.take)
        loop.call_soon(self._look_for_exit)
        loop.run_forever()

    def take(self) -> None:
        """Starts the calls that have arrived."""
        calls, more = _core._take_calls()
        for call in calls:
            group = self.groups.get(call.group) or self.groups[""]
            if group.running >= group.limit:
                group.waiting.append(call)
            else:
                self.start(call, group, eager=True)
        if more:
            self.loop.call_soon(self.take)
        if _core._exiting():
            self._look_for_exit()

    def start(self, call, group: _Group, eager: bool = False) -> None:
        """``eager``: from outside of any task. The call runs up to its first wait before this
        returns, which saves the loop a round.
        """
        group.running += 1
        coroutine = self.run(call, group)
        task = self._eager_task(coroutine) if eager else self.loop.create_task(coroutine)
        if not task.done():
            self.tasks[call.id] = task

    def _eager_task(self, coroutine) -> asyncio.Task:
        if _EAGER:
            return asyncio.Task(coroutine, loop=self.loop, eager_start=True)
        # Before Python 3.12 a task asks the loop for its first step, with call_soon.
        steps = []
        try:
            self.loop.call_soon = lambda step, context: steps.append((step, context))
        except AttributeError:  # not a loop of the standard library
            return self.loop.create_task(coroutine)
        try:
            task = asyncio.Task(coroutine, loop=self.loop)
        finally:
            del self.loop.call_soon
        for step, context in steps:
            context.run(step)
        return task

    async def run(self, call, group: _Group) -> None:
        self.variable.set(call)
        try:
            if call.is_cancelled():
                raise asyncio.CancelledError
            result = call.invoke()
            kind = type(result)
            if kind is types.CoroutineType or hasattr(result, "__await__"):
                result = await result
            if call.streaming and hasattr(result, "__aiter__"):
                await self._stream(call, result)
            else:
                call.finish(result)
        except BaseException as error:
            self._failed(call, error)
        finally:
            self.tasks.pop(call.id, None)
            group.running -= 1
            if group.waiting and not self.leaving:
                self.start(group.waiting.popleft(), group)

    async def _stream(self, call, items) -> None:
        # A consumer that lags blocks the sender: then another thread has to wait, not the loop.
        blocking = call.backpressure > 0
        async for item in items:
            if blocking:
                await self.loop.run_in_executor(None, call.send_item, item)
            else:
                call.send_item(item)
        call.finish_stream()

    def _failed(self, call, error: BaseException) -> None:
        from .exceptions import AsyncioActorExit

        if isinstance(error, (asyncio.CancelledError, KeyboardInterrupt)) and call.is_cancelled():
            call.cancelled()
        elif isinstance(error, AsyncioActorExit):
            call.abandon()
            self._leave()
        elif call.fail(error):
            self._leave()

    def cancel(self) -> None:
        """Cancels the tasks of the calls that somebody wants stopped."""
        for identity in _core._take_cancelled():
            task = self.tasks.get(identity)
            if task is not None:
                task.cancel()
                continue
            for group in self.groups.values():
                for call in list(group.waiting):
                    if call.id == identity:
                        group.waiting.remove(call)
                        call.cancelled()

    def _look_for_exit(self) -> None:
        if _core._exiting() and not any(group.running for group in self.groups.values()):
            self._leave()
        elif not self.leaving:
            self.loop.call_later(0.05, self._look_for_exit)

    def _leave(self) -> None:
        self.leaving = True
        self.loop.stop()
