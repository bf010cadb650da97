"""Several nodes on this machine: tasks, actors and objects across them, and nodes that die."""

import os
import signal
import subprocess
import sys
import time

import numpy
import pytest

import sheaf
from sheaf._local_nodes import LocalNodes
from sheaf.util.scheduling_strategies import NodeAffinitySchedulingStrategy

LARGE = 4 << 20


@pytest.fixture
def nodes():
    """A cluster of two nodes with two CPUs each; this process is its driver, on the head."""
    with LocalNodes(2, num_cpus=2) as cluster:
        sheaf.init(address=cluster.session_dir, log_to_driver=False)
        wait_for(lambda: len(sheaf.nodes()) == 2)
        yield cluster
        sheaf.shutdown()


def wait_for(fact, timeout=20.0):
    end = time.monotonic() + timeout
    while not fact():
        assert time.monotonic() < end, "it did not become true"
        time.sleep(0.02)


def node_ids():
    """The head's node id, then the others'."""
    rows = sorted(sheaf.nodes(), key=lambda row: not row["Resources"].get("head", 0))
    here = sheaf.get_runtime_context().get_node_id()
    return [here] + [row["NodeID"] for row in rows if row["NodeID"] != here]


def on(node_id, **options):
    return dict(
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False), **options
    )


@sheaf.remote
def where():
    return sheaf.get_runtime_context().get_node_id()


@sheaf.remote
def pid():
    return os.getpid()


@sheaf.remote
def make(value, size=LARGE):
    return numpy.full(size, value, dtype=numpy.uint8)


@sheaf.remote
def total(*arrays):
    return sum(int(a.sum(dtype=numpy.int64)) for a in arrays)


@sheaf.remote
def nap(seconds):
    time.sleep(seconds)
    return sheaf.get_runtime_context().get_node_id()


@sheaf.remote
class Counter:
    def __init__(self, start=0):
        self.n = start

    def add(self, k=1):
        self.n += k
        return self.n

    def place(self):
        return sheaf.get_runtime_context().get_node_id(), os.getpid()

    def keep(self, refs):
        self.refs = refs

    def kept(self):
        return sheaf.get(self.refs[0])


def test_a_second_node_brings_its_resources(nodes):
    assert sheaf.cluster_resources()["CPU"] == 4
    assert len({row["NodeID"] for row in sheaf.nodes()}) == 2


def test_tasks_that_do_not_fit_here_run_elsewhere(nodes):
    places = sheaf.get([nap.remote(0.4) for _ in range(4)], timeout=30)
    assert len(set(places)) == 2


def test_affinity_sends_a_task_to_its_node(nodes):
    here, there = node_ids()
    for node in (here, there, here, there):
        assert sheaf.get(where.options(**on(node)).remote(), timeout=30) == node


def test_many_small_tasks_on_another_node(nodes):
    _, there = node_ids()

    @sheaf.remote
    def square(x):
        return x * x

    refs = [square.options(**on(there)).remote(i) for i in range(3000)]
    assert sheaf.get(refs, timeout=60) == [i * i for i in range(3000)]


def test_large_values_go_both_ways(nodes):
    here, there = node_ids()
    array = numpy.arange(LARGE, dtype=numpy.uint8)
    expected = int(array.sum(dtype=numpy.int64))
    ref = sheaf.put(array)
    assert sheaf.get(total.options(**on(there)).remote(ref), timeout=30) == expected
    far = make.options(**on(there)).remote(3)
    assert sheaf.get(total.options(**on(there)).remote(far, ref), timeout=30) == 3 * LARGE + expected
    assert sheaf.get(total.options(**on(here)).remote(far), timeout=30) == 3 * LARGE
    assert (sheaf.get(far, timeout=30) == 3).all()


def test_a_reference_inside_a_value_keeps_its_object(nodes):
    _, there = node_ids()
    keeper = Counter.options(**on(there)).remote()
    ref = sheaf.put(numpy.full(LARGE, 7, dtype=numpy.uint8))
    sheaf.get(keeper.keep.remote([ref]), timeout=30)
    del ref
    time.sleep(0.3)
    assert (sheaf.get(keeper.kept.remote(), timeout=30) == 7).all()


def test_a_task_on_another_node_gives_references_away(nodes):
    _, there = node_ids()

    @sheaf.remote
    def references():
        return [sheaf.put(numpy.full(LARGE, i, dtype=numpy.uint8)) for i in range(3)]

    refs = sheaf.get(references.options(**on(there)).remote(), timeout=30)
    time.sleep(0.3)
    assert [int(array[0]) for array in sheaf.get(refs, timeout=30)] == [0, 1, 2]


def test_an_actor_on_another_node(nodes):
    _, there = node_ids()
    counter = Counter.options(**on(there)).remote(10)
    assert sheaf.get([counter.add.remote() for _ in range(100)], timeout=30) == list(range(11, 111))
    assert sheaf.get(counter.place.remote(), timeout=30)[0] == there


def test_named_actors_are_found_from_everywhere(nodes):
    here, there = node_ids()
    kept = Counter.options(name="kept", **on(there)).remote(5)
    sheaf.get(kept.add.remote(), timeout=30)

    @sheaf.remote
    def ask():
        return sheaf.get(sheaf.get_actor("kept").add.remote())

    assert sheaf.get(ask.options(**on(here)).remote(), timeout=30) == 7
    assert sheaf.get(ask.options(**on(there)).remote(), timeout=30) == 8


def test_nested_tasks_from_another_node(nodes):
    here, there = node_ids()

    @sheaf.remote
    def outer():
        return sheaf.get([where.options(**on(node)).remote() for node in (here, there)])

    assert sheaf.get(outer.options(**on(there)).remote(), timeout=30) == [here, there]


