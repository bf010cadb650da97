"""Clusters for tests, and the check that nothing is left of them."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid

import pytest

MARK = "SHEAF_TEST_PYTEST_RUN"
GRACE_S = 20.0

# Before sheaf is imported: where sessions live, and a mark that every process of this run inherits.
# Workers that import a test module come here too, and have both already.
if MARK not in os.environ:
    os.environ[MARK] = uuid.uuid4().hex
    os.environ["SHEAF_TMPDIR"] = tempfile.mkdtemp(prefix="sheaf-t-")
_ROOT = os.environ["SHEAF_TMPDIR"]
for _name in ("SHEAF_ADDRESS", "RAY_ADDRESS", "SHEAF_AS_RAY"):
    os.environ.pop(_name, None)

import sheaf  # noqa: E402


def marked_processes() -> dict[int, str]:
    """Pid and command line of other processes that carry this run's mark."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if mark not in file.read().split(b"\0"):
                    continue
            with open(f"/proc/{name}/cmdline", "rb") as file:
                found[int(name)] = file.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return found


def sessions() -> list[str]:
    """Session directories; the last daemon removes the root as well."""
    try:
        return os.listdir(_ROOT)
    except FileNotFoundError:
        return []


def wait_until(condition, timeout: float = 30.0, what: str = "the condition"):
    """Polls until ``condition()`` is true, gives its value; fails after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come true within {timeout} s")
        time.sleep(0.02)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left():
    """After the last test: no process of this run, no session directory."""
    yield
    sheaf.shutdown()
    deadline = time.monotonic() + GRACE_S
    while (marked_processes() or sessions()) and time.monotonic() < deadline:
        time.sleep(0.05)
    left, files = marked_processes(), sessions()
    shutil.rmtree(_ROOT, ignore_errors=True)
    assert not left, f"processes are left: {left}"
    assert not files, f"session directories are left: {files}"


@pytest.fixture(scope="module")
def cluster():
    """A cluster with 4 CPUs for all tests of a module, and two custom resources."""
    sheaf.shutdown()
    context = sheaf.init(
        num_cpus=4,
        resources={"gold": 2, "silver": 1},
        labels={"zone": "a", "disk": "ssd"},
        object_store_memory=512 << 20,
        namespace="tests",
    )
    yield context
    sheaf.shutdown()


@pytest.fixture
def fresh():
    """``fresh(**arguments)`` starts a cluster for this test only."""
    sheaf.shutdown()
    yield sheaf.init
    sheaf.shutdown()


@pytest.fixture
def no_cluster():
    """A test that starts and ends clusters itself."""
    sheaf.shutdown()
    yield
    sheaf.shutdown()
