"""Interpreters that have a peer installed: made once, in the user's cache folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv

#: Version pinned first, the newest where it is not to be had. None: comes with Python.
PEERS: dict[str, list[str] | None] = {
    "ray": ["ray==2.60.0"],
    "multiprocessing": None,
    "concurrent.futures": None,
    "dask": ["dask", "distributed"],
    "mpi4py.futures": ["mpi4py", "openmpi"],
    "parsl": ["parsl"],
}


def cache_folder() -> str:
    """Where environments are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "sheaf", "peers")


def interpreter(peer: str) -> str:
    """A Python that can import the peer. Installs it at the first call, with pip's progress on
    stderr. Raises ValueError for an unknown peer, RuntimeError when it cannot be installed.
    """
    if peer not in PEERS:
        raise ValueError(f"unknown peer {peer!r}: choose from {', '.join(PEERS)}")
    wanted = PEERS[peer]
    if wanted is None:
        return sys.executable
    tag = f"py{sys.version_info[0]}{sys.version_info[1]}"
    folder = os.path.join(cache_folder(), f"{peer}-{tag}")
    python = os.path.join(folder, "bin", "python")
    stamp = os.path.join(folder, "complete")
    if os.path.exists(stamp):
        return python
    print(f"==> installing {' '.join(wanted)} into {folder} (once)", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    for specification in (wanted, [text.split("==")[0] for text in wanted]):
        if specification != wanted:
            print("==> not to be had: taking the newest", file=sys.stderr, flush=True)
        done = subprocess.run(
            [python, "-m", "pip", "install", "--disable-pip-version-check", "numpy", *specification],
            stdout=sys.stderr,
            check=False,
        )
        if done.returncode == 0:
            with open(stamp, "w", encoding="utf-8") as file:
                file.write(" ".join(specification) + "\n")
            return python
    raise RuntimeError(f"pip could not install {peer}: its messages are above")


def command(peer: str, python: str, script: str, workers: int) -> list[str]:
    """How the peer's script is started."""
    if peer != "mpi4py.futures":
        return [python, script, peer]
    # One rank for the driver beside the workers, as its documentation asks for.
    beside = os.path.join(os.path.dirname(python), "mpirun")
    mpirun = beside if os.path.exists(beside) else "mpirun"
    as_root = ["--allow-run-as-root"] if os.getuid() == 0 else []
    return [
        mpirun, *as_root, "--oversubscribe", "-n", str(workers + 1),
        python, "-m", "mpi4py.futures", script, peer,
    ]  # fmt: skip