def test_errors_cross_nodes(nodes):
    _, there = node_ids()

    @sheaf.remote
    def fail():
        raise KeyError("far away")

    with pytest.raises(KeyError, match="far away"):
        sheaf.get(fail.options(**on(there)).remote(), timeout=30)


def test_a_worker_killed_on_another_node(nodes):
    _, there = node_ids()
    counter = Counter.options(max_restarts=1, max_task_retries=2, **on(there)).remote()
    _, victim = sheaf.get(counter.place.remote(), timeout=30)
    os.kill(victim, signal.SIGKILL)
    assert sheaf.get(counter.add.remote(), timeout=30) == 1
    hopeless = Counter.options(**on(there)).remote()
    _, victim = sheaf.get(hopeless.place.remote(), timeout=30)
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(sheaf.exceptions.ActorDiedError):
        sheaf.get(hopeless.add.remote(), timeout=30)


def test_a_node_that_dies_takes_nothing_with_it(nodes):
    """Tasks run again, objects are made again, the actor restarts on the other node."""
    here, there = node_ids()
    counter = Counter.options(
        scheduling_strategy=NodeAffinitySchedulingStrategy(there, soft=True),
        max_restarts=-1,
        max_task_retries=-1,
    ).remote(100)
    assert sheaf.get(counter.place.remote(), timeout=30)[0] == there
    soft = dict(scheduling_strategy=NodeAffinitySchedulingStrategy(there, soft=True))
    lost = make.options(**soft).remote(9)
    sheaf.wait([lost], timeout=30, fetch_local=False)
    running = [nap.options(**soft).remote(2.0) for _ in range(1)]
    time.sleep(0.5)
    os.kill(nodes.pids[1], signal.SIGKILL)
    wait_for(lambda: len([n for n in sheaf.nodes() if n["Alive"]]) == 1)
    assert sheaf.get(running, timeout=60) == [here]
    assert (sheaf.get(lost, timeout=60) == 9).all()
    assert sheaf.get(counter.add.remote(), timeout=60) == 101
    assert sheaf.get(counter.place.remote(), timeout=30)[0] == here


def test_wait_brings_values_here_unless_told_not_to(nodes, tmp_path):
    """What wait() says is ready is on this node, and so outlives the node that made it."""
    runs = tmp_path / "runs"

    @sheaf.remote
    def make_and_count(value):
        with open(runs, "a") as file:
            file.write(f"{value}\n")
        return numpy.full(LARGE, value, dtype=numpy.uint8)

    _, there = node_ids()
    soft = dict(scheduling_strategy=NodeAffinitySchedulingStrategy(there, soft=True))
    fetched, left = (make_and_count.options(**soft).remote(value) for value in (3, 4))
    assert sheaf.wait([left], timeout=30, fetch_local=False) == ([left], [])
    assert sheaf.wait([fetched], timeout=30) == ([fetched], [])
    os.kill(nodes.pids[1], signal.SIGKILL)
    wait_for(lambda: len([n for n in sheaf.nodes() if n["Alive"]]) == 1)
    assert (sheaf.get([fetched, left], timeout=60)[0] == 3).all()
    assert sorted(runs.read_text().split()) == ["3", "4", "4"]


def test_a_program_ends_with_all_its_nodes():
    with LocalNodes(3, num_cpus=1) as cluster:
        pids = cluster.pids
        sheaf.init(address=cluster.session_dir, log_to_driver=False)
        wait_for(lambda: len(sheaf.nodes()) == 3)
        workers = set(sheaf.get([pid.remote() for _ in range(6)], timeout=30))
        sheaf.shutdown()
    for process in [*pids, *workers]:
        wait_for(lambda process=process: not os.path.exists(f"/proc/{process}"))


def test_a_drained_node_gets_no_new_work(nodes):
    here, there = node_ids()
    command = [sys.executable, "-m", "sheaf", "node", "drain", there, "--address"]
    command.append(nodes.session_dir)
    subprocess.run(command, check=True, capture_output=True)
    wait_for(lambda: set(sheaf.get([nap.remote(0.2) for _ in range(3)], timeout=30)) == {here})
    assert set(sheaf.get([nap.remote(0.05) for _ in range(8)], timeout=30)) == {here}
    assert subprocess.run([*command[:4], "no such node"], check=False).returncode != 0
    subprocess.run([*command, "--undo"], check=True, capture_output=True)
    wait_for(lambda: there in sheaf.get([nap.remote(0.3) for _ in range(4)], timeout=30))


def test_a_put_with_replicas_outlives_its_node(nodes):
    _, there = node_ids()

    @sheaf.remote(max_retries=0)
    def store(replicas):
        return [sheaf.put(numpy.full(LARGE, 5, dtype=numpy.uint8), replicas=replicas)]

    safe = sheaf.get(store.options(**on(there)).remote(2), timeout=30)[0]
    single = sheaf.get(store.options(**on(there)).remote(1), timeout=30)[0]

    def copies():
        rows = sheaf.util.state.list_objects(filters=[("object_id", "=", safe.hex())])
        return len({row.node_id for row in rows if row.object_size >= LARGE})

    wait_for(lambda: copies() == 2)
    os.kill(nodes.pids[1], signal.SIGKILL)
    wait_for(lambda: len([n for n in sheaf.nodes() if n["Alive"]]) == 1)
    assert (sheaf.get(safe, timeout=30) == 5).all()
    with pytest.raises(sheaf.exceptions.ObjectLostError):
        sheaf.get(single, timeout=30)
    with pytest.raises(ValueError, match="replicas"):
        sheaf.put(1, replicas=0)
