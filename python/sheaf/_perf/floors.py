"""What this machine allows at best, measured in the same run as the lines that it bounds. All times in seconds."""
from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import subprocess
import sys
import time
from typing import Callable


def _best(work: Callable[[], object], repeats: int = 5) -> float:
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def memcpy_gigabytes() -> float:
    """Warm libc memcpy of 256 MB, GB/s."""
    size = 256 << 20
    source = ctypes.create_string_buffer(size)
    target = ctypes.create_string_buffer(size)
    ctypes.memset(source, 1, size)
    ctypes.memset(target, 1, size)
    return size / _best(lambda: ctypes.memmove(target, source, size)) / 1e9


def first_touch_gigabytes() -> float:
    """Writing 256 MB of shared memory whose pages are new, GB/s: what the first large puts pay."""
    size = 256 << 20
    fd = os.memfd_create("sheaf-floor")
    try:
        os.ftruncate(fd, size)
        with mmap.mmap(fd, size) as memory:
            target = (ctypes.c_char * size).from_buffer(memory)
            started = time.perf_counter()
            ctypes.memset(target, 1, size)
            seconds = time.perf_counter() - started
            del target
    finally:
        os.close(fd)
    return size / seconds / 1e9


def pickle_round_trip() -> float:
    """dumps + loads of a small argument tuple."""
    value = ((1, "abc", b"xyz"), {})
    n = 20_000

    def work() -> None:
        for _ in range(n):
            pickle.loads(pickle.dumps(value, 5))

    return _best(work) / n


def pipe_wake() -> float:
    """One way between two processes that sleep in read(): half of a round trip over two pipes."""
    down_read, down_write = os.pipe()
    up_read, up_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(down_write)
        while os.read(down_read, 1):
            os.write(up_write, b"x")
        os._exit(0)
    os.close(down_read)
    n = 2000

    def work() -> None:
        for _ in range(n):
            os.write(down_write, b"x")
            os.read(up_read, 1)

    best = _best(work, 3) / n / 2
    os.close(down_write)
    os.waitpid(pid, 0)
    os.close(up_read)
    os.close(up_write)
    return best


def fork_process() -> float:
    """fork and wait for a child that exits at once."""

    def work() -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    return _best(work, 10)


def python_start() -> float:
    """An interpreter that does nothing."""
    return _best(lambda: subprocess.run([sys.executable, "-S", "-c", "pass"], check=True), 3)


def measure() -> dict[str, tuple[float, str]]:
    """name -> (value, unit)."""
    return {
        "memcpy, warm": (memcpy_gigabytes(), "GB/s"),
        "first touch of memory": (first_touch_gigabytes(), "GB/s"),
        "pickle round trip": (pickle_round_trip() * 1e6, "us"),
        "pipe wake, one way": (pipe_wake() * 1e6, "us"),
        "fork and wait": (fork_process() * 1e3, "ms"),
        "Python start": (python_start() * 1e3, "ms"),
    }
