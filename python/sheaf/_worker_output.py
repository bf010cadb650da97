"""Standard output of a worker: whole lines, and before them the name of the task or actor that
prints.

The node daemon takes a line that starts with the marker for the name of the lines that follow
(launchers/log_router.h).
"""

from __future__ import annotations

import io
import sys

from . import _core

_MARKER = "\x1e"


def _current_name() -> str:
    try:
        task = _core.current_task()
    except Exception:
        return ""
    if not task:
        return ""
    return task.get("class_name") or task.get("name") or ""


class NamedStream(io.TextIOWrapper):
    """A text stream on a descriptor that says who writes when that changes."""

    _name = ""
    _at_line_start = True

    def write(self, text):
        """As of any text stream."""
        if self._at_line_start and text:
            name = _current_name()
            if name != self._name:
                self._name = name
                super().write(f"{_MARKER}{name}\n")
        if text:
            self._at_line_start = text.endswith("\n")
        return super().write(text)


def install() -> None:
    """Replaces ``sys.stdout`` and ``sys.stderr`` of this worker."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        try:
            old.flush()
        except (AttributeError, ValueError, OSError):
            pass
        raw = io.FileIO(descriptor, "w", closefd=False)
        buffered = io.BufferedWriter(raw, 64 * 1024)
        stream = NamedStream(
            buffered, encoding="utf-8", errors="backslashreplace", line_buffering=True
        )
        stream.mode = "w"
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
