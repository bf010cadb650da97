"""Output of workers on the driver's terminal: prefixed, coloured on a terminal, floods of equal
lines folded.

Lines that many workers print alike are shown once; how often they came again is told every few
seconds. Set SHEAF_DEDUP_LOGS=0 (or RAY_DEDUP_LOGS=0) to see each of them, SHEAF_COLOR=0 for no
colours.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time

WINDOW_S = 5.0
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|\d+")
_RED, _CYAN, _RESET = "\033[31m", "\033[36m", "\033[0m"
_MAX_PATTERNS = 1000


class LogPrinter:
    """Writes lines of workers to this process's stdout and stderr. Thread-safe.

    The first line of its kind is printed at once. Equal lines (numbers aside) of *other* processes
    within `WINDOW_S` seconds are counted, and reported when the window ends or at `flush`.
    """

    def __init__(
        self,
        out=None,
        err=None,
        fold: bool = True,
        colour: bool | None = None,
        clock=time.monotonic,
    ):
        self._out, self._err = out, err
        self._fold = fold
        self._colour = colour
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[
            str, list
        ] = {}  # pattern -> [first pid, time, repeats, last prefix and text, is_stderr]

    def __call__(self, pid: int, is_stderr: bool, name: str, text: str) -> None:
        """Takes one or more whole lines that process ``pid`` printed while it ran ``name``."""
        with self._lock:
            self._expire(self._clock())
            for line in text.split("\n") if text else [""]:
                self._take(pid, is_stderr, name, line)

    def expire(self) -> None:
        """Reports folded lines whose time is over."""
        with self._lock:
            self._expire(self._clock())

    def flush(self) -> None:
        """Reports what is still folded."""
        with self._lock:
            self._expire(float("inf"))

    def _take(self, pid, is_stderr, name, line) -> None:
        if self._fold and line.strip():
            pattern = _NUMBER.sub("#", line)
            known = self._seen.get(pattern)
            if known is not None and known[0] != pid:
                known[2] += 1
                known[3] = (pid, name, line)
                return
            if known is None:
                if len(self._seen) >= _MAX_PATTERNS:
                    self._expire(float("inf"))
                self._seen[pattern] = [pid, self._clock(), 0, None, is_stderr]
        self._print(pid, is_stderr, name, line)

    def _expire(self, now: float) -> None:
        ended = [pattern for pattern, entry in self._seen.items() if now - entry[1] >= WINDOW_S]
        for pattern in ended:
            _, _, repeats, last, is_stderr = self._seen.pop(pattern)
            if repeats:
                pid, name, line = last
                self._print(pid, is_stderr, name, f"{line} [repeated {repeats}x across workers]")

    def _print(self, pid, is_stderr, name, line) -> None:
        stream = (self._err or sys.stderr) if is_stderr else (self._out or sys.stdout)
        prefix = f"({name} pid={pid})" if name else f"(pid={pid})"
        if self._coloured(stream):
            prefix = (_RED if is_stderr else _CYAN) + prefix + _RESET
        try:
            stream.write(f"{prefix} {line}\n")
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed, or no such stream
            pass

    def _coloured(self, stream) -> bool:
        if self._colour is not None:
            return self._colour
        try:
            return stream.isatty()
        except (AttributeError, ValueError):
            return False


_printer: LogPrinter | None = None
_reader: threading.Thread | None = None


def start() -> None:
    """From now on lines of this job's workers are shown here."""
    global _printer, _reader
    from . import _core

    fold = "0" not in (os.environ.get("SHEAF_DEDUP_LOGS"), os.environ.get("RAY_DEDUP_LOGS"))
    setting = os.environ.get("SHEAF_COLOR", os.environ.get("RAY_COLOR_PREFIX", ""))
    _printer = LogPrinter(fold=fold, colour={"0": False, "1": True}.get(setting))
    _core._want_log_lines(True)
    _reader = threading.Thread(target=_read, args=(_printer,), name="sheaf-logs", daemon=True)
    _reader.start()


def _read(printer: LogPrinter) -> None:
    from . import _core

    while _printer is printer:
        lines = _core._take_log_lines()
        for line in lines:
            printer(*line)
        if not lines:
            printer.expire()


def stop() -> None:
    """Shows what has arrived, reports what is still folded, and shows no more."""
    global _printer, _reader
    printer, _printer = _printer, None
    reader, _reader = _reader, None
    if printer is None:
        return
    from . import _core

    _core._want_log_lines(False)
    if reader is not threading.current_thread():
        reader.join(2.0)
    for line in _core._take_log_lines():
        printer(*line)
    printer.flush()
