"""The pages: links that lead somewhere, and settings that someone reads."""

from __future__ import annotations

import re
import subprocess
import sys

from conftest import ROOT

SCHEMA = "core/config_schema.cc"


def test_links_between_pages_lead_somewhere():
    result = subprocess.run(
        [sys.executable, "docs/build.py", "--links"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def product(tree: dict[str, str]) -> dict[str, str]:
    folders = ("tests/", "docs/", SCHEMA)
    return {path: text for path, text in tree.items() if not path.startswith(folders)}


def test_every_configuration_key_is_read_somewhere(tree):
    keys = re.findall(r'^    \{"([a-z]+\.[a-z_]+)",', tree[SCHEMA], re.M)
    assert len(keys) > 10
    everything = "\n".join(product(tree).values())
    unread = [key for key in keys if f'"{key}"' not in everything]
    assert not unread, f"nobody reads {', '.join(unread)}"


def test_every_environment_variable_is_in_the_schema(tree):
    keys = re.findall(r'^    \{"([a-z]+\.[a-z_]+)",', tree[SCHEMA], re.M)
    known = {"SHEAF_" + key.replace(".", "_").upper() for key in keys}
    known |= set(re.findall(r'^    \{"(SHEAF_[A-Z_]+)",', tree[SCHEMA], re.M))
    free = ("SHEAF_TEST_", "SHEAF_BUILD_", "SHEAF_BENCH_")
    wrong = []
    for path, text in product(tree).items():
        if path == "core/config.cc":
            continue
        for name in re.findall(r"""["'](SHEAF_[A-Z_]+)["'=]""", text):
            if name not in known and not name.startswith(free):
                wrong.append(f"{path}: {name} is not in {SCHEMA}")
    assert not wrong, "\n" + "\n".join(wrong)
