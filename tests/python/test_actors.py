"""Actors: calls, state, concurrency, names, lifetimes, deaths."""

import asyncio
import os
import pickle
import subprocess
import sys
import threading
import time

import pytest
import sheaf
from conftest import wait_until
from sheaf.exceptions import ActorDiedError, RayActorError

pytestmark = pytest.mark.usefixtures("cluster")


@sheaf.remote
class Counter:
    """Counts."""

    kind = "counter"

    def __init__(self, start=0, fail=None):
        if fail is not None:
            raise fail
        self.value = start

    def add(self, n=1):
        self.value += n
        return self.value

    def pid(self):
        return os.getpid()

    def die(self, status=1):
        os._exit(status)

    def kill(self):
        os.kill(os.getpid(), 9)

    def leave(self):
        sheaf.actor.exit_actor()

    def exit(self):
        sys.exit(0)

    def broken(self):
        raise KeyError("broken")

    def sleep(self, seconds):
        time.sleep(seconds)
        return self.value

    @staticmethod
    def static(x):
        return x + 1

    @classmethod
    def of_class(cls):
        return cls.__name__, cls.kind

    @property
    def doubled(self):
        return 2 * self.value

    @sheaf.method(num_returns=2)
    def two(self):
        return 1, 2


def test_state_and_order():
    counter = Counter.remote(10)
    assert sheaf.get([counter.add.remote() for _ in range(100)]) == list(range(11, 111))
    assert sheaf.get(counter.add.remote(n=5)) == 115


def test_kinds_of_methods():
    counter = Counter.remote()
    assert sheaf.get(counter.static.remote(1)) == 2
    assert sheaf.get(counter.of_class.remote()) == ("Counter", "counter")
    assert sheaf.get(counter.two.remote()) == [1, 2]
    assert sheaf.get(counter.two.options(num_returns=1).remote()) == (1, 2)
    for name in ("nothing", "doubled", "kind"):
        with pytest.raises(AttributeError, match=name):
            getattr(counter, name)
    with pytest.raises(TypeError, match="add.remote"):
        counter.add()
    assert "add" in dir(counter)


def test_calls_that_every_actor_answers():
    counter = Counter.remote(3)
    assert sheaf.get(counter.__ray_ready__.remote()) is True
    assert sheaf.get(counter.__ray_call__.remote(lambda self, x: (self.value, x), 5)) == (3, 5)


def test_wrong_arguments_fail_at_the_call():
    with pytest.raises(TypeError, match="too many positional"):
        Counter.remote(1, 2, 3)
    with pytest.raises(TypeError, match="unexpected keyword"):
        Counter.remote(nothing=1)
    counter = Counter.remote()
    with pytest.raises(TypeError, match="too many positional"):
        counter.add.remote(1, 2)
    with pytest.raises(TypeError, match="missing a required argument: 'seconds'"):
        counter.sleep.remote()


def test_inheritance():
    class Base:
        def __init__(self, x):
            self.x = x

        def name(self):
            return "base"

        def value(self):
            return self.x

    @sheaf.remote
    class Derived(Base):
        def __init__(self, x):
            super().__init__(x + 1)

        def name(self):
            return "derived of " + super().name()

    derived = Derived.remote(1)
    assert sheaf.get([derived.name.remote(), derived.value.remote()]) == ["derived of base", 2]


def test_errors_of_methods_leave_the_actor_alive():
    counter = Counter.remote(1)
    with pytest.raises(KeyError, match="broken") as info:
        sheaf.get(counter.broken.remote())
    assert "Counter.broken" in str(info.value)
    assert sheaf.get(counter.add.remote()) == 2


def test_errors_of_the_constructor():
    counter = Counter.remote(fail=ValueError("bad start"))
    with pytest.raises(ActorDiedError, match="bad start") as info:
        sheaf.get(counter.add.remote())
    assert info.value.actor_init_failed and isinstance(
        info.value.__cause__, sheaf.exceptions.RayTaskError
    )
    with pytest.raises(RayActorError):
        sheaf.get(counter.add.remote())


