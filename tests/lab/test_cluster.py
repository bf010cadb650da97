"""A cluster over hosts: work and data between them, and everything that can happen to a host."""

from __future__ import annotations

import os
import shutil
import signal
import time

import pytest

from cluster import Cluster
from lab import Lab


@pytest.fixture
def cluster():
    """For tests that do a host harm."""
    with Lab(3) as lab, Cluster(lab) as made:
        yield made


@pytest.fixture(scope="module")
def calm():
    """Three hosts that all are there again after each test; no pause of theirs is a death."""
    with Lab(3) as lab, Cluster(lab, settings=("cluster.lease=60s",)) as made:
        yield made


def wait_for(fact, timeout=20.0):
    end = time.monotonic() + timeout
    while not fact():
        assert time.monotonic() < end, "it did not become true"
        time.sleep(0.02)


def lines_until(process, prefix):
    """The first line that begins so."""
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith(prefix):
            return line.strip()
    raise AssertionError("".join(seen))


def test_tasks_and_data_cross_hosts(calm):
    out = calm.run(
        """
        @sheaf.remote(scheduling_strategy="SPREAD")
        def block(seed, size):
            time.sleep(0.2)
            data = numpy.random.default_rng(seed).integers(0, 256, size, dtype=numpy.uint8)
            return data, socket.gethostname()

        @sheaf.remote(scheduling_strategy="SPREAD")
        def digest(pair):
            time.sleep(0.05)
            return hashlib.sha256(pair[0].tobytes()).hexdigest(), socket.gethostname()

        sizes = [100, 5000, 70_000, 3_000_000, 20_000_000, 1]
        refs = [block.remote(i, size) for i, size in enumerate(sizes)]
        got = sheaf.get([digest.remote(ref) for ref in refs], timeout=60)
        hosts = {host for _, host in got} | {pair[1] for pair in sheaf.get(refs)}
        for i, size in enumerate(sizes):
            data = numpy.random.default_rng(i).integers(0, 256, size, dtype=numpy.uint8)
            assert got[i][0] == hashlib.sha256(data.tobytes()).hexdigest(), i
            assert (sheaf.get(refs[i])[0] == data).all(), i
        print(sorted(hosts))
        """
    )
    assert out.strip() == "['host0', 'host1', 'host2']"


def test_a_driver_on_a_host_that_is_not_the_head(calm):
    calm.run(
        """
        @sheaf.remote
        def where():
            return socket.gethostname()

        assert [sheaf.get(where.options(**on(h)).remote(), timeout=30) for h in (0, 1, 2)] == [
            "host0", "host1", "host2"]

        @sheaf.remote
        class Box:
            def __init__(self): self.n = 0
            def add(self, x): self.n += int(x.sum()); return self.n

        box = Box.options(name="box", **on(0)).remote()
        array = numpy.ones(1_000_000, dtype=numpy.uint8)
        assert sheaf.get(box.add.remote(sheaf.put(array)), timeout=30) == 1_000_000
        assert sheaf.get(sheaf.get_actor("box").add.remote(array), timeout=30) == 2_000_000
        group = sheaf.util.placement_group([{"CPU": 1}] * 3, strategy="STRICT_SPREAD")
        assert group.wait(20)
        """,
        host=1,
    )


def test_who_has_not_the_secret_does_not_get_in(cluster):
    words = ["--address", cluster.head["address"], "--secret-file"]
    other = cluster.folder / "other"
    other.write_text(
        "sheaf cluster secret 1\n{}\n{}\n".format("5" * 32, "a7" * 32)
    )
    other.chmod(0o600)
    with pytest.raises(RuntimeError, match="(?i)permission|secret|refus"):
        cluster.start_node(1, *words, str(other))
    readable = cluster.folder / "readable"
    shutil.copy(cluster.secret, readable)
    readable.chmod(0o644)
    with pytest.raises(RuntimeError, match="PermissionDenied"):
        cluster.start_node(1, *words, str(readable))
    cluster.run("assert len(alive()) == 3")


