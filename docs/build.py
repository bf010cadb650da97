"""Checks these pages and writes an API reference from the docstrings into docs/_build.

Fails on a broken link between pages, a Python example that does not run, and a public name
without a docstring.
`--links` checks the links only and needs no installation.

Every ```python block of a page is run, those of one page in one process, in order, on a real
cluster. A block that cannot be run stands behind a line `<!-- not run: why -->`.
"""

from __future__ import annotations

import argparse
import doctest
import importlib
import inspect
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "_build"
MODULES = [
    "sheaf",
    "sheaf.actor",
    "sheaf.exceptions",
    "sheaf.runtime_context",
    "sheaf.runtime_env",
    "sheaf.util",
    "sheaf.util.multiprocessing",
    "sheaf.util.placement_group",
    "sheaf.util.queue",
    "sheaf.util.scheduling_strategies",
    "sheaf.util.state",
]
EXAMPLE_TIMEOUT_S = 120


def pages() -> list[Path]:
    found = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for folder in sorted(
        p for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith((".", "build"))
    ):
        if folder.name != "docs":
            found += sorted(folder.glob("*.md"))
    return found


def anchor(heading: str) -> str:
    """The anchor that code hosts make of a heading."""
    text = re.sub(r"[`*]", "", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)


def anchors(path: Path) -> set[str]:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    return {anchor(match) for match in re.findall(r"^#+ (.+)$", text, re.M)}


def check_links() -> list[str]:
    wrong = []
    for page in pages():
        name = page.relative_to(ROOT)
        for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", without_code(page.read_text())):
            if target.startswith(("http://", "https://", "mailto:")):
                continue
            path, _, fragment = target.partition("#")
            aim = (page.parent / path).resolve() if path else page
            if not aim.exists():
                wrong.append(f"{name}: broken link {target}")
            elif fragment and aim.suffix == ".md" and fragment not in anchors(aim):
                wrong.append(f"{name}: no heading #{fragment} in {aim.relative_to(ROOT)}")
    return wrong


def python_examples(text: str) -> list[str]:
    """The runnable Python blocks of a page."""
    blocks = re.findall(r"(<!-- not run:[^\n]*-->\s*)?^```python\n(.*?)^```", text, re.S | re.M)
    return [code for skipped, code in blocks if not skipped]


def check_examples() -> list[str]:
    wrong = []
    for page in pages():
        code = "\n".join(python_examples(page.read_text()))
        if not code:
            continue
        print(f"    examples of {page.relative_to(ROOT)}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder, "example.py")
            script.write_text(code)
            try:
                result = subprocess.run(
                    [sys.executable, str(script)],
                    cwd=folder,
                    capture_output=True,
                    text=True,
                    timeout=EXAMPLE_TIMEOUT_S,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                wrong.append(f"{page.relative_to(ROOT)}: an example ran for {EXAMPLE_TIMEOUT_S} s")
                continue
        if result.returncode != 0:
            wrong.append(f"{page.relative_to(ROOT)}: an example failed:\n{result.stderr}")
    return wrong


def public_names(module) -> list[str]:
    names = getattr(module, "__all__", None)
    if names is None:
        own = module.__name__
        names = [
            n
            for n, v in vars(module).items()
            if not n.startswith("_") and getattr(v, "__module__", None) == own
        ]
    return sorted(n for n in names if not n.startswith("_"))


def signature(thing) -> str:
    try:
        return str(inspect.signature(thing))
    except (TypeError, ValueError):
        return "(...)" if callable(thing) else ""


def members(cls) -> list[tuple[str, object]]:
    """Public methods and properties that the class itself defines."""
    found = []
    for name, raw in vars(cls).items():
        thing = raw.__func__ if isinstance(raw, (staticmethod, classmethod)) else raw
        if not name.startswith("_") and (callable(thing) or isinstance(thing, property)):
            found.append((name, thing))
    return sorted(found)


def describe(module_name: str, wrong: list[str]) -> str:
    """One module as Markdown."""
    module = importlib.import_module(module_name)
    parts = [f"# {module_name}\n\n{inspect.getdoc(module) or ''}\n"]
    if not module.__doc__:
        wrong.append(f"{module_name}: no docstring")
    for name in public_names(module):
        thing = getattr(module, name)
        if inspect.ismodule(thing) or isinstance(thing, (int, float, str, type(None))):
            continue
        doc = inspect.getdoc(thing) or ""
        if not doc:
            wrong.append(f"{module_name}.{name}: no docstring")
        kind = "class " if inspect.isclass(thing) else ""
        parts.append(f"## {name}\n\n```\n{kind}{name}{signature(thing)}\n```\n\n{doc}\n")
        if inspect.isclass(thing) and not issubclass(thing, BaseException):
            for member, value in members(thing):
                shown = "" if isinstance(value, property) else signature(value)
                text = inspect.getdoc(value) or ""
                parts.append(f"### {name}.{member}\n\n```\n{member}{shown}\n```\n\n{text}\n")
    return "\n".join(parts)


def run_doctests(wrong: list[str]) -> None:
    """Examples with a prompt in docstrings, on one cluster."""
    import sheaf

    found = []
    for name in MODULES:
        module = importlib.import_module(name)
        finder = doctest.DocTestFinder(exclude_empty=True)
        for public in public_names(module):
            thing = getattr(module, public)
            if callable(thing):
                found += finder.find(
                    thing, f"{name}.{public}", module=False, globs={"sheaf": sheaf}
                )
    found = [test for test in found if test.examples]
    if not found:
        return
    sheaf.init(num_cpus=2, log_to_driver=False)
    try:
        for test in found:
            runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
            if runner.run(test).failed:
                wrong.append(f"{test.name}: the example in its docstring fails")
    finally:
        sheaf.shutdown()


def build_reference(wrong: list[str]) -> None:
    api = OUT / "api"
    api.mkdir(parents=True)
    lines = ["# API reference\n"]
    for name in MODULES:
        (api / f"{name}.md").write_text(describe(name, wrong))
        lines.append(f"- [{name}]({name}.md)")
    (api / "index.md").write_text("\n".join(lines) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--links", action="store_true", help="check the links between pages only")
    arguments = parser.parse_args()
    wrong = check_links()
    if not arguments.links:
        shutil.rmtree(OUT, ignore_errors=True)
        OUT.mkdir(parents=True)
        build_reference(wrong)
        run_doctests(wrong)
        wrong += check_examples()
    for line in wrong:
        print(f"docs: {line}", file=sys.stderr)
    print(
        f"docs: {len(pages())} pages, {len(wrong)} mistakes"
        + ("" if arguments.links else f", in {OUT}")
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
