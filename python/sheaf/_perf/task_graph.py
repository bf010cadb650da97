"""Task graphs of Task Bench (Slaughter et al., SC'20) for Python engines, by the same rules as
perf/taskbench_graph.h. Loaded in a peer's interpreter: the standard library only.
"""

from __future__ import annotations

import time
from typing import Any, Callable

PATTERNS = ("trivial", "no_comm", "stencil_1d", "nearest", "spread", "fft", "tree", "random")


def make_step() -> tuple[Callable, Callable, Callable]:
    """(inputs, width_at, step). Nested, so that every engine pickles them by value."""
    radix = 5

    def mix(x: int) -> int:
        mask = (1 << 64) - 1
        x = (x + 0x9E3779B97F4A7C15) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    def width_at(pattern: str, width: int, t: int) -> int:
        return min(width, 1 << min(t, 62)) if pattern == "tree" else width

    def inputs(pattern: str, width: int, t: int, i: int) -> list[int]:
        """What point `i` of row `t` needs of row t-1, ascending."""
        if t == 0 or pattern == "trivial":
            return []
        if pattern == "no_comm":
            found = [i]
        elif pattern == "stencil_1d":
            found = [i - 1, i, i + 1]
        elif pattern == "tree":
            grows = width_at(pattern, width, t) > width_at(pattern, width, t - 1)
            found = [i // 2 if grows else i]
        elif pattern == "fft":
            levels = max(1, (width - 1).bit_length())
            distance = 1 << ((t - 1) % levels)
            found = [i - distance, i, i + distance]
        elif pattern == "nearest":
            found = [i + k for k in range(-(radix // 2), radix // 2 + 1)]
        elif pattern == "spread":
            found = [(i + k * width // radix + (t if k else 0)) % width for k in range(radix)]
        elif pattern == "random":
            found = [mix((mix((mix(t) + i) % 2**64) + k) % 2**64) % width for k in range(radix)]
        else:
            raise ValueError(f"unknown pattern {pattern!r}")
        return sorted({p for p in found if 0 <= p < width})

    def step(pattern: str, width: int, t: int, i: int, iterations: int, *given: Any) -> tuple:
        """One point: checks its inputs, computes, says who it is."""
        wanted = [(t - 1, p) for p in inputs(pattern, width, t, i)]
        if [value[:2] for value in given] != wanted:
            raise AssertionError(f"point {i} of row {t} got {given} instead of {wanted}")
        x = 0.5
        for _ in range(iterations):
            x = x * 0.999 + 0.0005
        return t, i, x

    return inputs, width_at, step


def calibrate(seconds: float) -> float:
    """Iterations per second of the kernel in this process alone."""
    _, _, step = make_step()
    batch = 2000
    done = 0
    began = time.perf_counter()
    while time.perf_counter() < began + seconds:
        step("trivial", 1, 0, 0, batch)
        done += batch
    return done / (time.perf_counter() - began)


def run(api: Any, pattern: str, width: int, steps: int, iterations: int) -> dict:
    """Unfolds the graph; {"seconds", "tasks"}. Raises what a task raised; {"skipped"} when the engine
    takes no references as arguments and the graph needs them.
    """
    inputs, width_at, step = make_step()
    if pattern != "trivial" and "refs" not in api.FEATURES:
        return {"skipped": True}
    remote = getattr(api, "_sheaf_perf_step", None)
    if remote is None:
        remote = api._sheaf_perf_step = api.remote(step)
    rows: list[list[Any]] = []
    began = time.perf_counter()
    for t in range(steps):
        row = []
        for i in range(width_at(pattern, width, t)):
            needed = [rows[t - 1][p] for p in inputs(pattern, width, t, i)]
            row.append(remote.remote(pattern, width, t, i, iterations, *needed))
        rows.append(row)
    values = api.get([ref for row in rows for ref in row])
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "tasks": len(values)}
