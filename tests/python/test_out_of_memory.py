"""The node runs short of memory: the newest task's worker is killed, by name and alone."""

import os
import time

import pytest
import sheaf

_HEADROOM = 600 << 20


def memory() -> tuple[int, int]:
    """Bytes in use and in all, as the daemon counts them: of the machine or of our cgroup."""
    fields = {}
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            fields[name] = int(value.split()[0]) * 1024
    return fields["MemTotal"] - fields["MemAvailable"], fields["MemTotal"]


def in_a_cgroup_with_a_limit() -> bool:
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path, encoding="ascii") as file:
                text = file.read().strip()
        except OSError:
            continue
        if text != "max" and int(text) < memory()[1]:
            return True
    return False


@pytest.fixture
def short_of_memory(fresh):
    if in_a_cgroup_with_a_limit():
        pytest.skip("the daemon counts this cgroup's memory, the test the machine's")
    used, total = memory()
    if total - used < 4 * _HEADROOM:
        pytest.skip("less than 2.4 GB of memory are free")
    share = (used + _HEADROOM) / total
    fresh(
        num_cpus=2,
        object_store_memory=80 << 20,
        _system_config={"memory.kill_above": share, "memory.check_every": "20ms"},
    )


@sheaf.remote(max_retries=0)
def hog():
    held = []
    for _ in range(3 * _HEADROOM // (16 << 20)):
        held.append(os.urandom(1 << 20) * 16)
        time.sleep(0.005)
    return len(held)


@sheaf.remote
class Bystander:
    def __init__(self):
        self.calls = 0

    def call(self):
        self.calls += 1
        return self.calls


def test_the_newest_task_is_killed_and_the_others_live(short_of_memory):
    bystander = Bystander.remote()
    assert sheaf.get(bystander.call.remote()) == 1
    with pytest.raises(sheaf.exceptions.OutOfMemoryError, match="runs out of memory.*of its own"):
        sheaf.get(hog.remote(), timeout=60)
    assert sheaf.get(bystander.call.remote()) == 2
    assert sheaf.get(sheaf.remote(lambda: "works").remote(), timeout=30) == "works"
