"""References that outlive the process that submitted their task, and the node that owned them."""

import gc
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy
import pytest

import sheaf
from sheaf import _core
from sheaf._local_nodes import LocalNodes
from sheaf.util.scheduling_strategies import NodeAffinitySchedulingStrategy

LARGE = 3 << 20


def wait_for(fact, timeout=60.0):
    end = time.monotonic() + timeout
    while not fact():
        assert time.monotonic() < end, "it did not become true"
        time.sleep(0.02)


def on(node_id, **options):
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=True)
    return dict(scheduling_strategy=strategy, **options)


def lineage_rows():
    """Of this process's node."""
    text, _ = _core.state_query("metrics", {})
    here = f'node_id="{sheaf.get_runtime_context().get_node_id()}"'
    rows = {}
    for line in text.splitlines():
        if "lineage_" in line and here in line:
            name, value = line.split()
            rows[name.split("lineage_")[1].split("{")[0]] = float(value)
    assert len(rows) == 3
    return rows


@sheaf.remote
def rows_there():
    return lineage_rows()


@sheaf.remote
def note(path, value):
    """A large value; one line in `path` a run."""
    with open(path, "a") as file:
        file.write("x\n")
    return numpy.full(LARGE, value, dtype=numpy.uint8)


@sheaf.remote
def plus(array, more):
    return array + numpy.uint8(more)


@sheaf.remote
def slow_note(path, go):
    with open(path, "a") as file:
        file.write("x\n")
    while not os.path.exists(go):
        time.sleep(0.01)
    return 7


@sheaf.remote
class Submitter:
    """Submits tasks and gives their references away."""

    def pid(self):
        return os.getpid()

    def large(self, path, where=None):
        ref = note.options(**(on(where) if where else {})).remote(path, 5)
        sheaf.wait([ref], fetch_local=False)
        return [ref]

    def chain(self, path, where=None):
        options = on(where) if where else {}
        ref = note.options(**options).remote(path, 1)
        for _ in range(3):
            ref = plus.options(**options).remote(ref, 1)
        sheaf.wait([ref], fetch_local=False)
        return [ref]

    def pending(self, path, go):
        self.kept = slow_note.remote(path, go)
        return [self.kept]

    def once(self, path):
        ref = note.options(max_retries=0).remote(path, 5)
        sheaf.wait([ref])
        return [ref, sheaf.put(numpy.zeros(LARGE, dtype=numpy.uint8))]

    def small(self):
        ref = plus.remote(40, 2)
        sheaf.wait([ref])
        return [ref, sheaf.put("small")]


def runs(path):
    return len(pathlib.Path(path).read_text().splitlines())


def lose_everything(spill):
    """Pushes what exists out to disk, and overwrites it there."""
    fillers = [sheaf.put(numpy.full(LARGE * 2, i, dtype=numpy.uint8)) for i in range(16)]
    files = [path for path in pathlib.Path(spill).rglob("*") if path.is_file()]
    for path in files:
        path.write_bytes(b"Z" * path.stat().st_size)
    assert files and fillers


def end(pid):
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))


@pytest.fixture
def small_store(fresh, tmp_path):
    spill = tmp_path / "spill"
    spill.mkdir()
    fresh(
        num_cpus=2, object_store_memory=64 << 20, _system_config={"store.spill_dir": str(spill)}
    )
    yield spill
    gc.collect()
    wait_for(lambda: sum(lineage_rows().values()) == 0)


def test_lost_bytes_of_a_dead_submitters_task(small_store, tmp_path):
    submitter = Submitter.remote()
    (ref,) = sheaf.get(submitter.large.remote(str(tmp_path / "made")))
    (chained,) = sheaf.get(submitter.chain.remote(str(tmp_path / "chain")))
    assert lineage_rows() == {"records": 5, "values": 0, "kept": 0}
    pid = sheaf.get(submitter.pid.remote())
    lose_everything(small_store)
    end(pid)
    assert (sheaf.get(ref, timeout=120) == 5).all()
    assert runs(tmp_path / "made") == 2
    total = sheaf.get(sheaf.remote(lambda a: int(a.sum(dtype=int))).remote(chained), timeout=120)
    assert total == 4 * LARGE
    assert runs(tmp_path / "chain") == 2


def test_a_submitter_that_forgot_the_task_makes_it_again(small_store, tmp_path):
    submitter = Submitter.remote()
    (ref,) = sheaf.get(submitter.large.remote(str(tmp_path / "made")))
    sheaf.get(submitter.pid.remote())
    lose_everything(small_store)
    assert (sheaf.get(ref, timeout=120) == 5).all()
    assert runs(tmp_path / "made") == 2
    del ref


def test_a_task_whose_submitter_dies_while_it_runs(small_store, tmp_path):
    submitter = Submitter.remote()
    go = tmp_path / "go"
    (ref,) = sheaf.get(submitter.pending.remote(str(tmp_path / "run"), str(go)))
    wait_for(lambda: os.path.exists(tmp_path / "run"))
    end(sheaf.get(submitter.pid.remote()))
    waiting, _ = sheaf.wait([ref], timeout=0.1)
    assert not waiting
    go.touch()
    assert sheaf.get(ref, timeout=120) == 7


def test_what_cannot_be_made_again_is_an_error_at_once(small_store, tmp_path):
    submitter = Submitter.remote()
    once, stored = sheaf.get(submitter.once.remote(str(tmp_path / "made")))
    pid = sheaf.get(submitter.pid.remote())
    lose_everything(small_store)
    end(pid)
    for ref in (once, stored):
        with pytest.raises(sheaf.exceptions.ObjectLostError):
            sheaf.get(ref, timeout=20)
    assert runs(tmp_path / "made") == 1


