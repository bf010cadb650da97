"""The pages' examples run, and every public name says what it does."""

from __future__ import annotations

import subprocess
import sys

from conftest import ROOT


def test_documentation_builds():
    result = subprocess.run(
        [sys.executable, "docs/build.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr
