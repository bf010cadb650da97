"""The state API and the timeline."""

import json
import os

import pytest
import sheaf
from conftest import wait_until
from sheaf.util import state

pytestmark = pytest.mark.usefixtures("cluster")


@sheaf.remote
def work(x):
    return x


@sheaf.remote
def broken():
    raise ValueError("x")


def test_lists():
    sheaf.get([work.options(name="state work").remote(i) for i in range(5)])
    ref = broken.remote()
    with pytest.raises(ValueError):
        sheaf.get(ref)
    (node,) = state.list_nodes()
    assert node.state == "ALIVE" and node.is_head_node and node["resources_total"]["CPU"] == 4.0
    assert state.get_node(node.node_id) == node
    rows = wait_until(lambda: _finished("state work", 5), what="finished tasks")
    assert rows[0].type == "NORMAL_TASK" and rows[0].start_time_ms > 0 and rows[0].worker_pid
    failed = wait_until(
        lambda: state.list_tasks(filters=[("state", "=", "FAILED")]), what="the failed task"
    )
    assert failed[0].func_or_class_name.endswith("broken")
    assert state.get_task(ref).task_id == ref.task_id().hex()
    drivers = state.list_workers(filters=[("worker_type", "=", "DRIVER")])
    assert [row.pid for row in drivers] == [os.getpid()]
    (job,) = state.list_jobs()
    assert job.status == "RUNNING" and job.job_id == sheaf.get_runtime_context().get_job_id()
    assert state.get_job(job.job_id) == job
    worker = sheaf.get_runtime_context().get_worker_id()
    assert state.get_worker(worker).pid == os.getpid()
    assert state.list_placement_groups() == []
    assert isinstance(state.list_runtime_envs(), list)


def test_events_tell_of_deaths_and_of_what_cannot_be_placed():
    @sheaf.remote(max_retries=0)
    def die():
        os.kill(os.getpid(), 9)

    with pytest.raises(sheaf.exceptions.WorkerCrashedError):
        sheaf.get(die.remote(), timeout=30)
    waiting = work.options(resources={"no such thing": 1}).remote(1)

    def seen():
        rows = state.list_cluster_events(limit=1000)
        texts = [(row.severity, row.source_type, row.message) for row in rows]
        return (
            # How it ended is known only when the system has told in time; that it ended always.
            any(
                s == "WARNING" and where == "WORKERS" and "the worker process" in text
                for s, where, text in texts
            )
            and any(where == "SCHEDULER" and "no such thing" in text for _, where, text in texts)
            and any(s == "INFO" and where == "JOBS" for s, where, _ in texts)
        )

    wait_until(seen)
    assert len(state.list_cluster_events(limit=1)) == 1
    sheaf.cancel(waiting)


def _finished(name, count):
    rows = state.list_tasks(filters=[("name", "=", name), ("state", "=", "FINISHED")])
    return rows if len(rows) == count else None


def test_filters_and_limits():
    sheaf.get([work.remote(i) for i in range(5)])
    assert len(state.list_tasks(limit=2)) <= 2
    for bad in (
        {"limit": 0},
        {"limit": "x"},
        {"limit": 10**6},
        {"filters": [("a", ">", 1)]},
        {"filters": ["a"]},
    ):
        with pytest.raises(ValueError):
            state.list_tasks(**bad)
    assert state.list_actors(filters=[("state", "!=", "DEAD"), ("class_name", "=", "Nobody")]) == []
    assert state.get_actor("00" * 16) is None


def test_summaries():
    sheaf.get([work.options(name="counted").remote(i) for i in range(3)])
    wait_until(lambda: _finished("counted", 3), what="finished tasks")
    found = state.summarize_tasks()["cluster"]
    assert found["summary"]["counted"]["state_counts"] == {"FINISHED": 3}
    keep = sheaf.put(bytes(1_000_000))
    assert state.summarize_objects()["cluster"]["total_objects"] >= 1
    assert "summary" in state.summarize_actors()["cluster"]
    del keep


def test_objects():
    ref = sheaf.put(bytes(2_000_000))
    (row,) = state.get_objects(ref.hex())
    assert row.object_size >= 2_000_000 and row.pid == os.getpid()
    assert state.get_objects("00" * 16) == []


def test_logs():
    @sheaf.remote
    class Talker:
        def talk(self):
            print("a line of the talker", flush=True)
            return os.getpid()

    talker = Talker.remote()
    pid = sheaf.get(talker.talk.remote())
    wait_until(lambda: "a line of the talker" in "".join(state.get_log(pid=pid)), what="the line")
    assert "a line of the talker" in "".join(state.get_log(actor_id=talker._actor_id.hex(), tail=5))
    assert any(f"worker-{pid}.out" in names for names in state.list_logs().values())
    assert "".join(state.list_logs(glob_filter="sheafd*").get("daemon", [])).startswith("sheafd")
    for wrong in ({}, {"filename": "none"}, {"actor_id": "00" * 16}):
        with pytest.raises(ValueError):
            state.get_log(**wrong)


def test_timeline(tmp_path):
    sheaf.get([work.options(name="timed").remote(i) for i in range(3)])
    wait_until(lambda: _finished("timed", 3), what="finished tasks")
    events = [event for event in sheaf.timeline() if event["name"] == "timed"]
    assert len(events) == 3 and all(event["ph"] == "X" and event["dur"] >= 0 for event in events)
    sheaf.timeline(str(tmp_path / "t.json"))
    assert json.loads((tmp_path / "t.json").read_text())


def test_the_client():
    client = state.StateApiClient()
    assert client.list("nodes")[0].state == "ALIVE" and client.get("nodes", "x") is None
    assert "cluster" in client.summary("tasks")
