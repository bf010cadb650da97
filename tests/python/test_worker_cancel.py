"""Cancelling reaches the task it was meant for, wherever that is, and never another one."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

import sheaf
from sheaf.exceptions import TaskCancelledError

from conftest import wait_until

pytestmark = pytest.mark.usefixtures("cluster")

SEED = 20261121


@sheaf.remote
def nap(i, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return i


def outcome(ref):
    try:
        return sheaf.get(ref, timeout=30)
    except TaskCancelledError:
        return "cancelled"


def test_races_of_cancel_and_end_hit_nobody_else():
    print("seed", SEED)
    dice = random.Random(SEED)
    for _ in range(15):
        refs = [nap.remote(i, 0.0005) for i in range(40)]
        wanted = {i for i in range(40) if dice.random() < 0.4}
        for i in wanted:
            time.sleep(dice.random() * 0.001)
            sheaf.cancel(refs[i])
        for i, ref in enumerate(refs):
            got = outcome(ref)
            assert got == i or (got == "cancelled" and i in wanted), (i, got)
    assert sheaf.get(nap.remote(1, 0)) == 1


@pytest.mark.parametrize("code", ["time.sleep(100)", "while True: pass", "sheaf.get(nap.remote(0, 100))",
                                  "import threading; threading.Event().wait()", "subprocess.run(['sleep', '100'])"])
def test_what_a_running_task_may_be_doing(code, tmp_path):
    started = tmp_path / "started"

    @sheaf.remote
    def busy():
        import subprocess  # noqa: F401
        started.touch()
        exec(code, {"time": time, "sheaf": sheaf, "nap": nap, "subprocess": subprocess})

    ref = busy.remote()
    while not started.exists():
        time.sleep(0.01)
    sheaf.cancel(ref)
    with pytest.raises(TaskCancelledError):
        sheaf.get(ref, timeout=30)


def test_user_code_may_clean_up_and_may_refuse(tmp_path):
    started = [tmp_path / "cleans", tmp_path / "refuses"]

    @sheaf.remote
    def cleans(box):
        try:
            started[0].touch()
            time.sleep(100)
        finally:
            sheaf.get(box.add.remote("clean"))

    @sheaf.remote
    def refuses():
        try:
            started[1].touch()
            time.sleep(100)
        except KeyboardInterrupt:
            return "finished anyway"

    @sheaf.remote
    class Box:
        def __init__(self):
            self.items = []

        def add(self, item):
            self.items.append(item)

        def all(self):
            return self.items

    box = Box.remote()
    refs = [cleans.remote(box), refuses.remote()]
    wait_until(lambda: all(file.exists() for file in started), what="the tasks' start")
    for ref in refs:
        sheaf.cancel(ref)
    assert outcome(refs[0]) == "cancelled"
    assert outcome(refs[1]) in ("finished anyway", "cancelled")
    assert sheaf.get(box.all.remote()) == ["clean"]


@sheaf.remote
class AsyncActor:
    def __init__(self):
        self.cancelled = []

    async def wait_for_ever(self, name):
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise

    async def names(self):
        return self.cancelled


def test_coroutines():
    actor = AsyncActor.remote()
    refs = [actor.wait_for_ever.remote(i) for i in range(5)]
    assert sheaf.get(actor.names.remote()) == []
    for i in (1, 3):
        sheaf.cancel(refs[i])
        assert outcome(refs[i]) == "cancelled"
    assert sheaf.get(actor.names.remote()) == [1, 3]
    ready, _ = sheaf.wait(refs, num_returns=5, timeout=0.2)
    assert len(ready) == 2
    sheaf.kill(actor)


def test_coroutines_that_wait_for_their_turn():
    actor = AsyncActor.options(max_concurrency=1).remote()
    refs = [actor.wait_for_ever.remote(i) for i in range(3)]
    time.sleep(0.3)
    sheaf.cancel(refs[1])
    assert outcome(refs[1]) == "cancelled"
    sheaf.cancel(refs[0])
    assert outcome(refs[0]) == "cancelled"
    sheaf.cancel(refs[2])
    assert outcome(refs[2]) == "cancelled"
    assert 1 not in sheaf.get(actor.names.remote())


def test_queued_calls_of_an_actor(tmp_path):
    go = tmp_path / "go"

    @sheaf.remote
    class Slow:
        def __init__(self):
            self.ran = []

        def work(self, i):
            while not go.exists():
                time.sleep(0.01)
            time.sleep(0.2)
            self.ran.append(i)

        def all(self):
            return self.ran

    actor = Slow.remote()
    refs = [actor.work.remote(i) for i in range(4)]
    sheaf.cancel(refs[2])
    go.touch()
    assert outcome(refs[2]) == "cancelled"
    assert sheaf.get(actor.all.remote()) == [0, 1, 3]


def test_streams():
    @sheaf.remote
    def numbers():
        i = 0
        while True:
            yield i
            i += 1
            time.sleep(0.01)

    stream = numbers.remote()
    assert sheaf.get(next(stream)) == 0
    sheaf.cancel(stream)
    with pytest.raises(TaskCancelledError):
        for ref in stream:
            sheaf.get(ref)
