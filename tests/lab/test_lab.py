"""The lab is what it says: hosts of their own, links that can be capped and cut, nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lab as lab_module
from lab import Lab

HERE = Path(__file__).parent
SEND = (
    "import socket,sys,time; s=socket.create_connection((sys.argv[1],5000),5); t=time.time(); "
    "s.sendall(bytes(int(sys.argv[2]))); s.shutdown(1); s.recv(1); print(time.time()-t)"
)
RECEIVE = (
    "import socket; l=socket.create_server(('',5000)); print('up',flush=True)\n"
    "while True:\n c,_=l.accept()\n while c.recv(1<<16): pass\n c.send(b'.'); c.close()"
)


@pytest.fixture(scope="module")
def lab():
    with Lab(3) as made:
        yield made


def reaches(lab: Lab, a: int, b: int) -> bool:
    ping = "import socket; socket.create_connection(('{}', 5000), 0.5).close()"
    code = ping.format(lab.address(b))
    return lab.run(a, [sys.executable, "-c", code]).returncode == 0


@pytest.fixture(scope="module")
def sink(lab):
    """Something that takes bytes on host 1."""
    process = lab.start(1, [sys.executable, "-c", RECEIVE], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"up\n"
    return process


def send_seconds(lab: Lab, size: int) -> float:
    out = lab.run(0, [sys.executable, "-c", SEND, lab.address(1), str(size)])
    assert out.returncode == 0, out.stderr
    return float(out.stdout)


def test_hosts_have_names_processes_and_files_of_their_own(lab):
    names = [lab.run(h, ["hostname"]).stdout.strip() for h in range(3)]
    assert names == ["host0", "host1", "host2"]
    assert os.uname().nodename not in names
    for folder in ("/tmp", "/dev/shm"):
        mark = f"{folder}/{lab.name}"
        assert lab.run(0, ["touch", mark]).returncode == 0
        assert lab.run(0, ["test", "-e", mark]).returncode == 0
        assert lab.run(1, ["test", "-e", mark]).returncode != 0
        assert not Path(mark).exists()
    processes = lab.run(2, ["ls", "/proc"]).stdout.split()
    assert str(os.getpid()) not in processes
    assert "1" in processes
    devices = lab.run(0, ["ls", "/sys/class/net"]).stdout.split()
    assert sorted(devices) == ["eth0", "lo"]
    assert "host2" in lab.run(0, ["cat", "/etc/hosts"]).stdout


def test_hosts_reach_one_another_by_tcp(lab, sink):
    assert send_seconds(lab, 1 << 20) < 60
    assert lab.run(0, ["getent", "hosts", "host1"]).stdout.split()[0] == lab.address(1)


def test_a_capped_link_is_slow_and_an_uncapped_one_is_not(lab, sink):
    lab.cap(0, "80mbit")
    slow = send_seconds(lab, 4 << 20)
    assert slow > 0.25  # 4 MiB at 10 MB/s, less the bucket
    lab.uncap(0)
    assert send_seconds(lab, 4 << 20) < slow


def test_a_cut_link_is_silent_and_heals(lab, sink):
    assert any(reaches(lab, 0, 1) for _ in range(20))
    lab.cut(1)
    assert not reaches(lab, 0, 1)
    assert lab.run(1, ["cat", "/sys/class/net/eth0/carrier"]).stdout.strip() == "1"
    lab.heal(1)
    assert any(reaches(lab, 0, 1) for _ in range(20))
    lab.unplug(1)
    assert not reaches(lab, 0, 1)
    assert lab.run(1, ["cat", "/sys/class/net/eth0/carrier"]).stdout.strip() != "1"
    lab.plug(1)
    deadline = time.monotonic() + 30
    while not reaches(lab, 0, 1):
        assert time.monotonic() < deadline


def test_a_crashed_host_takes_its_processes_along():
    with Lab(2) as own:
        child = own.start(1, ["sleep", "1000"])
        time.sleep(0.1)
        own.crash(1)
        assert child.wait(timeout=30) != 0


def namespaces() -> set[str]:
    out = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in out.stdout.splitlines()}


def test_nothing_is_left_when_a_lab_is_closed():
    with Lab(2) as own:
        name = own.name
        child = own.start(0, ["sleep", "1000"])
        assert any(n.startswith(name) for n in namespaces())
    assert child.poll() is not None
    assert not any(n.startswith(name) for n in namespaces())
    assert not list(lab_module.STATE.glob(f"{name}*"))


def test_a_killed_owner_leaves_nothing_after_the_next_sweep():
    code = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); from lab import Lab\n"
        "lab = Lab(2); p = lab.start(0, ['sleep', '1000'])\n"
        "print(lab.name, lab._first[0].pid, flush=True); import time; time.sleep(1000)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    name, first = owner.stdout.readline().split()
    assert any(n.startswith(name) for n in namespaces())
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    deadline = time.monotonic() + 30
    while lab_module._start_time(int(first)) is not None:  # dies with its owner, by the kernel
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lab_module.sweep()
    assert not any(n.startswith(name) for n in namespaces())
    assert not list(lab_module.STATE.glob(f"{name}*"))


def test_a_sweep_spares_the_living():
    with Lab(1) as own:
        lab_module.sweep()
        assert own.run(0, ["true"]).returncode == 0