@pytest.mark.parametrize("method", ["die", "kill", "leave", "exit"])
def test_ends_of_an_actor(method):
    counter = Counter.remote()
    with pytest.raises(RayActorError):
        sheaf.get(getattr(counter, method).remote(), timeout=30)
    with pytest.raises(ActorDiedError):
        sheaf.get(counter.add.remote(), timeout=30)


def test_killing():
    counter = Counter.remote()
    pid = sheaf.get(counter.pid.remote())
    pending = counter.sleep.remote(100)
    sheaf.kill(counter)
    with pytest.raises(ActorDiedError):
        sheaf.get(pending, timeout=30)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), what="the process's end")
    with pytest.raises(ValueError, match="actors"):
        sheaf.kill(3)


def test_restarts():
    counter = Counter.options(max_restarts=1).remote(5)
    first = sheaf.get(counter.pid.remote())
    with pytest.raises(RayActorError):
        sheaf.get(counter.die.remote(), timeout=30)

    def second_pid():
        try:
            return sheaf.get(counter.pid.remote(), timeout=30)
        except sheaf.exceptions.ActorUnavailableError:
            return None

    assert wait_until(second_pid) != first
    assert sheaf.get(counter.add.remote()) == 6  # a new start, from the constructor's arguments
    counter.die.remote()
    wait_until(lambda: _is_dead(counter), what="the death after the last restart")


def _is_dead(actor):
    try:
        sheaf.get(actor.pid.remote(), timeout=30)
    except ActorDiedError:
        return True
    except RayActorError:
        return False
    return False


def test_restart_after_kill_only_when_asked():
    counter = Counter.options(max_restarts=-1).remote()
    first = sheaf.get(counter.pid.remote())
    sheaf.kill(counter, no_restart=False)
    wait_until(lambda: _pid_or_none(counter) not in (None, first), what="the restart")
    sheaf.kill(counter)
    wait_until(lambda: _is_dead(counter), what="the death")


def test_a_kill_before_the_start_counts_as_a_restart():
    waiting = Counter.options(resources={"not here": 1}, max_restarts=1).remote()
    sheaf.kill(waiting, no_restart=False)
    assert sheaf.wait([waiting.pid.remote()], timeout=0.3)[0] == []
    sheaf.kill(waiting, no_restart=False)
    with pytest.raises(RayActorError):
        sheaf.get(waiting.pid.remote(), timeout=20)


def _pid_or_none(actor):
    try:
        return sheaf.get(actor.pid.remote(), timeout=30)
    except RayActorError:
        return None


def test_calls_are_run_again_after_a_restart(tmp_path):
    @sheaf.remote(max_restarts=-1, max_task_retries=-1)
    class Fragile:
        def once(self, path):
            if not os.path.exists(path):
                open(path, "w").close()
                os._exit(1)
            return os.getpid()

    fragile = Fragile.remote()
    assert sheaf.get(fragile.once.remote(str(tmp_path / "x")), timeout=60) > 0


def test_handles_can_be_passed_stored_and_pickled():
    counter = Counter.remote()

    @sheaf.remote
    def use(holder):
        return sheaf.get(holder["actor"].add.remote())

    assert sheaf.get(use.remote({"actor": counter})) == 1
    assert sheaf.get(sheaf.get(sheaf.put([counter]))[0].add.remote()) == 2
    again = pickle.loads(pickle.dumps(counter))
    assert again == counter and len({again, counter}) == 1 and sheaf.get(again.add.remote()) == 3
    method = pickle.loads(pickle.dumps(counter.add))
    assert sheaf.get(method.remote()) == 4


def test_actors_make_actors():
    @sheaf.remote(num_cpus=0)
    class Parent:
        def make(self):
            self.child = Counter.options(num_cpus=0).remote(7)
            return self.child

    parent = Parent.remote()
    child = sheaf.get(parent.make.remote())
    assert sheaf.get(child.add.remote()) == 8