def test_a_host_that_loses_power(cluster):
    """Its tasks run again, its objects are made again, within the lease and a little."""
    program = cluster.start(
        """
        @sheaf.remote(max_retries=3)
        def make(seed):
            return numpy.random.default_rng(seed).integers(0, 256, 1_000_000, dtype=numpy.uint8)

        @sheaf.remote(max_retries=3)
        def slow(seconds):
            time.sleep(seconds)
            return socket.gethostname()

        lost = [make.options(**on(1, soft=True)).remote(i) for i in range(8)]
        sheaf.wait(lost, num_returns=8, fetch_local=False, timeout=30)
        running = slow.options(**on(1, soft=True)).remote(2.0)
        time.sleep(0.5)
        print("ready", flush=True)
        started = time.monotonic()
        wait_for(lambda: len(alive()) == 2)
        print(f"dead {time.monotonic() - started:.2f}", flush=True)
        assert sheaf.get(running, timeout=30) != "host1"
        for i, ref in enumerate(lost):
            data = numpy.random.default_rng(i).integers(0, 256, 1_000_000, dtype=numpy.uint8)
            assert (sheaf.get(ref, timeout=30) == data).all()
        print("done", flush=True)
        """
    )
    lines_until(program, "ready")
    cluster.lab.crash(1)
    dead = float(lines_until(program, "dead").split()[1])
    assert dead < 20.0, "the lease is 3 s"
    lines_until(program, "done")


def test_a_reference_outlives_the_hosts_that_made_and_owned_it(cluster):
    """A worker on one host submits, another host computes; both lose power."""
    program = cluster.start(
        """
        @sheaf.remote
        def make(seed):
            return numpy.random.default_rng(seed).integers(0, 256, 2_000_000, dtype=numpy.uint8)

        @sheaf.remote
        def invert(array):
            return 255 - array

        @sheaf.remote
        class Submitter:
            def chain(self, seed):
                there = on(2, soft=True)
                ref = invert.options(**there).remote(make.options(**there).remote(seed))
                sheaf.wait([ref], fetch_local=False)
                return [ref]

        submitter = Submitter.options(**on(1)).remote()
        refs = [ref for i in range(4) for ref in sheaf.get(submitter.chain.remote(i), timeout=30)]
        print("ready", flush=True)
        wait_for(lambda: len(alive()) == 1)
        for i, ref in enumerate(refs):
            data = numpy.random.default_rng(i).integers(0, 256, 2_000_000, dtype=numpy.uint8)
            assert (sheaf.get(ref, timeout=60) == 255 - data).all()
        print("done", flush=True)
        """
    )
    lines_until(program, "ready")
    cluster.lab.crash(1)
    cluster.lab.crash(2)
    lines_until(program, "done")


def test_a_partition_ends_the_node_on_the_far_side(cluster):
    """It stops its workers by itself before anyone else takes over; after healing it is nobody."""
    program = cluster.start(
        """
        @sheaf.remote(max_restarts=-1, max_task_retries=-1)
        class Pulse:
            def beat(self):
                return socket.gethostname()

        pulse = Pulse.options(**on(2, soft=True)).remote()
        assert sheaf.get(pulse.beat.remote(), timeout=30) == "host2"
        print("ready", flush=True)
        wait_for(lambda: len(alive()) == 2)
        assert sheaf.get(pulse.beat.remote(), timeout=30) != "host2"
        print("moved", flush=True)
        sys.stdin.read()
        """
    )
    lines_until(program, "ready")
    cluster.lab.cut(2)
    wait_for(lambda: not cluster.processes(2), timeout=10)
    lines_until(program, "moved")
    cluster.lab.heal(2)
    time.sleep(0.5)
    program.kill()
    cluster.daemons[2].wait(10)
    cluster.join(2)
    cluster.run("wait_for(lambda: len(alive()) == 3)")


def test_two_hosts_that_lose_each_other_and_not_the_head(cluster):
    """No lease runs out. The one with less to lose has to go, so that nobody waits for ever."""
    parted = cluster.folder / "parted"
    program = cluster.start(
        f"""
        @sheaf.remote(max_retries=-1)
        def ones(n):
            return numpy.ones(n, dtype=numpy.uint8)

        @sheaf.remote(max_retries=-1)
        def total(array):
            return int(array.sum())

        @sheaf.remote
        class Counter:
            def __init__(self): self.n = 0
            def add(self, x): self.n += int(x.sum()); return self.n

        counter = Counter.options(**on(2)).remote()
        data = ones.options(**on(1, soft=True)).remote(3_000_000)
        assert sheaf.get(counter.add.remote(numpy.ones(1)), timeout=30) == 1
        sheaf.wait([data], fetch_local=False, timeout=30)
        print("ready", flush=True)
        wait_for(lambda: os.path.exists({str(parted)!r}))
        sums = [total.options(**on(2, soft=True)).remote(data) for _ in range(4)]
        added = counter.add.remote(data)
        assert sheaf.get(sums, timeout=60) == [3_000_000] * 4
        assert sheaf.get(added, timeout=60) == 3_000_001     # it has not moved
        wait_for(lambda: len(alive()) == 2)
        print("one has gone", flush=True)
        """
    )
    lines_until(program, "ready")
    cluster.lab.part(1, 2)
    parted.touch()
    lines_until(program, "one has gone")
    cluster.daemons[1].wait(10)
    assert not cluster.processes(1)
    cluster.lab.rejoin(1, 2)
    cluster.join(1)
    cluster.run(
        """
        wait_for(lambda: len(alive()) == 3)

        @sheaf.remote
        def where():
            return socket.gethostname()

        assert sheaf.get(where.options(**on(1)).remote(), timeout=30) == "host1"
        """,
        host=2,
    )


