"""Keeps actors alive while handles to them are on their way.

A receiver takes its own count on the actor when it unpickles the handle, which may be long after the sender's last
handle is gone. So the sender keeps a count, and sends a small object's reference along with the handle: the engine
follows references through calls, results and stored values. Once nobody but this process refers to that token, no
handle is on its way, and the count is given back.
"""

from __future__ import annotations

import threading

from . import _core
from ._state import state

LOOK_EACH_S = 1.0
_LOOKS_PER_ROUND = 50

_lock = threading.Lock()
_kept: dict[bytes, tuple] = {}  # actor -> (generation, its hold, token)
_wake = threading.Event()
_thread: threading.Thread | None = None


def token_for(hold):
    """A new reference to the actor's token, to be pickled beside the handle; ``hold`` is kept meanwhile."""
    with _lock:
        kept = _kept.get(hold.binary)
        if kept is None or kept[0] != state.generation:
            kept = (state.generation, hold.another(), _core.put(None))
            _kept[hold.binary] = kept
        # A reference of its own: between here and the pickler's taking it, the token must not look unused.
        token = _core.ObjectRef.from_binary(kept[2].binary())
    _ensure_thread()
    return token


def _ensure_thread() -> None:
    global _thread
    if _thread is None or not _thread.is_alive():
        _thread = threading.Thread(target=_look_forever, name="sheaf-handles", daemon=True)
        _thread.start()
    _wake.set()


def _look_forever() -> None:
    import time

    while _wake.wait():
        time.sleep(LOOK_EACH_S)
        try:
            look()
        except Exception:  # the connection is ending
            pass
        with _lock:
            if not _kept:
                _wake.clear()


def look() -> None:
    """Gives back the counts on actors whose handles have all arrived or are gone."""
    with _lock:
        for binary, (generation, _, _) in list(_kept.items()):
            if generation != state.generation:
                del _kept[binary]
        unused = [(b, kept[2]) for b, kept in _kept.items() if _core._count(kept[2]) == 1]
    for binary, token in unused[:_LOOKS_PER_ROUND]:
        if _is_held_elsewhere(token):
            continue
        with _lock:
            kept = _kept.get(binary)
            if kept is not None and kept[2] is token and _core._count(token) == 1:
                del _kept[binary]


def _is_held_elsewhere(token) -> bool:
    from ._api import query

    rows, _ = query("objects", {"object_id": token.hex()}, 1)
    own = state.session.get("process")
    return any(
        row["containers"] or any(holder["process"] != own for holder in row["holders"])
        for row in rows
    )
