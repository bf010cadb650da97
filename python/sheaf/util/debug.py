"""Saying things once."""

from __future__ import annotations

import threading
import time

_lock = threading.Lock()
_said: dict[str, float] = {}
_period_s: float | None = None
_disabled = False


def log_once(key: str) -> bool:
    """True at the first call with ``key`` in this process (once a minute after
    `enable_periodic_logging`).

    Example::

        if log_once("slow path"):
            print("the slow path is in use")
    """
    if _disabled:
        return False
    now = time.monotonic()
    with _lock:
        last = _said.get(key)
        if last is not None and (_period_s is None or now - last < _period_s):
            return False
        _said[key] = now
        return True


def disable_log_once_globally() -> None:
    """From now on `log_once` is always False in this process."""
    global _disabled
    _disabled = True


def enable_periodic_logging(period_s: float = 60.0) -> None:
    """From now on `log_once` is True again for a key after ``period_s`` seconds."""
    global _period_s, _disabled
    _period_s = period_s
    _disabled = False
