"""Directories as zip archives with a stable hash, and back: what runtime environments send to
workers.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import os
import shutil
import zipfile

_EPOCH = (
    1980,
    1,
    1,
    0,
    0,
    0,
)  # archives of equal trees must be equal, so no times of the day they were made


def pack(path: str, excludes, keep_parent: bool, limit: int) -> tuple[str, bytes]:
    """``(key, bytes)``: the archive of a directory, or a .zip/.whl as it is. ValueError above
    ``limit`` bytes.

    ``keep_parent``: the archive holds the directory itself (a package), not only what stands in it.
    """
    if path.endswith((".whl", ".zip")) and os.path.isfile(path):
        with open(path, "rb") as file:
            data = file.read()
        key = hashlib.sha256(data).hexdigest()[:32]
        return (f"{key}:{os.path.basename(path)}" if path.endswith(".whl") else f"{key}.zip"), data
    buffer = io.BytesIO()
    total = 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for full, name in _files(path, excludes, keep_parent):
            total += os.path.getsize(full)
            if total > limit:
                raise ValueError(
                    f"{path} holds more than {limit >> 20} MiB: exclude what workers do not need "
                    "(runtime_env={'excludes': [...]}), or put large files where every node can "
                    "read them."
                )
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = (os.stat(full).st_mode & 0o777) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            with open(full, "rb") as file:
                archive.writestr(info, file.read())
    data = buffer.getvalue()
    return hashlib.sha256(data).hexdigest()[:32] + ".zip", data


def newest_change(path: str, excludes) -> float:
    """Modification time of what changed last under ``path``, in seconds; also moves when files come
    or go.
    """
    newest = os.stat(path).st_mtime
    count = 0
    for full, _ in _files(path, excludes, False):
        newest = max(newest, os.stat(full).st_mtime)
        count += 1
    return newest + count * 1e-6


def _files(path: str, excludes, keep_parent: bool):
    """``(full path, name in the archive)`` in a fixed order; excluded and git-ignored files are
    left out.
    """
    if os.path.isfile(path):
        yield path, os.path.basename(path)
        return
    prefix = os.path.basename(path) + "/" if keep_parent else ""
    ignore = list(excludes) + _gitignore(path)
    for folder, folders, files in os.walk(path):
        relative = os.path.relpath(folder, path)
        relative = "" if relative == "." else relative + "/"
        folders[:] = sorted(name for name in folders if not excluded(relative + name + "/", ignore))
        for name in sorted(files):
            full = os.path.join(folder, name)
            if os.path.isfile(full) and not excluded(relative + name, ignore):
                yield full, prefix + relative + name


def _gitignore(path: str) -> list[str]:
    try:
        with open(os.path.join(path, ".gitignore"), encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except OSError:
        return []
    return [line for line in lines if line and not line.startswith("#")]


def excluded(name: str, patterns) -> bool:
    """Whether git's ignore rules ``patterns`` leave out ``name`` (relative, directories with a
    final slash).
    """
    result = False
    is_folder = name.endswith("/")
    bare = name.rstrip("/")
    for pattern in patterns:
        keep = pattern.startswith("!")
        rule = pattern[1:] if keep else pattern
        if rule.endswith("/") and not is_folder:
            continue
        rule = rule.rstrip("/")
        anchored = "/" in rule
        rule = rule.lstrip("/")
        rule = rule.removeprefix("**/")
        hit = fnmatch.fnmatchcase(bare, rule) or (
            (not anchored or pattern.startswith("**/"))
            and fnmatch.fnmatchcase(os.path.basename(bare), rule)
        )
        if hit:
            result = not keep
    return result


def unpack(data: bytes, target: str) -> None:
    """Lays the archive down in ``target``, which appears whole or not at all. ValueError for a path
    outside.
    """
    parent = os.path.dirname(target)
    os.makedirs(parent, mode=0o700, exist_ok=True)
    partial = f"{target}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        root = os.path.realpath(partial)
        for info in archive.infolist():
            place = os.path.realpath(os.path.join(partial, info.filename))
            if place != root and not place.startswith(root + os.sep):
                raise ValueError(f"the package holds a path outside of itself: {info.filename}")
            archive.extract(info, partial)
            mode = info.external_attr >> 16 & 0o777
            if mode and not info.is_dir():
                os.chmod(place, mode | 0o600)
    os.makedirs(partial, exist_ok=True)
    try:
        os.rename(partial, target)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        if not os.path.isdir(target):
            raise
