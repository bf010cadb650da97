"""Parts 4 and 5: an inverted index (word -> files) of real texts, as map and reduce tasks, from Python and C++."""
from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import time
import zlib

import report

import sheaf

WORD = re.compile(r"[a-z_]{3,}")
PARTITIONS = 4
BYTES_PER_TASK = 1 << 20


def find_texts(limit_bytes: int) -> list[str]:
    """Readable text files of this machine, in a fixed order, up to `limit_bytes` in all."""
    roots = ["/usr/share/common-licenses", "/usr/share/doc", sysconfig.get_path("stdlib") or sys.prefix]
    suffixes = (".py", ".txt", ".md", ".rst")
    found, total = [], 0
    for root in roots:
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(f for f in folders if f not in ("site-packages", "__pycache__"))
            for name in sorted(files):
                path = os.path.join(folder, name)
                plain = root.endswith("licenses") or name.endswith(suffixes)
                if not plain or os.path.islink(path) or not os.access(path, os.R_OK):
                    continue
                total += os.path.getsize(path)
                if total > limit_bytes:
                    return found
                found.append(path)
    return found


def chunks(paths: list[str]) -> list[list[str]]:
    """Groups of files of about BYTES_PER_TASK each."""
    groups: list[list[str]] = [[]]
    size = 0
    for path in paths:
        if size > BYTES_PER_TASK:
            groups.append([])
            size = 0
        groups[-1].append(path)
        size += os.path.getsize(path)
    return groups


def map_files(paths: list[str]) -> list[dict[str, list[str]]]:
    """word -> files for these files, split by the word's partition."""
    parts: list[dict[str, list[str]]] = [{} for _ in range(PARTITIONS)]
    for path in paths:
        with open(path, encoding="utf-8", errors="replace") as file:
            words = set(WORD.findall(file.read().lower()))
        for word in sorted(words):
            parts[zlib.crc32(word.encode()) % PARTITIONS].setdefault(word, []).append(path)
    return parts


def reduce_part(*pieces: dict[str, list[str]]) -> dict[str, list[str]]:
    """One partition's index from the pieces of all map tasks."""
    index: dict[str, list[str]] = {}
    for piece in pieces:
        for word, paths in piece.items():
            index.setdefault(word, []).extend(paths)
    return index


def run(out: report.Report, quick: bool) -> None:
    """Builds the index serially and as tasks and compares them word by word."""
    groups = chunks(find_texts((4 if quick else 24) << 20))
    started = time.perf_counter()
    mapped = [map_files(group) for group in groups]
    expected = [reduce_part(*(m[p] for m in mapped)) for p in range(PARTITIONS)]
    serial = time.perf_counter() - started

    mapper = sheaf.remote(num_returns=PARTITIONS)(map_files)
    reducer = sheaf.remote(reduce_part)
    started = time.perf_counter()
    pieces = [mapper.remote(group) for group in groups]
    partitions = [reducer.remote(*(piece[p] for piece in pieces)) for p in range(PARTITIONS)]
    index = sheaf.get(partitions)
    took = time.perf_counter() - started
    out.check(index == expected, "the inverted index")
    words = sum(len(part) for part in index)
    files = sum(len(group) for group in groups)
    out.add("inverted index", took, serial,
            f"{words:,} words of {files:,} files; {len(groups)} map and {PARTITIONS} reduce tasks")


def run_cpp(out: report.Report, program: str | None, quick: bool) -> None:
    """Runs the C++ driver on the same texts; it compares itself with its own serial run and says so."""
    program = program or os.environ.get("SHEAF_DEMO_CPP", "")
    if not program or not os.path.exists(program):
        out.skip("map/reduce from C++", "the example was not built (make demo builds it)")
        return
    paths = find_texts((4 if quick else 24) << 20)
    started = time.perf_counter()
    done = subprocess.run([program], input="\n".join(paths), text=True, capture_output=True, timeout=300)
    took = time.perf_counter() - started
    sys.stdout.write("".join(f"           {line}\n" for line in done.stdout.splitlines()))
    out.check(done.returncode == 0, f"the C++ driver (exit code {done.returncode}): {done.stderr.strip()[-300:]}")
    serial = next((float(line.split()[-2]) / 1000 for line in done.stdout.splitlines()
                   if line.startswith("serial")), None)
    out.add("map/reduce from C++", took, serial, "start-up of its own cluster included")
