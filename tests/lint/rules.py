"""The rules of the house, as functions from text to complaints; test_tree.py applies them."""

from __future__ import annotations

import ast
import re

# A folder may include itself and folders of a smaller number; never a sibling.
LAYERS = {
    "core": 0,
    "transport": 1,
    "gpu": 1,
    "objstore": 2,
    "collectives": 2,
    "scheduler": 3,
    "runtime": 4,
    "launchers": 5,
    "python": 5,
    "examples": 6,
    "perf": 6,
    "tests": 7,
}

MAX_COLUMNS = 100
MAX_FILE_LINES = 600
MAX_TEST_FILE_LINES = 800
MAX_FUNCTION_LINES = 70

# What a pure state machine may not touch: it gets time by argument and returns what shall be done.
IMPURE = re.compile(
    r"::now\(\)|std::(this_)?thread|std::mutex|std::atomic|condition_variable|random_device"
    r"|mt19937|\brand\(|getenv|gettimeofday|clock_gettime|system_clock"
    r"|\btime\((nullptr|NULL|0)?\)|\bsleep_for\b|\busleep\("
    r"|#include <(thread|mutex|random|fstream|iostream|unistd\.h|fcntl\.h|sys/\w+\.h|sqlite3\.h)>"
)
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
MACHINE_PATH = re.compile(r"(?<![\w.])/(work|farm|root|home/[a-z]+)/|/tmp/(venv|build-)")
FILE_NAME = re.compile(r"^_{0,2}[a-z0-9]+(_[a-z0-9]+)*_{0,2}\.(h|cc|cu|cuh|py|pyi)$")


def folder_of(path: str) -> str:
    return path.split("/", 1)[0]


def check_includes(path: str, text: str) -> list[str]:
    """C++ layering: quoted includes point down."""
    own = folder_of(path)
    if own not in LAYERS:
        return []
    wrong = []
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r'\s*#\s*include\s+"([a-z_]+)/', line)
        if not match or match.group(1) not in LAYERS or match.group(1) == own:
            continue
        if LAYERS[match.group(1)] >= LAYERS[own]:
            wrong.append(f"{path}:{number}: {own}/ may not include {match.group(1)}/")
    return wrong


def top_level_imports(tree: ast.Module) -> list[tuple[int, str]]:
    """Modules imported when this one is; those under `if TYPE_CHECKING` or in functions are not."""
    found = []
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.append((node.lineno, node.module))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            pending += node.body + node.orelse
        elif isinstance(node, ast.Try):
            pending += node.body
        elif isinstance(node, ast.ClassDef):
            pending += node.body
    return found


def check_python_imports(path: str, text: str, allowed: set[str]) -> list[str]:
    """Python layering: importing the package imports itself and `allowed`, nothing else."""
    wrong = []
    for number, module in top_level_imports(ast.parse(text)):
        root = module.split(".")[0]
        if root in allowed or root == "sheaf":
            continue
        wrong.append(f"{path}:{number}: imports {root} at import time")
    return wrong


def check_width(path: str, text: str) -> int:
    """The widest line."""
    return max((len(line) for line in text.splitlines()), default=0)


def strip_cpp(text: str) -> str:
    """Blanks comments, strings and character literals, keeping lines and columns."""

    def blank(match: re.Match) -> str:
        return re.sub(r"[^\n]", " ", match.group(0))

    pattern = (
        r'R"(\w*)\(.*?\)\1"|//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"'
        r"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'"
    )
    return re.sub(pattern, blank, text, flags=re.S)


_NOT_A_FUNCTION = re.compile(
    r"^\s*(namespace|struct|class|enum|union|extern|if|for|while|switch|else|do|try|catch)\b"
)


def cpp_functions(text: str) -> list[tuple[int, int]]:
    """(first line, length) of each outermost function body."""
    code = strip_cpp(
        re.sub(
            r"^\s*#(?:[^\n]*\\\n)*[^\n]*", lambda m: "\n" * m.group(0).count("\n"), text, flags=re.M
        )
    )
    functions = []
    stack: list[tuple[bool, int]] = []  # is a function body, its first line
    start = 0  # of the text since the last ; { or }
    line = 1
    start_line = 1
    for index, char in enumerate(code):
        if char == "\n":
            line += 1
        if char == "{":
            head = code[start:index]
            inside = any(function for function, _ in stack)
            looks_like_one = (
                "(" in head and not _NOT_A_FUNCTION.match(head) and "=" not in head.split("(")[0]
            )
            is_function = looks_like_one and not inside
            first = start_line + head[: len(head) - len(head.lstrip())].count("\n")
            stack.append((is_function, first))
        elif char == "}" and stack:
            is_function, first = stack.pop()
            if is_function:
                functions.append((first, line - first + 1))
        if char in "{};":
            start, start_line = index + 1, line
    return functions


def python_functions(text: str) -> list[tuple[int, int]]:
    return [
        (node.lineno, node.end_lineno - node.lineno + 1)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def check_purity(path: str, text: str) -> list[str]:
    code = strip_cpp(text)
    return [
        f"{path}:{number}: a pure state machine may not use {match.group(0)}"
        for number, line in enumerate(code.splitlines(), 1)
        for match in [IMPURE.search(line)]
        if match
    ]


def check_words(path: str, text: str) -> list[str]:
    wrong = []
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, what in (
            (UNFINISHED, "unfinished work"),
            (MACHINE_PATH, "a path of one machine"),
        ):
            if pattern.search(line):
                wrong.append(f"{path}:{number}: {what}: {line.strip()[:80]}")
    return wrong


def check_header(path: str, text: str) -> list[str]:
    """A header says what it is before anything else, and guards itself."""
    wrong = []
    if not text.startswith("// "):
        wrong.append(f"{path}: does not open with a comment that says what it is")
    if "#pragma once" not in text:
        wrong.append(f"{path}: lacks #pragma once")
    return wrong