def test_the_process_that_makes_it_again_dies_too(small_store, tmp_path):
    """A borrower of the reference asks for it; whoever runs the task is killed at it."""
    submitter = Submitter.remote()
    (ref,) = sheaf.get(submitter.large.remote(str(tmp_path / "made")))
    sheaf.get(submitter.pid.remote())
    lose_everything(small_store)
    end(sheaf.get(submitter.pid.remote()))

    @sheaf.remote(max_retries=-1)
    def total(refs):
        return int(sheaf.get(refs[0]).sum(dtype=int))

    sums = [total.remote([ref]) for _ in range(2)]
    for _ in range(6):
        time.sleep(0.02)
        for row in sheaf.util.state.list_workers():
            if row.get("worker_type") == "WORKER" and row.get("is_alive"):
                try:
                    os.kill(row.get("pid"), signal.SIGKILL)
                except ProcessLookupError:
                    pass
                break
    assert sheaf.get(sums, timeout=120) == [5 * LARGE] * 2


@pytest.fixture
def three_nodes():
    sheaf.shutdown()
    with LocalNodes(3, num_cpus=2) as cluster:
        sheaf.init(address=cluster.session_dir, log_to_driver=False)
        wait_for(lambda: len(sheaf.nodes()) == 3)
        here = sheaf.get_runtime_context().get_node_id()
        others = [row["NodeID"] for row in sheaf.nodes() if row["NodeID"] != here]
        pid_of = {}
        for node in others:
            pid_of[node] = sheaf.get(parent_pid.options(**on(node)).remote(), timeout=120)
        yield others, pid_of, cluster.session_dir
        gc.collect()
        wait_for(lambda: sum(lineage_rows().values()) == 0)
        sheaf.shutdown()


@sheaf.remote
def parent_pid():
    """The node's daemon: the parent of the process that workers are forked from."""
    pid = os.getpid()
    while True:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        if "\nName:\tsheafd" in "\n" + status:
            return pid
        pid = int(status.split("PPid:")[1].split()[0])


def alive():
    return sum(row["Alive"] for row in sheaf.nodes())


def test_the_node_that_owned_it_and_the_one_that_had_it_die(three_nodes, tmp_path):
    (owner, maker), pid_of, _ = three_nodes
    submitter = Submitter.options(**on(owner)).remote()
    (ref,) = sheaf.get(submitter.large.remote(str(tmp_path / "made"), maker), timeout=120)
    (chained,) = sheaf.get(submitter.chain.remote(str(tmp_path / "chain"), maker), timeout=120)
    small, put = sheaf.get(submitter.small.remote(), timeout=120)
    assert lineage_rows()["kept"] == 7
    assert sheaf.get(rows_there.options(**on(owner)).remote(), timeout=120)["records"] == 5
    for pid in pid_of.values():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: alive() == 1)
    assert (sheaf.get(ref, timeout=120) == 5).all()
    assert (sheaf.get(chained, timeout=120) == 4).all()
    assert sheaf.get([small, put], timeout=120) == [42, "small"]
    assert runs(tmp_path / "made") == 2 and runs(tmp_path / "chain") == 2


def test_the_node_that_had_the_bytes_dies_after_the_submitter(three_nodes, tmp_path):
    (owner, maker), pid_of, _ = three_nodes
    submitter = Submitter.options(**on(owner)).remote()
    (ref,) = sheaf.get(submitter.chain.remote(str(tmp_path / "chain"), maker), timeout=120)
    sheaf.kill(submitter)
    os.kill(pid_of[maker], signal.SIGKILL)
    wait_for(lambda: alive() == 2)
    assert (sheaf.get(ref, timeout=120) == 4).all()
    assert runs(tmp_path / "chain") == 2
    del ref
    gc.collect()
    empty = {"records": 0, "values": 0, "kept": 0}
    wait_for(lambda: sheaf.get(rows_there.options(**on(owner)).remote(), timeout=120) == empty)


_OTHER_JOB = """
import sys
sys.path.insert(0, sys.argv[1])
import sheaf, test_lineage
sheaf.init(address=sys.argv[2], namespace="lineage", log_to_driver=False)
for name, node in zip(("one", "two"), sys.argv[3:]):
    actor = test_lineage.Submitter.options(
        name=name, lifetime="detached", **test_lineage.on(node)).remote()
    sheaf.get(actor.pid.remote(), timeout=120)
"""


def test_another_process_of_a_job_whose_driver_has_ended(three_nodes, tmp_path):
    """A detached actor on another node runs the task again."""
    (owner, maker), pid_of, address = three_nodes
    here = sheaf.get_runtime_context().get_node_id()
    words = [str(pathlib.Path(__file__).parent), address, owner, here]
    subprocess.run([sys.executable, "-c", _OTHER_JOB, *words], check=True, timeout=120)
    one, two = (sheaf.get_actor(name, namespace="lineage") for name in ("one", "two"))
    (ref,) = sheaf.get(one.large.remote(str(tmp_path / "made"), maker), timeout=120)
    sheaf.kill(one)
    os.kill(pid_of[maker], signal.SIGKILL)
    wait_for(lambda: alive() == 2)
    assert (sheaf.get(ref, timeout=120) == 5).all()
    assert runs(tmp_path / "made") == 2
    sheaf.kill(two)
