"""The lab's tests: skipped, with the reason counted, where no lab can be made."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import lab as lab_module


@pytest.fixture(scope="session", autouse=True)
def _lab_or_skip():
    reason = lab_module.why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def build_dir():
    """Where the C++ tests were built: SHEAF_TEST_BUILD_DIR, or where pip builds."""
    import os
    import sysconfig

    named = os.environ.get("SHEAF_TEST_BUILD_DIR")
    if named:
        return Path(named)
    root = Path(__file__).resolve().parents[2]
    tag = sysconfig.get_config_var("SOABI").split("-")[1]
    found = sorted((root / "build").glob(f"cp{tag}-*"), key=lambda p: p.stat().st_mtime)
    if not found:
        pytest.skip("no build folder: run `make env`")
    return found[-1]