def test_an_actor_without_handles_ends():
    counter = Counter.remote()
    pid = sheaf.get(counter.pid.remote())
    result = counter.add.remote()
    del counter
    assert sheaf.get(result) == 1
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), what="the process's end")


def test_a_handle_on_its_way_keeps_the_actor():
    @sheaf.remote
    def use(holder, _):
        return sheaf.get(holder[0].add.remote())

    @sheaf.remote
    def slow():
        time.sleep(2.5)  # longer than the keeper's look

    counter = Counter.remote(5)
    pid = sheaf.get(counter.pid.remote())
    result = use.remote([counter], slow.remote())
    stored = sheaf.put({"actor": counter})
    del counter
    assert sheaf.get(result, timeout=30) == 6
    time.sleep(1.5)
    assert sheaf.get(sheaf.get(stored)["actor"].add.remote()) == 7
    del stored
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), 15, "the process's end")


def test_a_temporary_handle_is_enough():
    assert sheaf.get(Counter.remote(4).add.remote()) == 5
    method = Counter.remote(6).add
    assert sheaf.get([method.remote(), method.remote()]) == [7, 8]


# ---- Names


def test_names():
    counter = Counter.options(name="the counter").remote(1)
    assert sheaf.get(sheaf.get_actor("the counter").add.remote()) == 2
    assert sheaf.get_actor("the counter") == counter
    assert "the counter" in sheaf.util.list_named_actors()
    assert {"name": "the counter", "namespace": "tests"} in sheaf.util.list_named_actors(
        all_namespaces=True
    )
    with pytest.raises(ValueError, match="the counter") as info:
        Counter.options(name="the counter").remote()
    assert isinstance(info.value, sheaf.exceptions.ActorAlreadyExistsError)
    for wrong, error in (("nobody", ValueError), ("", ValueError), (3, TypeError)):
        with pytest.raises(error):
            sheaf.get_actor(wrong)
    with pytest.raises(ValueError):
        sheaf.get_actor("the counter", namespace="elsewhere")
    sheaf.kill(counter)
    wait_until(
        lambda: "the counter" not in sheaf.util.list_named_actors(), what="the name's release"
    )
    again = Counter.options(name="the counter").remote(5)
    assert sheaf.get(again.add.remote()) == 6
    sheaf.kill(again)


def test_namespaces():
    counter = Counter.options(name="spaced", namespace="other").remote(1)
    assert sheaf.get(sheaf.get_actor("spaced", namespace="other").add.remote()) == 2
    with pytest.raises(ValueError):
        sheaf.get_actor("spaced")
    sheaf.kill(counter)


def test_get_if_exists():
    shared = Counter.options(name="shared", get_if_exists=True)
    first, second = shared.remote(1), shared.remote(100)
    assert first == second and sheaf.get([first.add.remote(), second.add.remote()]) == [2, 3]
    sheaf.kill(first)


def test_get_if_exists_in_a_race():
    shared = Counter.options(name="raced", get_if_exists=True, num_cpus=0)

    @sheaf.remote(num_cpus=0)
    def take():
        return sheaf.get(shared.remote().pid.remote())

    keep = shared.remote()
    assert len(set(sheaf.get([take.remote() for _ in range(8)], timeout=60))) == 1
    sheaf.kill(keep)


