"""The selector of an async actor's event loop: it waits for the engine's messages and for the
loop's own descriptors at once.

The engine's doorbell is one more descriptor of the epoll set. Before the loop sleeps, its thread
takes what lies in the process's lanes and spins for about the cost of a wake: a call that arrives
meanwhile costs no wake at all, one that arrives later costs one.
"""

from __future__ import annotations

import selectors

from . import _core


class LeadingSelector(selectors.EpollSelector):
    """Owned by the loop's thread, which from here on drives the engine whenever it is idle."""

    def __init__(self):
        super().__init__()
        self._calls_key = None  # its reader takes the calls at hand

    def lead(self, calls_fd: int) -> None:
        """Begins: ``calls_fd``, which has a reader, is reported readable whenever calls are at
        hand.
        """
        # A wake may be late and come with any look: to the loop it is a descriptor whose reader and
        # writer have both been removed.
        self.register(_core._loop_fd(), selectors.EVENT_READ, (None, None))
        self._calls_key = self.get_key(calls_fd)

    def select(self, timeout=None):
        """As of any selector."""
        if self._calls_key is None:
            return super().select(timeout)
        if timeout is not None and timeout <= 0:
            calls = _core._loop_woke()
            events = super().select(0)
            return self._with_calls(events) if calls else events
        if not _core._loop_sleep(True):
            return self._with_calls(super().select(0))
        try:
            events = super().select(timeout)
        finally:
            calls = _core._loop_woke()
        return self._with_calls(events) if calls else events

    def _with_calls(self, events):
        if all(key is not self._calls_key for key, _ in events):
            events.append((self._calls_key, selectors.EVENT_READ))
        return events


def new_event_loop():
    """An event loop that can lead, or the policy's own kind where the user has installed one."""
    import asyncio

    loop = asyncio.new_event_loop()
    if type(loop) is not asyncio.SelectorEventLoop:
        return loop
    loop.close()
    return asyncio.SelectorEventLoop(LeadingSelector())
