"""The event loops of an async actor: its calls become asyncio tasks, within the limits of their
concurrency groups. The default group's loop runs in the main thread, each other group's in a thread
of its own, so that a call that blocks its loop blocks no other group.
"""

from __future__ import annotations

import asyncio
import collections
import sys
import threading
import types

from . import _core
from ._loop_selector import LeadingSelector

_EAGER = sys.version_info >= (3, 12)


class GroupServer:
    """One concurrency group. Owned by its loop's thread, but for `arrived`."""

    def __init__(self, actor: "AsyncActor", loop, limit: int):
        self.actor = actor
        self.loop = loop
        self.limit = max(1, limit)
        self.running = 0
        self.waiting = collections.deque()
        self.arrived = collections.deque()  # given by other loops' threads, in order
        self.tasks: dict = {}  # asyncio.Task by call: those that have begun and wait

    def watch(self) -> int:
        """Takes the actor's calls, and wishes to cancel some, in this loop; gives the descriptor
        that tells of calls.
        """
        calls_fd = _core._task_fd()
        self.loop.add_reader(calls_fd, self.actor.take, self)
        self.loop.add_reader(_core._cancel_fd(), self.actor.cancel)
        return calls_fd

    def start(self, calls: list) -> None:
        """Begins calls, in their order, as far as the limit allows."""
        if self.waiting or self.running + len(calls) > self.limit:
            self.waiting.extend(calls)
            self.start_waiting()
        else:
            self.running += len(calls)
            self._start_eagerly(calls)

    def start_arrived(self) -> None:
        """Begins what other threads have handed over."""
        calls = []
        while self.arrived:
            calls.append(self.arrived.popleft())
        self.start(calls)

    def start_waiting(self) -> None:
        """Begins what the limit held back."""
        starting = []
        while self.waiting and self.running < self.limit and not self.actor.leaving:
            self.running += 1
            starting.append(self.waiting.popleft())
        self._start_eagerly(starting)

    def _start_eagerly(self, starting: list) -> None:
        """Runs each call up to its first wait, which saves the loop a round. From outside of any
        task.
        """
        loop = self.loop
        if _EAGER:
            for call in starting:
                task = asyncio.Task(self.run(call), loop=loop, eager_start=True)
                if not task.done():
                    self.tasks[call] = task
            return
        # Before Python 3.12 a task asks the loop for its first step, with call_soon.
        steps = []

        def first_step(step, context):
            steps.append((step, context))

        try:
            loop.call_soon = first_step
        except AttributeError:  # not a loop of the standard library
            for call in starting:
                self.tasks[call] = loop.create_task(self.run(call))
            return
        try:
            tasks = [asyncio.Task(self.run(call), loop=loop) for call in starting]
        finally:
            del loop.call_soon
        for call, task, (step, context) in zip(starting, tasks, steps):
            context.run(step)
            if not task.done():
                self.tasks[call] = task

    async def run(self, call) -> None:
        """One call, from its arguments to its answer."""
        self.actor.variable.set(call)
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
            self.running -= 1
            if self.waiting:
                self.loop.call_soon(self.start_waiting)

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
            self.actor.leave()
        elif call.fail(error):
            self.actor.leave()

    def cancel(self, wanted: set) -> None:
        """Cancels the calls with these ids."""
        for call in [call for call in self.tasks if call.id in wanted]:
            self.tasks[call].cancel()
        for call in [call for call in self.waiting if call.id in wanted]:
            self.waiting.remove(call)
            call.cancelled()


class AsyncActor:
    """The groups of one actor, the default one first; `serve` runs in the main thread until the
    actor ends.
    """

    def __init__(self, loop, max_concurrency: int, groups: dict[str, int]):
        self.loop = loop
        self.variable = _core._async_variable()
        self.default = GroupServer(self, loop, max_concurrency)
        self.groups = {"": self.default}
        for name, limit in groups.items():
            self.groups[name] = GroupServer(self, asyncio.new_event_loop(), limit)
        self.taking = threading.Lock()
        self.leaving = False

    def serve(self) -> None:
        """Serves calls until the worker shall leave and running calls have ended."""
        for name, group in self.groups.items():
            if group is not self.default:
                threading.Thread(
                    target=self._serve_group, args=(group,), name=f"sheaf-async-{name}", daemon=True
                ).start()
        loop = self.loop
        calls_fd = self.default.watch()
        selector = getattr(loop, "_selector", None)
        # A loop that leads tells nobody of the calls that it takes off the lanes. So it must be
        # the only one: while it is blocked the others would not hear of theirs.
        if len(self.groups) == 1 and isinstance(selector, LeadingSelector):
            selector.lead(calls_fd)
        loop.call_soon(self.take, self.default)
        loop.call_soon(self._look_for_exit)
        loop.run_forever()

    def _serve_group(self, group: GroupServer) -> None:
        asyncio.set_event_loop(group.loop)
        group.watch()
        group.loop.run_forever()

    def take(self, here: GroupServer) -> None:
        """Begins the calls that have arrived; those of other groups in their loops. Any loop may do
        this, as another may be blocked.
        """
        if len(self.groups) == 1:
            calls, more = _core._take_calls()
            here.start(calls)
        else:
            with self.taking:  # taken and handed over as one step, which keeps their order
                more = self._hand_over(here)
            here.start_arrived()
        if more:
            here.loop.call_soon(self.take, here)

    def _hand_over(self, here: GroupServer) -> bool:
        calls, more = _core._take_calls()
        to_tell = set()
        for call in calls:
            group = self.groups.get(call.group, self.default)
            group.arrived.append(call)
            to_tell.add(group)
        for group in to_tell - {here}:  # not before: a loop looks at once, and once only
            group.loop.call_soon_threadsafe(group.start_arrived)
        return more

    def cancel(self) -> None:
        """Cancels the calls that somebody wants stopped."""
        wanted = set(_core._take_cancelled())
        for group in self.groups.values():
            group.loop.call_soon_threadsafe(group.cancel, wanted)

    def leave(self) -> None:
        """Ends `serve`."""
        self.leaving = True
        self.loop.call_soon_threadsafe(self.loop.stop)

    def _look_for_exit(self) -> None:
        if self.leaving:
            return
        if _core._exiting() and not any(g.running or g.arrived for g in self.groups.values()):
            self.leave()
        else:
            self.loop.call_later(0.05, self._look_for_exit)
