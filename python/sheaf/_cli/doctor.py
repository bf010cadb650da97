"""What ``sheaf doctor`` looks at."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time

_LEAST_DESCRIPTORS = 4096


def examine() -> list[dict]:
    """Findings, each ``{"check", "result": "ok" | "note" | "FAIL", "finding"}``."""
    findings = []
    for check in (
        _python,
        _daemon,
        _cpus,
        _topology,
        _memory,
        _shared_pages,
        _descriptors,
        _gpus,
        _fabrics,
        _cluster,
    ):
        try:
            findings.append(check())
        except Exception as error:
            findings.append(
                _finding(check.__name__.strip("_"), "FAIL", f"{type(error).__name__}: {error}")
            )
    return findings


def _finding(check: str, result: str, text: str) -> dict:
    return {"check": check, "result": result, "finding": text}


def _python() -> dict:
    good = sys.version_info >= (3, 10)
    return _finding(
        "python",
        "ok" if good else "FAIL",
        f"{platform.python_implementation()} {platform.python_version()}, Linux "
        f"{platform.release()}",
    )


def _daemon() -> dict:
    from .._daemon import program

    path = program()
    return _finding("sheafd", "ok" if os.access(path, os.X_OK) else "FAIL", path)


def _cpus() -> dict:
    usable, total = len(os.sched_getaffinity(0)), os.cpu_count()
    quota = _read("/sys/fs/cgroup/cpu.max")
    text = f"{usable} of {total} usable"
    if quota and not quota.startswith("max"):
        limit, period = quota.split()
        text += f", cgroup limit {int(limit) / int(period):.1f}"
    return _finding("cpus", "ok", text)


def _topology() -> dict:
    import json
    import subprocess

    from .._daemon import program

    done = subprocess.run(
        [program(), "--topology"], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        return _finding("topology", "FAIL", done.stderr.strip())
    found = json.loads(done.stdout)
    nodes, nics = found["numa_nodes"], [nic["name"] for nic in found["nics"]]
    text = f"{_many(len(nodes), 'NUMA node')}, {_many(found['cores'], 'core')}"
    if found["cpus"] != found["cores"]:
        text += f", {_many(found['cpus'], 'hardware thread')}"
    for gpu in found["gpus"]:
        near = ", ".join(map(str, gpu["numa_nodes"])) or "unknown"
        text += f"; GPU {gpu['index']} ({gpu['pci'] or 'place unknown'}) by NUMA node {near}"
    text += f"; network: {', '.join(nics) or 'no card found'}"
    why = found["not_bound_because"]
    text += f"; workers are not bound: {why}" if why else f"; workers are bound ({found['binding']})"
    caution = found.get("caution")
    return _finding("topology", "note" if caution else "ok", text + (f"; {caution}" if caution else ""))


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _memory() -> dict:
    meminfo = dict(line.split(":", 1) for line in (_read("/proc/meminfo") or "").splitlines())
    free = int(meminfo["MemAvailable"].split()[0]) / 1e6
    limit = _read("/sys/fs/cgroup/memory.max")
    text = f"{free:.1f} GB available"
    if limit and limit != "max":
        text += f", cgroup limit {int(limit) / 1e9:.1f} GB"
    return _finding("memory", "ok" if free > 1 else "note", text)


def _shared_pages() -> dict:
    spaces = _read("/proc/sys/user/max_user_namespaces")
    huge = _read("/sys/kernel/mm/transparent_hugepage/shmem_enabled") or ""
    chosen = huge[huge.find("[") + 1 : huge.find("]")] if "[" in huge else "unknown"
    namespaces = spaces not in (None, "0")
    text = (
        f"user namespaces {'permitted' if namespaces else 'forbidden'}, shmem huge pages: {chosen}"
    )
    fast = namespaces or chosen in ("always", "advise", "within_size")
    return _finding(
        "huge pages",
        "ok" if fast else "note",
        text + ("" if fast else "; large puts are slower with 4 KB pages"),
    )


def _descriptors() -> dict:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _finding(
        "descriptors",
        "ok" if soft >= _LEAST_DESCRIPTORS or hard >= _LEAST_DESCRIPTORS else "note",
        f"limit {soft} (may be raised to {hard})",
    )


def _gpus() -> dict:
    names = sorted(
        name for name in os.listdir("/dev") if name.startswith("nvidia") and name[6:].isdigit()
    )
    if not names:
        return _finding("gpus", "note", "none")
    return _finding(
        "gpus",
        "ok",
        f"{len(names)} NVIDIA" + ("" if shutil.which("nvidia-smi") else ", no nvidia-smi"),
    )


def _fabrics() -> dict:
    try:
        names = os.listdir("/sys/class/infiniband")
    except OSError:
        names = []
    return _finding("rdma", "ok" if names else "note", ", ".join(names) or "no RDMA device")


def _cluster() -> dict:
    import sheaf

    began = time.perf_counter()
    sheaf.init(num_cpus=1, log_to_driver=False)
    try:
        reached = sheaf.get(sheaf.remote(_answer).remote(), timeout=30)
        took = time.perf_counter() - began
        session = sheaf._core.session()
        text = f"first result after {1000 * took:.0f} ms, objects in {session.get('arena_backing')}"
        return _finding("a cluster of its own", "ok" if reached == 42 else "FAIL", text)
    finally:
        sheaf.shutdown()


def _answer():
    return 42


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return None