def test_detached_actors_outlive_their_driver():
    session = sheaf.get_runtime_context().gcs_address
    code = f"""
import sheaf
sheaf.init(address={session!r}, namespace='tests')
@sheaf.remote
class Box:
    def get(self): return 42
sheaf.get([Box.options(name='kept', lifetime='detached').remote().get.remote(),
           Box.options(name='lost').remote().get.remote()])
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert sheaf.get(sheaf.get_actor("kept").get.remote()) == 42
    wait_until(lambda: "lost" not in sheaf.util.list_named_actors(), what="the end of the other")
    sheaf.kill(sheaf.get_actor("kept"))


# ---- Concurrency


def test_async_actors():
    @sheaf.remote
    class Async:
        def __init__(self):
            self.event = asyncio.Event()

        async def wait(self):
            await self.event.wait()
            return "woken"

        async def wake(self):
            self.event.set()

        def plain(self):
            return "plain"

        async def broken(self):
            raise ValueError("async")

        async def awaits_a_reference(self, refs):
            return await refs[0] + 1

        async def forever(self):
            await asyncio.sleep(100)

        async def leave(self):
            sheaf.actor.exit_actor()

    actor = Async.remote()
    waiting = [actor.wait.remote() for _ in range(100)]
    assert sheaf.wait(waiting, timeout=0.2)[0] == []
    assert sheaf.get(actor.plain.remote()) == "plain"
    sheaf.get(actor.wake.remote())
    assert sheaf.get(waiting, timeout=20) == ["woken"] * 100
    with pytest.raises(ValueError, match="async"):
        sheaf.get(actor.broken.remote())
    assert sheaf.get(actor.awaits_a_reference.remote([sheaf.put(1)])) == 2
    endless = actor.forever.remote()
    assert sheaf.wait([endless], timeout=0.2)[0] == []
    with pytest.raises(ValueError, match="force=True is not supported"):
        sheaf.cancel(endless, force=True)
    sheaf.cancel(endless)
    with pytest.raises(sheaf.exceptions.TaskCancelledError):
        sheaf.get(endless, timeout=20)
    with pytest.raises(RayActorError):
        sheaf.get(actor.leave.remote(), timeout=20)


def test_async_concurrency_has_a_limit():
    @sheaf.remote(max_concurrency=2)
    class Limited:
        def __init__(self):
            self.now = self.most = 0

        async def work(self):
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.02)
            self.now -= 1
            return self.most

    limited = Limited.remote()
    assert max(sheaf.get([limited.work.remote() for _ in range(10)])) == 2


def test_threaded_actors():
    @sheaf.remote(max_concurrency=4)
    class Threaded:
        def __init__(self):
            self.barrier = threading.Barrier(4)

        def meet(self):
            self.barrier.wait(20)
            return threading.get_ident()

    threaded = Threaded.remote()
    assert len(set(sheaf.get([threaded.meet.remote() for _ in range(4)], timeout=30))) == 4


def test_concurrency_groups():
    @sheaf.remote(concurrency_groups={"io": 2})
    class Grouped:
        def __init__(self):
            self.gate = threading.Event()

        @sheaf.method(concurrency_group="io")
        def wait(self):
            return self.gate.wait(20)

        def open(self):
            self.gate.set()
            return True

    grouped = Grouped.remote()
    waiting = [grouped.wait.remote() for _ in range(2)]
    assert sheaf.get(grouped.open.remote(), timeout=20)
    assert sheaf.get(waiting, timeout=20) == [True, True]
    assert sheaf.get(grouped.open.options(concurrency_group="io").remote())


def test_pending_calls_have_a_limit():
    counter = Counter.options(max_pending_calls=3).remote()
    refs = [counter.sleep.remote(0.5) for _ in range(3)]
    with pytest.raises(sheaf.exceptions.PendingCallsLimitExceeded):
        for _ in range(10):
            refs.append(counter.add.remote())
    sheaf.get(refs[:3])
    assert sheaf.get(counter.add.remote()) >= 1


@pytest.mark.parametrize("out_of_order, first", [(True, "free"), (False, "waits")])
def test_order_of_calls_that_wait_for_arguments(out_of_order, first, tmp_path):
    go = tmp_path / "go"

    @sheaf.remote(allow_out_of_order_execution=out_of_order)
    class Log:
        def __init__(self):
            self.order = []

        def note(self, what, _=None):
            self.order.append(what)
            return list(self.order)

    @sheaf.remote
    def slow():
        while not go.exists():
            time.sleep(0.01)

    log = Log.remote()
    refs = [log.note.remote("waits", slow.remote()), log.note.remote("free")]
    if out_of_order:
        sheaf.get(refs[1], timeout=30)
    else:
        assert sheaf.wait(refs, timeout=0.3)[0] == []
    go.touch()
    sheaf.get(refs)
    assert sheaf.get(log.note.remote("end"))[0] == first


def test_resources_are_held_while_the_actor_lives():
    counter = Counter.options(num_cpus=2, resources={"gold": 1}).remote()
    sheaf.get(counter.add.remote())
    wait_until(lambda: sheaf.available_resources().get("CPU") == 2.0, what="the use of 2 CPUs")
    assert sheaf.available_resources()["gold"] == 1.0
    sheaf.kill(counter)
    wait_until(lambda: sheaf.available_resources().get("CPU") == 4.0, what="the resources' return")
    nothing = [Counter.remote() for _ in range(6)]  # more than CPUs: they hold none
    assert sheaf.get([c.add.remote() for c in nothing], timeout=60) == [1] * 6


def test_terminating_gracefully():
    counter = Counter.remote()
    refs = [counter.sleep.remote(0.1), counter.add.remote()]
    counter.__ray_terminate__.remote()
    assert sheaf.get(refs) == [0, 1]
    wait_until(lambda: _is_dead(counter), what="the end")


@pytest.mark.parametrize("end", ["terminated", "unheld", "exits", "killed"])
def test_a_last_method_runs_unless_the_actor_is_killed(end, tmp_path):
    mark = tmp_path / "mark"

    @sheaf.remote(max_concurrency=2 if end == "unheld" else 1)
    class Careful:
        def __ray_shutdown__(self):
            mark.write_text("left")
            raise ValueError("harmless")

        def pid(self):
            return os.getpid()

        def exits(self):
            sheaf.actor.exit_actor()

    actor = Careful.remote()
    pid = sheaf.get(actor.pid.remote())
    if end == "terminated":
        actor.__ray_terminate__.remote()
    elif end == "exits":
        actor.exits.remote()
    elif end == "killed":
        sheaf.kill(actor)
    del actor
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), what="the end")
    assert mark.exists() == (end != "killed")


def test_exit_actor_elsewhere():
    with pytest.raises(TypeError, match="called on a non-actor"):
        sheaf.actor.exit_actor()


def test_state_of_actors():
    from sheaf.util.state import get_actor, list_actors

    counter = Counter.options(name="listed").remote()
    sheaf.get(counter.add.remote())
    (row,) = list_actors(filters=[("name", "=", "listed"), ("state", "=", "ALIVE")])
    assert (
        row.class_name == "Counter"
        and row.actor_id == counter._actor_id.hex()
        and row.ray_namespace == "tests"
    )
    assert get_actor(row.actor_id).pid == sheaf.get(counter.pid.remote())
    sheaf.kill(counter)


def test_many_actors():
    @sheaf.remote(num_cpus=0)
    class Small:
        def get(self, x):
            return x

    small = [Small.remote() for _ in range(30)]
    assert sheaf.get([a.get.remote(i) for i, a in enumerate(small)], timeout=60) == list(range(30))


def test_context_of_an_actor():
    @sheaf.remote
    class Me:
        def who(self):
            context = sheaf.get_runtime_context()
            return (
                context.get_actor_id(),
                context.get_actor_name(),
                context.namespace,
                context.current_actor,
            )

        def value(self):
            return 5

    me = Me.options(name="me").remote()
    actor_id, name, namespace, handle = sheaf.get(me.who.remote())
    assert (actor_id, name, namespace) == (me._actor_id.hex(), "me", "tests") and handle == me
    assert sheaf.get(handle.value.remote()) == 5
    sheaf.kill(me)
