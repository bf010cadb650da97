"""One large object to all hosts over capped links goes down a chain, whoever dies on the way."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from cluster import Cluster
from lab import Lab

HOSTS = 5
MIB = 1 << 20

PROGRAM = """
SIZE = {size} << 20

@sheaf.remote(num_cpus=0)
class Reader:
    def read(self, refs):
        self.array = sheaf.get(refs[0])
        return time.monotonic()
    def digest(self):
        digest = hashlib.sha256(self.array).hexdigest()
        self.array = None
        return digest

def make(seed):
    data = numpy.random.default_rng(seed).integers(0, 256, SIZE, dtype=numpy.uint8)
    return sheaf.put(data), hashlib.sha256(data).hexdigest()

def read(readers, ref):
    start = time.monotonic()
    return [r.read.remote([ref]) for r in readers], start

readers = [Reader.options(**on(h)).remote() for h in range(1, {hosts})]
small = sheaf.put(numpy.zeros(100_000))
sheaf.get([r.read.remote([small]) for r in readers], timeout=60)   # every worker and link is there
"""


def program(size: int, text: str) -> str:
    return PROGRAM.format(size=size, hosts=HOSTS) + text


def received(lab, host: int) -> int:
    """Bytes that have come in over a host's link."""
    for line in Path(f"/proc/{lab._first[host].pid}/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if counts and name.strip() != "lo":
            return int(counts.split()[0])
    raise RuntimeError(f"host {host} has no link")


@pytest.fixture
def cluster():
    with Lab(HOSTS) as lab, Cluster(lab, cpus=1, settings=("cluster.lease=10s",)) as made:
        for host in range(HOSTS):
            lab.cap(host, "160mbit")
        yield made


def test_a_broadcast_takes_little_more_than_one_transfer(cluster):
    """The floor is one transfer over the same links in the same run."""
    out = cluster.run(
        program(
            24,
            """
one, one_digest = make(1)
(done,), start = read(readers[:1], one)
floor = sheaf.get(done, timeout=60) - start
assert sheaf.get(readers[0].digest.remote()) == one_digest
all_of_it, digest = make(2)
done, start = read(readers, all_of_it)
took = max(sheaf.get(done, timeout=60)) - start
assert sheaf.get([r.digest.remote() for r in readers], timeout=60) == [digest] * len(readers)
print(f"{took / floor:.2f} {floor:.2f} {took:.2f}")
""",
        )
    )
    ratio, floor, took = map(float, out.split())
    print(f"24 MiB to {HOSTS - 1} hosts: {took} s, {ratio} x one transfer ({floor} s)")
    assert floor > 1.0, "the links are capped"
    # Whole copies, one after the other, would take 3 transfers. A busy machine makes it longer.
    assert ratio < 2.2


def test_a_node_in_the_middle_dies_during_a_broadcast(cluster):
    """Those behind it go on from others, and end with the right bytes."""
    running = cluster.start(
        program(
            32,
            """
ref, digest = make(3)
done, start = read(readers, ref)
print("started", flush=True)
rest = [i for i in range(len(readers)) if i != 1]   # host 2's dies
sheaf.get([done[i] for i in rest], timeout=60)
assert sheaf.get([readers[i].digest.remote() for i in rest], timeout=60) == [digest] * len(rest)
try:
    sheaf.get([done[1]], timeout=60)
    raise AssertionError("host 2 was not killed in time")
except sheaf.exceptions.RayError:
    pass
del ref
print("right", flush=True)
""",
        )
    )
    lines = []
    for line in running.stdout:
        lines.append(line)
        if line.startswith("started"):
            break
    before = {host: received(cluster.lab, host) for host in range(1, HOSTS)}
    end = time.monotonic() + 30
    while any(received(cluster.lab, h) - before[h] < 3 * MIB for h in before):
        assert time.monotonic() < end and running.poll() is None, "".join(lines)
        time.sleep(0.01)
    os.kill(cluster.daemon_pid(2), signal.SIGKILL)
    out, _ = running.communicate(timeout=90)
    assert running.returncode == 0 and "right" in out, "".join(lines) + out
