"""One installation outside the tree, shared by the tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD_OPTIONS = ["TESTS", "EXAMPLES", "BENCHMARKS"]


def run(command: list, **options) -> subprocess.CompletedProcess:
    """Runs to the end; the test fails with the output when the command does."""
    result = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        **options,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result


@pytest.fixture(scope="session")
def outside(tmp_path_factory) -> Path:
    """A folder with `env/`, a clean virtual environment into which the wheel was installed."""
    folder = tmp_path_factory.mktemp("outside")
    wheels = folder / "wheels"
    # The same build folder and options as `make env`: nothing is compiled again.
    settings = [f"--config-settings=cmake.define.SHEAF_BUILD_{name}=ON" for name in BUILD_OPTIONS]
    run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-build-isolation",
            "--no-deps",
            *settings,
            "-w",
            wheels,
            ROOT,
        ]
    )
    venv.create(folder / "env", with_pip=True)
    wheel = next(wheels.glob("sheaf-*.whl"))
    run(
        [
            folder / "env/bin/python",
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            wheel,
        ]
    )
    return folder


@pytest.fixture
def clean_env(tmp_path) -> dict[str, str]:
    """An environment that knows nothing of this checkout, with a runtime folder of its own."""
    kept = ("HOME", "PATH", "LANG", "XDG_RUNTIME_DIR", "CCACHE_TEMPDIR", "SHEAF_TEST_RUN")
    return {name: os.environ[name] for name in kept if name in os.environ}
