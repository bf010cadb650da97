"""Cancelling a task through a reference that another process has made."""

from __future__ import annotations

import time

import pytest

import sheaf
from sheaf.exceptions import TaskCancelledError, WorkerCrashedError

from conftest import wait_until

pytestmark = pytest.mark.usefixtures("cluster")


@sheaf.remote(num_cpus=0)
def for_ever(started):
    started.touch()
    time.sleep(1000)


@sheaf.remote(num_cpus=0)
def parent(started, child_started):
    child = for_ever.remote(child_started)
    started.touch()
    sheaf.get(child)


@sheaf.remote(num_cpus=0)
class Keeper:
    """Submits tasks, gives their references away, cancels those of others."""

    def __init__(self):
        self.refs = []

    def start(self, started):
        self.refs.append(for_ever.remote(started))
        return self.refs[-1:]

    def cancel(self, refs, **how):
        for ref in refs:
            sheaf.cancel(ref, **how)

    def cancel_through_a_task(self, refs, **how):
        @sheaf.remote(num_cpus=0)
        def cancel(borrowed):
            sheaf.cancel(borrowed[0], **how)

        sheaf.get(cancel.remote(refs))

    def outcome(self):
        try:
            return sheaf.get(self.refs.pop(), timeout=30)
        except TaskCancelledError:
            return "cancelled"


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("through", ["cancel", "cancel_through_a_task"])
def test_a_borrower_cancels_the_drivers_task(tmp_path, force, through):
    started = tmp_path / "started"
    keeper = Keeper.remote()
    ref = for_ever.remote(started)
    wait_until(started.exists, what="the task's start")
    sheaf.get(getattr(keeper, through).remote([ref], force=force))
    with pytest.raises((TaskCancelledError, WorkerCrashedError)):
        sheaf.get(ref, timeout=30)


def test_the_driver_cancels_a_workers_task(tmp_path):
    started = tmp_path / "started"
    keeper = Keeper.remote()
    (ref,) = sheaf.get(keeper.start.remote(started))
    wait_until(started.exists, what="the task's start")
    sheaf.cancel(ref)
    with pytest.raises(TaskCancelledError):
        sheaf.get(ref, timeout=30)
    assert sheaf.get(keeper.outcome.remote(), timeout=30) == "cancelled"


def test_a_task_that_has_not_started(tmp_path):
    keeper = Keeper.remote()
    ref = for_ever.options(resources={"gold": 2}).remote(tmp_path / "first")
    wait_until((tmp_path / "first").exists, what="the task's start")
    waits = for_ever.options(resources={"gold": 2}).remote(tmp_path / "never")
    depends = for_ever.remote(waits)
    sheaf.get(keeper.cancel.remote([depends, waits]))
    for cancelled in (waits, depends):
        with pytest.raises(TaskCancelledError):
            sheaf.get(cancelled, timeout=30)
    sheaf.cancel(ref)
    with pytest.raises(TaskCancelledError):
        sheaf.get(ref, timeout=30)
    assert not (tmp_path / "never").exists()


def test_recursive_or_not(tmp_path):
    keeper = Keeper.remote()
    for recursive in (True, False):
        files = [tmp_path / f"{name}{recursive}" for name in ("parent", "child")]
        ref = parent.remote(*files)
        wait_until(lambda: all(file.exists() for file in files), what="both tasks' start")
        sheaf.get(keeper.cancel.remote([ref], recursive=recursive))
        with pytest.raises(TaskCancelledError):
            sheaf.get(ref, timeout=30)

        def running():
            from sheaf.util.state import list_tasks

            return [t for t in list_tasks(filters=[("state", "=", "RUNNING")]) if "for_ever" in t.name]

        if recursive:
            wait_until(lambda: not running(), what="the child's end")
        else:
            assert running()


def test_what_has_ended_or_was_put_is_left_alone():
    keeper = Keeper.remote()
    done = sheaf.put(1)
    sheaf.get(keeper.cancel.remote([done]))
    assert sheaf.get(done) == 1
    (mine,) = sheaf.get(sheaf.remote(lambda: [sheaf.put(2)]).remote())
    sheaf.cancel(mine)
    assert sheaf.get(mine) == 2
