"""What is measured on a cluster of its own, from its start to its end. Each returns {figure: value}."""

from __future__ import annotations

import importlib
import os
import tempfile
import time
from typing import Any

lines, peer_apis = map(importlib.import_module, ("lines", "peer_apis"))

QUEUE_MAX = 1_000_000
ARRAY_BYTES = 100 << 20
FIRST_PUTS_SECONDS = 1.0
IDLE_SECONDS = 1.0


def cluster_processes() -> list[int]:
    """Processes of this life other than this one: they carry its mark in their environment."""
    mark = f"SHEAF_BENCH_MARK={os.environ['SHEAF_BENCH_MARK']}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                if mark in file.read().split(b"\0"):
                    found.append(int(entry))
        except OSError:
            continue
    return found


def memory_bytes(pid: int) -> int:
    """Proportional set size: shared pages count by their share."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            for text in file:
                if text.startswith("Pss:"):
                    return 1024 * int(text.split()[1])
    except OSError:
        pass
    return 0


def live(api: Any, kind: str, options: dict) -> dict[str, float]:
    """Runs one life. Raises what the engine raises."""
    return {"start": start, "first_puts": first_puts, "workers": workers, "queue": queue}[kind](
        api, options
    )


def start(api: Any, options: dict) -> dict[str, float]:
    """Start, the memory of an idle cluster, shutdown."""
    began = time.perf_counter()
    peer_apis.start(api)
    api.get(lines.definitions(api)["small_value"].remote())
    ready = time.perf_counter() - began
    time.sleep(IDLE_SECONDS)
    others = cluster_processes()
    held = sum(map(memory_bytes, others))
    began = time.perf_counter()
    api.shutdown()
    return {
        "init() to first result": 1e3 * ready,
        "idle cluster, memory": held / 1e6,
        "idle cluster, processes": len(others),
        "shutdown()": 1e3 * (time.perf_counter() - began),
    }


def first_puts(api: Any, options: dict) -> dict[str, float]:
    """Large arrays from the moment init() returns, for one second; and the machine's warm memcpy."""
    import numpy as np

    array = np.ones(ARRAY_BYTES // 8)
    target = np.ones(ARRAY_BYTES // 8)
    peer_apis.start(api)
    began = time.perf_counter()
    n = 0
    while time.perf_counter() < began + FIRST_PUTS_SECONDS:
        api.put(array)
        n += 1
    rate = n * ARRAY_BYTES / (time.perf_counter() - began) / 1e9
    copies = []
    for _ in range(10):
        began = time.perf_counter()
        np.copyto(target, array)
        copies.append(time.perf_counter() - began)
    api.shutdown()
    return {
        "put of 100 MB arrays, first second": rate,
        "floor: memcpy of 100 MB, warm": ARRAY_BYTES / sorted(copies)[5] / 1e9,
    }


def workers(api: Any, options: dict) -> dict[str, float]:
    """Processes that take a task each, at once, on a cluster that has none for them yet."""
    n = options["workers"]
    with tempfile.NamedTemporaryFile() as file:
        peer_apis.start(api, n)
        api.get(lines.definitions(api)["small_value"].remote())
        hold = lines.definitions(api)["hold"]
        began = time.time()
        refs = [hold.remote(file.name) for _ in range(n)]
        time.sleep(options["hold_seconds"])
    answers = api.get(refs)
    api.shutdown()
    started = sorted(answers)
    if len({pid for _, pid in answers}) < n:
        return {}   # it had fewer processes than asked for in time
    return {"new workers": n / (started[-1][0] - began)}


def queue(api: Any, options: dict) -> dict[str, float]:
    """Tasks that wait because every CPU is held: how fast they go in, what each costs, how fast they
    come out. At most QUEUE_MAX, or as many as go in in `seconds`.
    """
    peer_apis.start(api)
    small = lines.definitions(api)["small_value"]
    hold = lines.definitions(api)["hold"]
    api.get([small.remote() for _ in range(1000)])
    with tempfile.NamedTemporaryFile() as file:
        held = [hold.remote(file.name) for _ in range(peer_apis.WORKERS)]
        time.sleep(0.5)
        refs: list[Any] = []
        everybody = [os.getpid(), *cluster_processes()]
        before = sum(map(memory_bytes, everybody))
        began = time.perf_counter()
        while len(refs) < QUEUE_MAX and time.perf_counter() < began + options["seconds"]:
            refs.extend([small.remote() for _ in range(1000)])
        went_in = time.perf_counter() - began
        time.sleep(0.2)
        cost = sum(map(memory_bytes, everybody)) - before
    began = time.perf_counter()
    api.get(held)
    api.get(refs)
    came_out = time.perf_counter() - began
    n = len(refs)
    api.shutdown()
    return {
        "queued tasks": n,
        "queued tasks, in": n / went_in,
        "queued task, bytes": cost / n,
        "queued tasks, out": n / came_out,
    }
