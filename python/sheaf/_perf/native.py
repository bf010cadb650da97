"""The C++ benchmark programs: where they are, and what they say."""

from __future__ import annotations

import json
import os
import subprocess


def program(name: str) -> str | None:
    """Path of a benchmark program: $SHEAF_BENCH_BIN, the installed package, or beside the build's
    sheafd. None: it was not built (SHEAF_BUILD_BENCHMARKS).
    """
    import sheaf

    package = os.path.dirname(os.path.abspath(sheaf.__file__))
    folders = [os.environ.get("SHEAF_BENCH_BIN", ""), os.path.join(package, "bin")]
    daemon = os.environ.get("SHEAF_SHEAFD")
    if daemon:
        beside = os.path.dirname(os.path.abspath(daemon))
        build = os.path.dirname(beside)
        folders += [beside, os.path.join(build, "perf"), os.path.join(build, "bin")]
    for folder in folders:
        path = os.path.join(folder, name)
        if folder and os.access(path, os.X_OK):
            return path
    return None


def environment() -> dict[str, str]:
    """For C++ drivers: a cluster of their own, with the daemon that lies beside them."""
    kept = {k: v for k, v in os.environ.items() if k != "SHEAF_ADDRESS"}
    for variable, name in (("SHEAF_SHEAFD", "sheafd"), ("SHEAF_WORKER", "sheaf-worker")):
        found = program(name)
        if found is not None:
            kept.setdefault(variable, found)
    return kept


def figures(name: str, *arguments: str) -> list[dict]:
    """Runs `name --json`: one JSON object a line, {name, unit, median, low, high, n, floor,
    floor_name}; times and sizes: less is better. Empty when the program is not there. Raises
    RuntimeError when it fails.
    """
    path = program(name)
    if path is None:
        return []
    done = subprocess.run(
        [path, "--json", *arguments], capture_output=True, text=True, env=environment(), check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{name} ended with code {done.returncode}: {done.stderr[-300:]}")
    return [json.loads(text) for text in done.stdout.splitlines() if text.startswith("{")]