def test_a_short_cut_is_survived(calm):
    program = calm.start(
        """
        @sheaf.remote
        def square(x):
            time.sleep(0.01)
            return x * x

        print("ready", flush=True)
        refs = [square.options(**on(1)).remote(i) for i in range(400)]
        assert sheaf.get(refs, timeout=60) == [i * i for i in range(400)]
        assert len(alive()) == 3
        print("done", flush=True)
        """
    )
    lines_until(program, "ready")
    time.sleep(0.3)
    calm.lab.cut(1)
    time.sleep(1.0)
    calm.lab.heal(1)
    lines_until(program, "done")


def test_a_daemon_that_was_stopped_too_long_ends(cluster):
    pid = cluster.daemon_pid(1)
    os.kill(pid, signal.SIGSTOP)
    try:
        cluster.run('wait_for(lambda: len(alive()) == 2)')
    except AssertionError:
        os.kill(pid, signal.SIGCONT)
        raise
    os.kill(pid, signal.SIGCONT)
    cluster.daemons[1].wait(10)
    wait_for(lambda: not cluster.processes(1))


def test_loss_of_the_head_ends_everything():
    """What nodes do that wait for their head to come back, once it stays away."""
    with Lab(3) as lab, Cluster(lab, settings=("cluster.head_timeout=2s",)) as cluster:
        ends_with_its_head(cluster)


def ends_with_its_head(cluster):
    program = cluster.start(
        """
        @sheaf.remote
        def nap():
            time.sleep(60)

        refs = [nap.options(**on(h)).remote() for h in (0, 1, 2)]
        time.sleep(1)
        print("ready", flush=True)
        try:
            sheaf.get(refs)
        except BaseException as error:
            print("error", type(error).__name__, error, flush=True)
        """,
        host=1,
    )
    lines_until(program, "ready")
    cluster.lab.crash(0)
    assert "error" in lines_until(program, "error")
    for host in (1, 2):
        wait_for(lambda host=host: not [p for p in cluster.processes(host) if "sheafd" in p])


def test_a_killed_daemon_does_not_wait_for_its_lease():
    with Lab(3) as lab, Cluster(lab, settings=("cluster.lease=300s",)) as cluster:
        killed_daemon_is_known(cluster)


def killed_daemon_is_known(cluster):
    program = cluster.start(
        """
        print("ready", flush=True)
        wait_for(lambda: len(alive()) == 2)
        print("dead", flush=True)
        """
    )
    lines_until(program, "ready")
    os.kill(cluster.daemon_pid(2), signal.SIGKILL)
    lines_until(program, "dead")
    wait_for(lambda: not cluster.processes(2))


def test_a_port_scan_and_garbage_change_nothing(calm):
    host, port = calm.head["address"].rsplit(":", 1)
    scan = (
        "import os, socket\n"
        "for i in range(200):\n"
        f"    s = socket.create_connection(({host!r}, {port}), 5)\n"
        "    s.sendall(os.urandom(i % 64)) if i % 2 else None\n"
        "    s.close()\n"
        f"held = [socket.create_connection(({host!r}, {port}), 5) for _ in range(30)]\n"
    )
    done = calm.lab.run(2, ["python3", "-c", scan])
    assert done.returncode == 0, done.stderr
    calm.run(
        """
        @sheaf.remote
        def f(x): return x + 1
        assert sheaf.get([f.options(**on(1)).remote(i) for i in range(50)], timeout=30)[-1] == 50
        """
    )


def test_more_hosts_than_there_are_wait(calm):
    calm.run(
        """
        group = sheaf.util.placement_group([{"CPU": 1}] * 4, strategy="STRICT_SPREAD")
        assert not group.wait(1)
        """
    )
