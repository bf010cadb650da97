"""Hosts that are not as they should be: they take part all the same, or say what is wrong."""

from __future__ import annotations

import os
import signal
import time

import pytest

from cluster import Cluster
from lab import Lab

TEN_DAYS = "864000"


@pytest.fixture(scope="module")
def odd():
    """A cluster of host 0 alone; the others are for the tests."""
    with Lab(4) as lab, Cluster(lab, nodes=1) as made:
        yield made


def on_host(cluster, host, script):
    done = cluster.lab.run(host, ["sh", "-ec", script])
    assert done.returncode == 0, done.stderr


def leave(cluster, host):
    """The daemon itself is asked: what it runs under may not pass a signal on."""
    os.kill(cluster.daemon_pid(host), signal.SIGTERM)
    cluster.daemons[host].wait(20)
    cluster.run("wait_for(lambda: len(alive()) == 1)")


def works_with(cluster, hostname):
    """Tasks, large values both ways and an actor there, for longer than a lease."""
    cluster.run(
        f"""
        wait_for(lambda: len(alive()) == 2)
        there = dict(scheduling_strategy=NodeAffinitySchedulingStrategy(
            next(n["NodeID"] for n in alive() if n["NodeManagerHostname"] == {hostname!r}),
            soft=False))

        @sheaf.remote
        def double(array):
            return array * 2

        @sheaf.remote
        class Count:
            def __init__(self): self.n = 0
            def add(self): self.n += 1; return self.n

        count = Count.options(**there).remote()
        end = time.monotonic() + 4.0
        turns = 0
        while time.monotonic() < end:
            array = numpy.full(300_000, turns % 100, dtype=numpy.uint8)
            got = sheaf.get(double.options(**there).remote(sheaf.put(array)), timeout=30)
            assert (got == turns % 100 * 2).all()
            turns += 1
            assert sheaf.get(count.add.remote(), timeout=30) == turns
            time.sleep(0.05)
        assert len(alive()) == 2
        """
    )


def test_a_clock_that_is_far_off(odd):
    clock = ("unshare", "--time", "--monotonic", TEN_DAYS, "--boottime", TEN_DAYS, "--fork")
    odd.join(1, under=(*clock, "--kill-child", "--"))
    works_with(odd, "host1")
    leave(odd, 1)


def test_no_shared_memory_folder_a_read_only_home_and_anothers_name(odd):
    on_host(
        odd,
        2,
        "umount /dev/shm; mount -t tmpfs -o ro shm /dev/shm;"
        "mount --bind $HOME $HOME; mount -o remount,ro,bind $HOME; hostname host0x",
    )
    odd.join(2)
    works_with(odd, "host0x")
    leave(odd, 2)


def test_two_nodes_of_one_name(odd):
    on_host(odd, 2, "hostname host1")
    odd.join(1)
    odd.join(2)
    odd.run(
        """
        wait_for(lambda: len(alive()) == 3)
        assert sorted(n["NodeManagerHostname"] for n in alive()) == ["host0", "host1", "host1"]

        @sheaf.remote(num_cpus=0)
        def where():
            return sheaf.get_runtime_context().get_node_id()

        for node in alive():
            chosen = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ran = sheaf.get(where.options(scheduling_strategy=chosen).remote(), timeout=30)
            assert ran == node["NodeID"]
        """
    )
    os.kill(odd.daemon_pid(1), signal.SIGTERM)
    leave(odd, 2)


def test_no_disk(odd):
    """A node needs a folder that it can write; without one it says so, and where to name one."""
    on_host(odd, 3, "mount -o remount,ro /tmp")
    with pytest.raises(RuntimeError, match="(?i)read-only"):
        odd.join(3)
    on_host(odd, 3, "mount -o remount,rw,size=16k /tmp; head -c 16k /dev/zero > /tmp/ballast || :")
    with pytest.raises(RuntimeError, match="(?i)no space"):
        odd.join(3)
    on_host(odd, 3, "mkdir /run/elsewhere")
    odd.join(3, "--config", "session.root=/run/elsewhere")
    works_with(odd, "host3")
    leave(odd, 3)


def test_a_cluster_that_is_not_there(odd):
    host = odd.head["address"].rsplit(":", 1)[0]
    began = time.monotonic()
    words = ["--address", f"{host}:9", "--secret-file", odd.secret]
    words += ["--config", "cluster.join_timeout=2s"]
    with pytest.raises(RuntimeError, match="(?i)refused"):
        odd.start_node(1, *words)
    assert time.monotonic() - began < 30.0
