"""The fabric between hosts: the conformance suite's processes, partitions that heal, lost hosts."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time

import pytest

from lab import Lab

SECRET = "sheaf cluster secret 1\n{}\n{}\n".format("5" * 32, "a7" * 32)
MIB = 1 << 20


@pytest.fixture(scope="module")
def lab(build_dir):
    if not (build_dir / "tests/fabric/fabric_peer").exists():
        pytest.skip("the fabric's tests are not built")
    with Lab(3) as made:
        yield made


class Peer:
    """`fabric_peer` on a host; its lines as they come."""

    def __init__(self, lab, build_dir, host, mode, node, region, *more, incarnation=1, port=0):
        script = 'umask 077; f=$(mktemp); printf "%s" "$1" > $f; shift; p=$1; m=$2; shift 2; '
        script += 'exec "$p" "$m" sock $f "$@"'
        words = ["sh", "-c", script, "sh", SECRET, str(build_dir / "tests/fabric/fabric_peer")]
        words += [mode, lab.address(host), str(port), str(node), str(incarnation), str(region)]
        self.process = lab.start(host, [*words, *more], stdout=subprocess.PIPE, text=True)
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.address = self.line(60).split()[2] if mode == "serve" else ""

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.strip())

    def line(self, timeout):
        return self.lines.get(timeout=timeout)

    def wait_for(self, prefix, timeout):
        """The first line that starts so; the time it took."""
        start = time.monotonic()
        while True:
            line = self.line(max(0.01, start + timeout - time.monotonic()))
            assert "WRONG" not in line
            if line.startswith(prefix):
                return time.monotonic() - start


@pytest.fixture
def shared_folder():
    """Seen by every host, unlike /tmp."""
    folder = tempfile.mkdtemp(prefix="sheaf-lab-", dir="/var/tmp")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_conformance_with_peers_on_another_host(lab, build_dir, shared_folder):
    """The process tests of the suite, on host 0's network; their peers run on host 1."""
    # Peers are signalled from here, by their numbers here: they stay out of the host's own.
    enter = [word for word in lab.wrap(1, []) if word != "--pid"]
    environment = {
        "SHEAF_TEST_FABRIC_EXEC": " ".join(enter),
        "SHEAF_TEST_FABRIC_PEER": str(build_dir / "tests/fabric/fabric_peer"),
        "SHEAF_TEST_FABRIC_HOST": lab.address(0),
        "SHEAF_TEST_FABRIC_PEER_HOST": lab.address(1),
        "TMPDIR": shared_folder,
    }
    suite = build_dir / "tests/fabric/fabric_conformance_test"
    out = subprocess.run(
        [*lab.network(0), str(suite), "--gtest_filter=*FabricProcess*", "--gtest_brief=1"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert out.returncode == 0, out.stdout + out.stderr


def test_a_partition_fails_what_is_under_way_and_heals(lab, build_dir):
    server = Peer(lab, build_dir, 1, "serve", 2, 8 * MIB)
    client = Peer(lab, build_dir, 0, "drive", 1, 8 * MIB, "2", server.address)
    client.wait_for("pull kOk", 60)
    lab.cut(1)
    # Its own deadline (3 s) or the peer's silence (2 s) ends it, whichever is first.
    while (line := client.line(30)).startswith(("pull kOk", "connect kOk")):
        pass
    assert line.split()[1] in ("kDisconnected", "kTimeout")
    lab.heal(1)
    client.wait_for("pull kOk", 60)


def test_a_lost_host_comes_back_as_another_life(lab, build_dir):
    server = Peer(lab, build_dir, 2, "serve", 3, MIB)
    client = Peer(lab, build_dir, 0, "drive", 1, MIB, "3", server.address)
    client.wait_for("pull kOk", 60)
    server.process.kill()
    client.wait_for("connect k", 60)
    port = int(server.address.rpartition(":")[2])
    Peer(lab, build_dir, 2, "serve", 3, MIB, incarnation=2, port=port)
    client.wait_for("connect kOk", 60)
    client.wait_for("pull kOk", 60)


def test_a_capped_link_is_used_in_full(lab, build_dir):
    lab.cap(1, "400mbit")
    try:
        server = Peer(lab, build_dir, 1, "serve", 4, 16 * MIB)
        client = Peer(lab, build_dir, 0, "drive", 1, 16 * MIB, "4", server.address)
        client.wait_for("connect kOk", 60)
        times = [float(client.line(60).split()[2]) for _ in range(3)]
        # 16 MiB at 50 MB/s is 336 ms; a machine with other work may take longer, never less.
        assert min(times) > 250
    finally:
        lab.uncap(1)
