"""Concurrency groups of actors: threads or an event loop of their own, limits and order of their own."""

from __future__ import annotations

import asyncio
import threading

import pytest

import sheaf

pytestmark = pytest.mark.usefixtures("cluster")


@sheaf.remote
def first_that_is_set(*files):
    import time

    while not any(file.exists() for file in files):
        time.sleep(0.005)
    return 1


@sheaf.remote(concurrency_groups={"io": 2, "compute": 1})
class Threads:
    def __init__(self):
        self.log = []
        self.together = threading.Barrier(2)
        self.release = threading.Event()

    @sheaf.method(concurrency_group="io")
    def io(self):
        self.together.wait(20)
        return threading.get_ident()

    @sheaf.method(concurrency_group="compute")
    def compute(self):
        return threading.get_ident()

    @sheaf.method(concurrency_group="compute")
    def note(self, i):
        self.log.append(i)

    def plain(self):
        return threading.get_ident(), threading.current_thread() is threading.main_thread()

    def block(self):
        return self.release.wait(20)

    @sheaf.method(concurrency_group="io")
    def unblock(self):
        self.release.set()

    @sheaf.method(concurrency_group="io")
    def notes(self):
        return self.log


def test_each_group_has_threads_of_its_own():
    actor = Threads.remote()
    plain = set(sheaf.get([actor.plain.remote() for _ in range(20)]))
    compute = set(sheaf.get([actor.compute.remote() for _ in range(20)]))
    io = set(sheaf.get([actor.io.remote() for _ in range(20)], timeout=30))
    assert len(plain) == 1 and len(compute) == 1 and len(io) == 2
    (ident, is_main), = plain
    assert is_main
    assert not compute & io and ident not in compute | io


def test_order_within_a_group_while_others_are_busy():
    actor = Threads.remote()
    pairs = [actor.io.remote() for _ in range(20)]
    notes = []
    for i in range(300):
        notes.append(actor.note.remote(i))
        if i % 30 == 0:
            actor.plain.remote()
    sheaf.get(notes, timeout=30)
    sheaf.get(pairs, timeout=30)
    assert sheaf.get(actor.notes.remote()) == list(range(300))


def test_a_blocked_default_group_blocks_no_other():
    actor = Threads.remote()
    blocked = actor.block.remote()
    behind = actor.plain.remote()
    assert len(sheaf.get([actor.compute.remote() for _ in range(5)], timeout=10)) == 5
    assert sheaf.wait([behind], timeout=0)[0] == []
    sheaf.get(actor.unblock.remote(), timeout=10)
    assert sheaf.get(blocked, timeout=10) is True
    sheaf.get(behind, timeout=10)


def test_the_group_may_be_chosen_at_the_call():
    actor = Threads.remote()
    compute = sheaf.get(actor.compute.remote())
    assert sheaf.get(actor.plain.options(concurrency_group="compute").remote())[0] == compute
    assert sheaf.get(actor.compute.options(concurrency_group="").remote()) != compute


def test_an_argument_that_is_late_holds_back_its_own_group_only(tmp_path):
    go = tmp_path / "go"
    actor = Threads.remote()
    late = actor.note.remote(first_that_is_set.remote(go))
    behind = actor.note.remote(2)
    sheaf.get(actor.plain.remote(), timeout=10)
    assert sheaf.wait([late, behind], timeout=0)[0] == []
    go.touch()
    sheaf.get([late, behind], timeout=10)
    assert sheaf.get(actor.notes.remote()) == [1, 2]


def test_concurrent_actors_do_not_wait_for_arguments_in_order(tmp_path):
    @sheaf.remote
    class Async:
        async def same(self, x):
            return x

    @sheaf.remote
    def through_a_copy(actor):
        return sheaf.get(actor.same.remote(5), timeout=20)

    go = tmp_path / "go"
    for actor in (Async.remote(), Threads.options(max_concurrency=2).remote()):
        method = actor.same if "same" in dir(actor) else actor.note
        late = method.remote(first_that_is_set.remote(go))
        sheaf.get(method.remote(2), timeout=10)
        assert sheaf.wait([late], timeout=0)[0] == []
    with pytest.raises(ValueError, match="allow_out_of_order_execution"):
        Async.options(allow_out_of_order_execution=False).remote()
    with pytest.raises(ValueError, match="allow_out_of_order_execution"):
        Threads.options(max_concurrency=2, allow_out_of_order_execution=False).remote()
    go.touch()


