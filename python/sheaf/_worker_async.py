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
        self.tasks: dict = {}  # asyncio.Task by call: those that have begun and wait
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
        """Starts the calls that have arrived, as far as their groups' limits allow."""
        calls, more = _core._take_calls()
        groups = self.groups
        default = groups[""]
        starting = []
        for call in calls:
            group = groups.get(call.group, default)
            if group.running >= group.limit or group.waiting:
                group.waiting.append(call)
            else:
                group.running += 1
                starting.append((call, group))
        self._start_eagerly(starting)
        if more:
            self.loop.call_soon(self.take)
        if _core._exiting():
            self._look_for_exit()

    def _start_eagerly(self, starting: list) -> None:
        """Runs each call up to its first wait, which saves the loop a round. From outside of any
        task.
        """
        if _EAGER:
            for call, group in starting:
                task = asyncio.Task(self.run(call, group), loop=self.loop, eager_start=True)
                if not task.done():
                    self.tasks[call] = task
            return
        # Before Python 3.12 a task asks the loop for its first step, with call_soon.
        steps = []
        loop = self.loop

        def first_step(step, context):
            steps.append((step, context))

        try:
            loop.call_soon = first_step
        except AttributeError:  # not a loop of the standard library
            for call, group in starting:
                self.tasks[call] = loop.create_task(self.run(call, group))
            return
        try:
            tasks = [asyncio.Task(self.run(call, group), loop=loop) for call, group in starting]
        finally:
            del loop.call_soon
        for (call, _), task, (step, context) in zip(starting, tasks, steps):
            context.run(step)
            if not task.done():
                self.tasks[call] = task

    def _start_waiting(self, group: _Group) -> None:
        starting = []
        while group.waiting and group.running < group.limit and not self.leaving:
            group.running += 1
            starting.append((group.waiting.popleft(), group))
        self._start_eagerly(starting)

    async def run(self, call, group: _Group) -> None:
        """One call, from its arguments to its answer."""
        self.variable.set(call)
        try:
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
            self.tasks.pop(call, None)
            group.running -= 1
            if group.waiting:
                self.loop.call_soon(self._start_waiting, group)

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
        wanted = set(_core._take_cancelled())
        for call in [call for call in self.tasks if call.id in wanted]:
            self.tasks[call].cancel()
        for group in self.groups.values():
            for call in [call for call in group.waiting if call.id in wanted]:
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
