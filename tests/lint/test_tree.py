"""The rules, applied to the tree."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys

import rules
from conftest import ROOT

PURE = ("scheduler/*.h", "scheduler/*.cc", "objstore/object_table*", "objstore/extent_allocator*")
NOT_PURE = ("scheduler/journal*", "scheduler/sqlite*")
LIGHT = sorted(
    {"numpy", "asyncio", "logging", "ssl", "typer", "rich", "multiprocessing", "concurrent.futures"}
)


def report(wrong: list[str]) -> None:
    assert not wrong, "\n" + "\n".join(wrong)


def over_limit(rule: str, found: dict[str, tuple[int, int]], ratchet: dict) -> list[str]:
    """`found`: path -> (value, limit). A ratchet line raises the limit and must be needed."""
    wrong = []
    needed = set()
    for path, (value, limit) in found.items():
        patterns = [p for r, p in ratchet if r == rule and fnmatch.fnmatch(path, p)]
        allowed = max([limit, *(ratchet[rule, p] for p in patterns)])
        if value > limit:
            needed.update(patterns)
        if value > allowed:
            wrong.append(f"{path}: {rule} {value}, at most {allowed}")
    for name, pattern in ratchet:
        if name == rule and pattern not in needed:
            wrong.append(f"tests/lint/ratchet.txt: {rule} {pattern} is no longer needed")
    return wrong


def test_cpp_includes_point_down(tree):
    report(
        [
            w
            for path, text in tree.items()
            if path.endswith((".h", ".cc"))
            for w in rules.check_includes(path, text)
        ]
    )


def test_python_package_imports_little(tree):
    allowed = set(sys.stdlib_module_names) | {"cloudpickle"}
    wrong = []
    for path, text in tree.items():
        if not path.startswith("python/sheaf/") or path.endswith(".pyi"):
            continue
        extra = {"typer", "rich", "click"} if path.startswith("python/sheaf/_cli") else set()
        if path.startswith("python/sheaf/util/joblib") or "joblib" in path.rsplit("/", 1)[-1]:
            extra = {"joblib"}
        wrong += rules.check_python_imports(path, text, allowed | extra)
    report(wrong)


def test_import_sheaf_stays_light():
    code = f"import sys; import sheaf; print(' '.join(m for m in {LIGHT!r} if m in sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []


def test_lines_are_not_too_wide(tree, ratchet):
    found = {p: (rules.check_width(p, t), rules.MAX_COLUMNS) for p, t in tree.items()}
    report(over_limit("width", found, ratchet))


def test_files_are_not_too_long(tree, ratchet):
    found = {}
    for path, text in tree.items():
        limit = rules.MAX_TEST_FILE_LINES if path.startswith("tests/") else rules.MAX_FILE_LINES
        found[path] = (text.count("\n"), limit)
    report(over_limit("file-lines", found, ratchet))


def test_functions_are_not_too_long(tree, ratchet):
    found = {}
    for path, text in tree.items():
        functions = (
            rules.python_functions(text)
            if path.endswith((".py", ".pyi"))
            else rules.cpp_functions(text)
        )
        longest = max((length for _, length in functions), default=0)
        found[path] = (longest, rules.MAX_FUNCTION_LINES)
    report(over_limit("function-lines", found, ratchet))


def test_file_names_are_snake_case(tree):
    report([p for p in tree if not rules.FILE_NAME.match(p.rsplit("/", 1)[-1])])


def test_pure_parts_are_pure(tree):
    wrong = []
    for path, text in tree.items():
        if any(fnmatch.fnmatch(path, p) for p in PURE) and not any(
            fnmatch.fnmatch(path, p) for p in NOT_PURE
        ):
            wrong += rules.check_purity(path, text)
    report(wrong)


def test_no_unfinished_work_and_no_machine_paths(all_text):
    wrong = []
    for path, text in all_text.items():
        if not path.startswith("tests/lint/") and path != "LICENSE":
            wrong += rules.check_words(path, text)
    report(wrong)


def test_headers_open_with_a_comment_and_guard_themselves(tree):
    report(
        [
            w
            for path, text in tree.items()
            if path.endswith(".h")
            for w in rules.check_header(path, text)
        ]
    )


def expand_loops(cmake: str) -> str:
    """The text, and for each `foreach(x a b)` of it the text with a, then b, for ${x}."""
    out = cmake
    for name, values in re.findall(r"foreach\((\w+) ([^)]*)\)", cmake):
        for value in values.split():
            out += cmake.replace(f"${{{name}}}", value)
    return out


def test_every_source_is_listed_in_its_folders_cmake_file(tree):
    wrong = []
    for path in tree:
        if not path.endswith(".cc"):
            continue
        folder, name = path.rsplit("/", 1)
        listed = ""
        parts = folder.split("/")
        for depth in range(len(parts), 0, -1):
            listing = ROOT.joinpath(*parts[:depth], "CMakeLists.txt")
            if listing.exists():
                listed += expand_loops(listing.read_text())
        if not re.search(rf"\b{re.escape(name[:-3])}\b", listed):
            wrong.append(f"{path}: no CMakeLists.txt names it")
    report(wrong)


def test_cmake_lists_only_what_exists(all_text):
    wrong = []
    for path, text in all_text.items():
        if not path.endswith("CMakeLists.txt"):
            continue
        folder = (ROOT / path).parent
        targets = r"(?:sheaf_module|sheaf_test|add_library|add_executable)\(([^)]*)\)"
        for listed in re.findall(targets, re.sub(r"#.*", "", text)):
            for name in re.findall(r"(?<![\w/{}.$-])([\w/]+\.cc)\b", listed):
                if not (folder / name).exists():
                    wrong.append(f"{path}: names {name}, which does not exist")
    report(wrong)
