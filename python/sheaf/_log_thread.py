"""The one Python thread that takes log lines of workers from the engine and shows them."""

from __future__ import annotations

import threading

from . import _core

_handler = None
_thread: threading.Thread | None = None


def set_handler(handler) -> None:
    """From now on ``handler(pid, is_stderr, name, text)`` gets each line; None: the engine prints them itself."""
    global _handler, _thread
    _handler = handler
    _core._want_log_lines(handler is not None)
    if handler is not None and (_thread is None or not _thread.is_alive()):
        _thread = threading.Thread(target=_main, name="sheaf-log", daemon=True)
        _thread.start()


def _main() -> None:
    while _handler is not None:
        for line in _core._take_log_lines():
            handler = _handler
            if handler is None:
                return
            try:
                handler(*line)
            except Exception:
                pass