def test_groups_that_do_not_exist():
    with pytest.raises(ValueError, match="no concurrency group 'nowhere'"):
        Threads.remote().plain.options(concurrency_group="nowhere")

    @sheaf.remote(concurrency_groups={"io": 1})
    class Wrong:
        @sheaf.method(concurrency_group="oi")
        def f(self):
            pass

    with pytest.raises(ValueError, match="no concurrency group 'oi'"):
        Wrong.remote()


@sheaf.remote(concurrency_groups={"io": 2, "solo": 1})
class Loops:
    def __init__(self):
        self.log = []
        self.running = self.most = 0
        self.release = threading.Event()

    @sheaf.method(concurrency_group="io")
    async def io(self):
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.01)
        self.running -= 1
        return threading.get_ident(), id(asyncio.get_running_loop())

    async def plain(self):
        return threading.get_ident(), id(asyncio.get_running_loop())

    async def block(self):
        return self.release.wait(20)

    @sheaf.method(concurrency_group="solo")
    async def unblock(self):
        self.release.set()

    @sheaf.method(concurrency_group="solo")
    async def note(self, i):
        self.log.append(i)
        await asyncio.sleep(0)

    @sheaf.method(concurrency_group="io")
    async def peak(self):
        return self.most

    @sheaf.method(concurrency_group="io")
    async def notes(self):
        return self.log

    @sheaf.method(concurrency_group="io")
    async def nested(self, x):
        return await first_that_is_set.options(num_cpus=0).remote(x)

    @sheaf.method(concurrency_group="solo")
    async def for_ever(self):
        await asyncio.sleep(1000)

    @sheaf.method(concurrency_group="io")
    async def numbers(self, n):
        for i in range(n):
            yield i

    @sheaf.method(concurrency_group="solo")
    async def leave(self):
        sheaf.actor.exit_actor()


def test_each_group_has_an_event_loop_of_its_own(tmp_path):
    actor = Loops.remote()
    io = set(sheaf.get([actor.io.remote() for _ in range(12)]))
    plain = set(sheaf.get([actor.plain.remote() for _ in range(12)]))
    assert len(io) == 1 and len(plain) == 1
    assert not {x for pair in io for x in pair} & {x for pair in plain for x in pair}
    assert sheaf.get(actor.peak.remote()) == 2
    (tmp_path / "go").touch()
    assert sheaf.get(actor.nested.remote(tmp_path / "go"), timeout=20) == 1
    assert [sheaf.get(ref) for ref in actor.numbers.options(num_returns="streaming").remote(5)] == [
        0, 1, 2, 3, 4
    ]


def test_a_call_that_blocks_its_loop_blocks_no_other_group():
    actor = Loops.remote()
    blocked = actor.block.remote()
    behind = actor.plain.remote()
    sheaf.get([actor.io.remote() for _ in range(4)], timeout=10)
    notes = [actor.note.remote(i) for i in range(200)]
    sheaf.get(notes, timeout=10)
    assert sheaf.get(actor.notes.remote(), timeout=10) == list(range(200))
    waiting = actor.for_ever.remote()
    sheaf.get(actor.io.remote(), timeout=10)
    sheaf.cancel(waiting)
    with pytest.raises(sheaf.exceptions.TaskCancelledError):
        sheaf.get(waiting, timeout=10)
    assert sheaf.wait([behind], timeout=0)[0] == []
    sheaf.get(actor.unblock.remote(), timeout=10)
    assert sheaf.get(blocked, timeout=10) is True
    sheaf.get(behind, timeout=10)


def test_exit_from_any_group():
    actor = Loops.remote()
    left = actor.leave.remote()
    with pytest.raises(sheaf.exceptions.RayActorError):
        sheaf.get(left, timeout=20)
    with pytest.raises(sheaf.exceptions.RayActorError):
        sheaf.get(actor.plain.remote(), timeout=20)


@pytest.mark.parametrize("kind", ["threads", "loops"])
def test_many_calls_of_all_groups_are_all_answered(kind):
    if kind == "threads":
        actor = Threads.remote()
        methods = [actor.plain, actor.compute, actor.notes]
    else:
        actor = Loops.remote()
        methods = [actor.plain, actor.peak, actor.notes]
    refs = [methods[i % 3].remote() for i in range(3000)]
    assert len(sheaf.get(refs, timeout=60)) == 3000
