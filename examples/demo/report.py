"""What the demo prints: progress as it goes, then a table of what each part took and whether it was right."""
from __future__ import annotations

import sys
import time


class Report:
    """Collects the rows of the closing summary. Times are seconds of wall clock."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, float, float | None, str]] = []
        self._failures: list[str] = []
        self._skipped: list[str] = []
        self._started = time.perf_counter()
        self._objects = ""

    def step(self, text: str) -> None:
        elapsed = time.perf_counter() - self._started
        print(f"[{elapsed:6.2f} s] {text}", flush=True)

    def progress(self, what: str, done: int, total: int) -> None:
        """Redraws one line on a terminal; prints nothing elsewhere."""
        if sys.stdout.isatty():
            end = "\n" if done == total else ""
            print(f"\r           {what}: {done}/{total}", end=end, flush=True)

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            self._failures.append(what)
            print(f"           WRONG: {what}", flush=True)

    def skip(self, what: str, why: str) -> None:
        self._skipped.append(f"{what}: {why}")

    def add(self, name: str, seconds: float, serial_seconds: float | None, note: str) -> None:
        self._rows.append((name, seconds, serial_seconds, note))

    def objects(self) -> None:
        """Asks the engine where the objects of the run are now."""
        from sheaf.util.state import list_objects

        entries = list_objects(limit=10_000)
        total = sum(int(e.get("size_bytes") or e.get("object_size") or e.get("size") or 0) for e in entries)
        self._objects = f"{len(entries)} objects known to the node's store, {total / 1e6:.1f} MB in its arena"

    def close(self) -> int:
        print(f"\n{'part':<26} {'took':>10} {'serial':>10} {'ratio':>7}   what happened")
        for name, seconds, serial, note in self._rows:
            serial_text = f"{serial:8.2f} s" if serial is not None else "-"
            ratio = f"{serial / seconds:6.2f}x" if serial is not None and seconds > 0 else "-"
            print(f"{name:<26} {seconds * 1000:7.0f} ms {serial_text:>10} {ratio:>7}   {note}")
        if self._objects:
            print(f"\nWhere the objects were: {self._objects}.")
        for line in self._skipped:
            print(f"Left out: {line}")
        print("Every result equals its serial run." if not self._failures
              else "WRONG RESULTS: " + "; ".join(self._failures))
        return 1 if self._failures else 0
