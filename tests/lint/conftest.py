"""The files of the tree, once for all rules."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = (".h", ".cc", ".cu", ".cuh", ".py", ".pyi")
SKIPPED = {"build", "dist", "__pycache__", "_build"}


def listed_files() -> list[str]:
    """Tracked and new files; every file of a tree that is no git checkout."""
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-co", "--exclude-standard"]
    try:
        out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        names = out.splitlines()
    except (OSError, subprocess.CalledProcessError):
        names = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file()]
    return sorted(n for n in names if not SKIPPED & set(n.split("/")) and not n.startswith(".venv"))


@pytest.fixture(scope="session")
def tree() -> dict[str, str]:
    """Path -> text of every source file."""
    return {
        name: (ROOT / name).read_text(encoding="utf-8")
        for name in listed_files()
        if name.endswith(SOURCE) and (ROOT / name).exists()
    }


@pytest.fixture(scope="session")
def all_text() -> dict[str, str]:
    """Path -> text of every file that is text."""
    found = {}
    for name in listed_files():
        try:
            found[name] = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue
    return found


@pytest.fixture(scope="session")
def ratchet() -> dict[tuple[str, str], int]:
    found = {}
    for line in (ROOT / "tests/lint/ratchet.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            rule, path, value, why = line.split(None, 3)
            assert why, line
            found[rule, path] = int(value)
    return found
