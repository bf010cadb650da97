"""Progress bars of tasks and actors, shown by the driver as lines of their output.

Example::

    from sheaf.experimental.tqdm_ray import tqdm

    @sheaf.remote
    def work(name):
        for item in tqdm(range(100), desc=name):
            ...
"""

from __future__ import annotations

import sys
import time

__all__ = ["safe_print", "tqdm"]

_WIDTH = 20


def safe_print(*args, **kwargs) -> None:
    """`print`: bars are lines of their own here, so nothing has to be cleared."""
    print(*args, **kwargs)


class tqdm:
    """A bar that writes its state to stderr at most every ``flush_interval_s`` seconds.

    Args:
        iterable: what to go through; without it, call `update`.
        desc: what the line begins with.
        total: number of steps; default ``len(iterable)`` where it has one.
        unit: what is counted.
        position: accepted; every line stands alone.
    """

    def __init__(
        self,
        iterable=None,
        desc: str | None = None,
        total: int | None = None,
        unit: str | None = None,
        position: int | None = None,
        flush_interval_s: float | None = None,
    ):
        self._iterable = iterable
        self._desc = desc or ""
        self._unit = unit or "it"
        self._interval_s = 1.0 if flush_interval_s is None else flush_interval_s
        if total is None and hasattr(iterable, "__len__"):
            total = len(iterable)
        self.total = total
        self.n = 0
        self._begin = self._shown_at = time.monotonic()
        self._closed = False

    def set_description(self, desc: str) -> None:
        """Changes what the line begins with."""
        self._desc = desc
        self._show(False)

    def update(self, n: int = 1) -> None:
        """``n`` further steps are done."""
        self.n += n
        self._show(False)

    def refresh(self) -> None:
        """Writes the line now."""
        self._show(True)

    def close(self) -> None:
        """Writes the last line."""
        if not self._closed:
            self._show(True)
            self._closed = True

    def __iter__(self):
        if self._iterable is None:
            raise ValueError("This bar has no iterable: call update().")
        for item in self._iterable:
            yield item
            self.update(1)
        self.close()

    def __enter__(self) -> "tqdm":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _show(self, is_due: bool) -> None:
        now = time.monotonic()
        if self._closed or not (is_due or now - self._shown_at >= self._interval_s):
            return
        self._shown_at = now
        rate = self.n / max(now - self._begin, 1e-9)
        if self.total:
            done = min(1.0, self.n / self.total)
            bar = ("#" * round(done * _WIDTH)).ljust(_WIDTH)
            text = f"{done:4.0%}|{bar}| {self.n}/{self.total}"
        else:
            text = f"{self.n} {self._unit}"
        head = f"{self._desc}: " if self._desc else ""
        print(f"{head}{text} [{now - self._begin:.1f}s, {rate:.1f}{self._unit}/s]", file=sys.stderr)
