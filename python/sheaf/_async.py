"""References in event loops: completion notices of the engine, handed to asyncio and concurrent futures.

The engine has one descriptor that becomes readable when a reference that somebody waits for is ready. Each event loop
watches it; plain concurrent futures are served by a thread of their own. Whoever reads it delivers for all.
"""

from __future__ import annotations

import asyncio
import threading
import weakref

from . import _core
from ._state import state

_lock = threading.Lock()
_waiters: dict[int, list] = {}  # key of the engine -> [(loop or None, future, reference)]
_connection = (-1, -1)  # generation and descriptor of the one that the waiters belong to
_watching: "weakref.WeakKeyDictionary" = weakref.WeakKeyDictionary()  # loop -> what it watches
_thread: threading.Thread | None = None
_thread_serves = _connection


def future_for(ref) -> asyncio.Future:
    """An asyncio future of the reference's value, in the running loop, else the thread's own."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.wrap_future(concurrent_future(ref), loop=asyncio.get_event_loop())
    _watch(loop)
    future = loop.create_future()
    _register(ref, loop, future)
    return future


def concurrent_future(ref):
    """A `concurrent.futures.Future` of the reference's value; cancelling it does not cancel the task."""
    from concurrent.futures import Future

    future = Future()
    future.object_ref = ref
    future.set_running_or_notify_cancel()
    _ensure_thread()
    _register(ref, None, future)
    return future


async def next_ref(generator):
    """The next reference of a generator; StopAsyncIteration at its end."""
    loop = asyncio.get_running_loop()
    while not generator.next_ready():
        _watch(loop)
        arrived = loop.create_future()
        _register(generator, loop, arrived)
        if generator.next_ready():  # it came between the look and the registration
            break
        await arrived
    try:
        return next(generator)
    except StopIteration:
        raise StopAsyncIteration from None


def _register(ref, loop, future) -> None:
    with _lock:
        key = _core._notify(ref)
        _waiters.setdefault(key, []).append((loop, future, ref))


def _present_connection() -> tuple[int, int]:
    """The connection of this moment; what was waited for in an earlier one is forgotten. A
    descriptor's number may be the earlier one's again.
    """
    global _connection
    now = (state.generation, _core._ready_fd())
    with _lock:
        if now != _connection:
            _connection = now
            _waiters.clear()
    return now


def _watch(loop) -> None:
    now = _present_connection()
    if _watching.get(loop) != now:
        _watching[loop] = now
        loop.add_reader(now[1], _deliver, loop)


def forget_connection() -> None:
    """Before the descriptor is closed: no loop watches it any more."""
    watched = list(_watching.items())
    _watching.clear()
    for loop, (_, fd) in watched:
        try:
            if loop.is_running():
                loop.call_soon_threadsafe(loop.remove_reader, fd)
            else:
                loop.remove_reader(fd)
        except RuntimeError:  # it is closed
            pass


def _deliver(here) -> None:
    """Completes the futures of what has become ready; ``here`` is the loop that runs this, or None."""
    try:
        keys = _core._take_ready()
    except RuntimeError:  # disconnected
        return
    for key in keys:
        with _lock:
            waiting = _waiters.pop(key, ())
        for loop, future, ref in waiting:
            if loop is None or loop is here:
                _complete(future, ref)
            else:
                try:
                    loop.call_soon_threadsafe(_complete, future, ref)
                except RuntimeError:  # that loop is closed: nobody waits any more
                    pass


def _complete(future, ref) -> None:
    if future.done():
        return
    if type(ref) is not _core.ObjectRef:
        future.set_result(None)
        return
    try:
        value = _core.get(ref)
    except BaseException as error:
        if isinstance(error, StopIteration):  # futures refuse it
            error = RuntimeError(f"the task raised {error!r}")
        future.set_exception(error)
    else:
        future.set_result(value)


def _ensure_thread() -> None:
    global _thread, _thread_serves
    now = _present_connection()
    with _lock:
        if _thread is not None and _thread.is_alive() and _thread_serves == now:
            return
        _thread_serves = now
        _thread = threading.Thread(target=_thread_main, args=now, name="sheaf-completions", daemon=True)
        _thread.start()


def _thread_main(generation: int, fd: int) -> None:
    import select

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while state.generation == generation and _core.is_connected():
        if poll.poll(500) and state.generation == generation:
            _deliver(None)
