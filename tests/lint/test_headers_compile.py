"""Every header compiles when it is the only thing included.

A header that some source file includes before anything else is proved by the build itself. The
others are compiled here; one whose text, and the text of all it includes from the tree, has passed
before is not compiled again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT

CACHE = ROOT / "build" / "lint-headers.json"
FLAGS = [
    "-std=c++20",
    "-fsyntax-only",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    "-Werror",
    "-x",
    "c++",
    "-",
]


def fingerprint(path: str, tree: dict[str, str], seen: set[str]) -> str:
    if path in seen or path not in tree:
        return ""
    seen.add(path)
    digest = hashlib.sha256(tree[path].encode())
    folder = path.rsplit("/", 1)[0]
    for name in re.findall(r'#\s*include\s+"([^"]+)"', tree[path]):
        for candidate in (name, f"{folder}/{name}", f"python/{name}"):
            digest.update(fingerprint(candidate, tree, seen).encode())
    return digest.hexdigest()


def first_includes(tree: dict[str, str]) -> set[str]:
    """Headers that stand first in a source file: the build compiles them alone."""
    found = set()
    for path, text in tree.items():
        first = re.search(r'^\s*#\s*include\s+["<]([^">]+)[">]', text, re.M)
        if path.endswith(".cc") and first and not path.startswith("examples/"):
            found |= {
                first.group(1),
                f"{path.rsplit('/', 1)[0]}/{first.group(1)}",
                f"python/{first.group(1)}",
            }
    return found


def compile_alone(path: str) -> str:
    """The compiler's complaint, "" when there is none."""
    folders = [str(ROOT), str(ROOT / path.rsplit("/", 1)[0])]
    if path.startswith("python/"):
        nanobind = pytest.importorskip("nanobind")
        folders += [sysconfig.get_path("include"), nanobind.include_dir(), str(ROOT / "python")]
    if path.startswith("tests/fuzz/"):
        generated = list(ROOT.glob("build/cp*/tests/fuzz/wire_structs.h"))
        if not generated:
            return ""
        folders.append(str(generated[0].parent))
    if path.startswith("examples/"):  # what the installed package would give them
        installed = CACHE.parent / "installed-include"
        (installed / "sheaf").mkdir(parents=True, exist_ok=True)
        (installed / "sheaf" / "sheaf.h").write_text('#include "runtime/sheaf.h"\n')
        folders.append(str(installed))
    command = ["g++", *[f"-I{f}" for f in folders], *FLAGS]
    result = subprocess.run(
        command, input=f'#include "{path}"\n', capture_output=True, text=True, check=False
    )
    return result.stderr


def test_every_header_compiles_alone(tree):
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    proved = first_includes(tree)
    headers = [p for p in tree if p.endswith(".h") and p not in proved]
    prints = {p: fingerprint(p, tree, set()) for p in headers}
    try:
        passed = set(json.loads(CACHE.read_text()))
    except (OSError, ValueError):
        passed = set()
    pending = [p for p in headers if f"{p} {prints[p]}" not in passed]
    with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        complaints = dict(zip(pending, pool.map(compile_alone, pending)))
    good = [f"{p} {prints[p]}" for p in headers if not complaints.get(p)]
    CACHE.parent.mkdir(exist_ok=True)
    CACHE.write_text(json.dumps(good))
    wrong = [f"{path}:\n{text}" for path, text in complaints.items() if text]
    assert not wrong, "\n" + "\n".join(wrong)
