"""What a figure needs beside it to be believed: the machine, versions and command."""

from __future__ import annotations

import datetime
import os
import platform
import sys


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for text in file:
                if text.startswith("model name"):
                    return text.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


def _memory_gigabytes() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def describe() -> dict:
    """JSON about this machine and run."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(_memory_gigabytes(), 1),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": ["sheaf", *_arguments()],
    }


def _arguments() -> list[str]:
    return sys.argv[1:] if os.path.basename(sys.argv[0]) != "-c" else []


def title(about: dict) -> str:
    """One line for the head of a table."""
    return (
        f"{about['cpu']}, {about['cores']} cores, {about['memory_gb']:.0f} GB, Linux "
        f"{about['kernel']}, Python {about['python']}, load {about['load_at_start']}, "
        f"{about['date'][:16]} UTC"
    )
