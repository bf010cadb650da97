"""Workers run where their lease belongs: on machines that hwloc describes, over two CPUs of this one."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import threading

import pytest
from conftest import wait_until

import sheaf
from sheaf import _daemon

ALL = sorted(os.sched_getaffinity(0))
pytestmark = pytest.mark.skipif(ALL[:2] != [0, 1], reason="CPUs 0 and 1 are needed")
TWO_NODES = "synthetic:numa:2 core:1 pu:1"


@functools.cache
def _need_hwloc() -> None:
    done = subprocess.run(
        [_daemon.program(), "--topology"], capture_output=True, text=True, timeout=60, check=True
    )
    if not json.loads(done.stdout)["source"].startswith("hwloc"):
        pytest.skip("built without hwloc")


@pytest.fixture
def on(fresh, monkeypatch):
    """``on(topology, binding, **init)``: a cluster on that hardware."""

    def start(topology=TWO_NODES, binding="numa", **arguments):
        if topology:
            _need_hwloc()
        monkeypatch.setenv("SHEAF_NODE_TOPOLOGY", str(topology))
        monkeypatch.setenv("SHEAF_SCHEDULER_BINDING", binding)
        return fresh(**{"num_cpus": 2, **arguments})

    return start


def affinity() -> list:
    """Of every thread of this process."""
    masks = set()
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            masks.add(tuple(sorted(os.sched_getaffinity(int(thread)))))
    assert len(masks) == 1, masks
    return list(masks.pop())


@sheaf.remote
def where(meeting=None):
    if meeting is not None:  # two go on together; who waits in get() would lend its CPU
        (meeting / str(os.getpid())).touch()
        wait_until(lambda: len(list(meeting.iterdir())) == 2, what="the other one")
    started = threading.Thread(target=lambda: None)
    started.start()
    started.join()
    gpus = sheaf.get_gpu_ids()
    return {
        "cpus": affinity(),
        "pid": os.getpid(),
        "gpus": [int(gpu) for gpu in gpus],
        "shown": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }


@sheaf.remote
class Resident:
    def where(self):
        return affinity(), [int(gpu) for gpu in sheaf.get_gpu_ids()]


def test_tasks_and_actors_run_on_their_numa_node(on, tmp_path):
    on()
    both = sheaf.get([where.remote(tmp_path) for _ in range(2)])
    assert sorted(found["cpus"] for found in both) == [[0], [1]]
    assert len(sheaf.get(where.options(num_cpus=0.5).remote())["cpus"]) == 1
    # An actor that keeps no CPU goes where it likes.
    roaming, kept = Resident.remote(), Resident.options(num_cpus=1).remote()
    assert sheaf.get(roaming.where.remote())[0] == ALL
    assert len(sheaf.get(kept.where.remote())[0]) == 1


def test_a_worker_that_is_used_again_is_bound_again(on):
    on(binding="core", num_cpus=1)
    first = sheaf.get(where.remote())
    roaming = sheaf.get(where.options(num_cpus=0.5).remote())
    again = sheaf.get(where.remote())
    assert first["pid"] == roaming["pid"] == again["pid"]
    assert (first["cpus"], roaming["cpus"], again["cpus"]) == ([0], ALL, [0])


def test_a_lease_wider_than_a_numa_node_is_not_bound(on):
    on()
    assert sheaf.get(where.options(num_cpus=2).remote())["cpus"] == ALL


@pytest.mark.parametrize("binding", ["none", "auto"])
def test_neither_none_nor_a_small_machine_binds(on, binding):
    on(binding=binding)
    assert sheaf.get(where.remote())["cpus"] == ALL


def test_cores_are_exclusive_on_request(on, tmp_path):
    on("", "core")
    both = sheaf.get([where.remote(tmp_path) for _ in range(2)])
    cores = [found["cpus"] for found in both]
    assert cores[0] != cores[1] and [len(found) for found in cores] == [1, 1]
    held = Resident.options(num_cpus=1).remote()
    own = sheaf.get(held.where.remote())[0]
    assert sheaf.get(where.remote())["cpus"] != own


def machine_with_gpus() -> str:
    """Two NUMA nodes with a core, two GPUs and a network card each, as hwloc writes it."""
    numbers = iter(range(1, 100))

    def sets(cpus, nodes):
        text = "".join(
            f' {prefix}cpuset="0x{cpus:08x}" {prefix}nodeset="0x{nodes:08x}"'
            for prefix in ("", "complete_", "allowed_")
        )
        return f'gp_index="{next(numbers)}"{text}'

    def pci(address, kind, inside=""):
        return (
            f'<object type="PCIDev" gp_index="{next(numbers)}" pci_busid="0000:{address}"'
            f' pci_type="{kind} [0000:0000] 00" pci_link_speed="0.000000">{inside}</object>\n'
        )

    packages = ""
    for n in range(2):
        bits, bus = 1 << n, f"{16 * n + 1:02x}"
        card = f'<object type="OSDev" gp_index="{next(numbers)}" name="eth{n}" osdev_type="2"/>'
        packages += (
            f'<object type="Package" os_index="{n}" {sets(bits, bits)}>\n'
            f'<object type="NUMANode" os_index="{n}" {sets(bits, bits)} local_memory="1048576">'
            '<page_type size="4096" count="256"/></object>\n'
            f'<object type="Core" os_index="{n}" {sets(bits, bits)}>'
            f'<object type="PU" os_index="{n}" {sets(bits, bits)}></object></object>\n'
            f'<object type="Bridge" gp_index="{next(numbers)}" bridge_type="0-1" depth="0"'
            f' bridge_pci="0000:[{bus}-{bus}]">\n'
            + pci(f"{bus}:00.0", "0302 [10de:2330]")
            + pci(f"{bus}:01.0", "0302 [10de:2330]")
            + pci(f"{bus}:02.0", "0200 [15b3:1021]", card)
            + "</object></object>\n"
        )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE topology SYSTEM "hwloc2.dtd">\n'
        f'<topology version="2.0">\n<object type="Machine" os_index="0" {sets(3, 3)}>\n'
        f"{packages}</object></topology>\n"
    )


@pytest.fixture
def gpu_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    path = tmp_path / "machine.xml"
    path.write_text(machine_with_gpus())
    return path


def test_gpus_of_a_lease_are_neighbours_and_its_cpus_beside_them(on, gpu_machine):
    on(gpu_machine, num_gpus=4)
    holder = Resident.options(num_gpus=1).remote()
    assert sheaf.get(holder.where.remote()) == ([0], [0])
    pair = sheaf.get(where.options(num_gpus=2, num_cpus=1).remote())
    assert (pair["gpus"], pair["shown"], pair["cpus"]) == ([2, 3], "2,3", [1])
    one = sheaf.get(where.options(num_gpus=1, num_cpus=0).remote())
    assert (one["gpus"], one["cpus"]) == ([1], [0])


def test_what_is_seen_can_be_asked_for(on, gpu_machine):
    context = on(gpu_machine, num_gpus=4)
    assert sheaf.nodes()[0]["Labels"]["sheaf.io/numa-nodes"] == "2"
    pid = sheaf.get(where.remote())["pid"]
    listed = _sheaf("list", "nodes", "--json", "--address", context.address_info["session_dir"])
    found = json.loads(listed)[0]["topology"]
    assert [node["cpus"] for node in found["numa_nodes"]] == ["0", "1"]
    assert [gpu["numa_nodes"] for gpu in found["gpus"]] == [[0], [0], [1], [1]]
    assert [(nic["name"], nic["numa_nodes"]) for nic in found["nics"]] == [
        ("eth0", [0]),
        ("eth1", [1]),
    ]
    assert found["binding"] == "numa" and found["not_bound_because"] == ""
    from sheaf.util.state import list_workers

    assert {row["cpus"] for row in list_workers() if row["pid"] == pid} == {"0"}
    assert "2" in _sheaf("list", "topology", "--address", context.address_info["session_dir"])


def test_the_doctor_says_what_is_bound(no_cluster):
    _need_hwloc()
    settings = {"SHEAF_NODE_TOPOLOGY": TWO_NODES, "SHEAF_SCHEDULER_BINDING": "numa"}
    seen = json.loads(_sheaf("doctor", "--json", **settings))
    text = {row["check"]: row["finding"] for row in seen}["topology"]
    assert "2 NUMA nodes, 2 cores" in text and "workers are bound (numa)" in text


def test_a_description_that_cannot_be_read_is_named(on, tmp_path):
    with pytest.raises(Exception, match="node.topology"):
        on(tmp_path / "absent.xml")


WHAT_THERE_IS = """
import os, sheaf
sheaf.init(log_to_driver=False)
where = sheaf.remote(lambda: sorted(os.sched_getaffinity(0)))
print(sheaf.cluster_resources()["CPU"], sheaf.get(where.remote()))
"""


def _what_there_is(*before) -> str:
    """CPUs on offer, and those that a task may run on, of a cluster started by this command."""
    command = [*before, sys.executable, "-c", WHAT_THERE_IS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done
    return done.stdout.strip()


def test_a_narrow_affinity_mask_is_what_there_is(no_cluster):
    assert _what_there_is("taskset", "-c", "1") == "1.0 [1]"


@pytest.fixture
def cgroup():
    """``cgroup(controller, **files)``: the command that starts another in a control group of its own."""
    made = []

    def make(controller, **files):
        path = f"/sys/fs/cgroup/{controller}/sheaf-test-{os.getpid()}"
        try:
            os.mkdir(path)
            made.append(path)
            for name, value in files.items():
                with open(f"{path}/{controller}.{name}", "w", encoding="ascii") as file:
                    file.write(str(value))
        except OSError as error:
            pytest.skip(f"no control group of version 1 can be made here: {error}")
        return "sh", "-c", f'echo $$ > {path}/cgroup.procs && exec "$@"', "sh"

    yield make
    for path in made:
        wait_until(lambda: not open(f"{path}/cgroup.procs").read(), what="an empty control group")
        os.rmdir(path)


def test_a_cpuset_is_what_there_is(cgroup, no_cluster, monkeypatch):
    inside = cgroup("cpuset", cpus=1, mems=0)
    assert _what_there_is(*inside) == "1.0 [1]"
    monkeypatch.setenv("SHEAF_SCHEDULER_BINDING", "core")
    assert _what_there_is(*inside) == "1.0 [1]"


def test_a_cpu_quota_bounds_what_is_offered(cgroup, no_cluster):
    inside = cgroup("cpu", cfs_quota_us=100_000, cfs_period_us=100_000)
    assert _what_there_is(*inside) == f"1.0 {ALL}"


def _sheaf(*arguments, **environment) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sheaf", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done
    return done.stdout
