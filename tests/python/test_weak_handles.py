"""Which handles keep an actor alive, and which do not."""

from __future__ import annotations

import os
import time

import pytest

import sheaf
from sheaf.exceptions import RayActorError

from conftest import wait_until

pytestmark = pytest.mark.usefixtures("cluster")


@sheaf.remote(num_cpus=0)
class Counter:
    def __init__(self):
        self.n = 0
        self.other = None

    def add(self):
        self.n += 1
        return self.n

    def pid(self):
        return os.getpid()

    def keep(self, box):
        self.other = box[0]

    def through_other(self):
        return sheaf.get(self.other.add.remote(), timeout=20)

    def own_handle(self):
        return sheaf.get_runtime_context().current_actor


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ends(pid):
    wait_until(lambda: not is_alive(pid), what="the actor's end")


def test_a_handle_from_get_actor_does_not_keep_the_actor():
    actor = Counter.options(name="by name").remote()
    found = sheaf.get_actor("by name")
    assert found == actor and sheaf.get(found.add.remote()) == 1
    pid = sheaf.get(found.pid.remote())
    del actor
    ends(pid)
    with pytest.raises(RayActorError):
        sheaf.get(found.add.remote(), timeout=20)
    with pytest.raises(ValueError):
        sheaf.get_actor("by name")


def test_nor_does_a_copy_of_it():
    actor = Counter.options(name="copied").remote()
    keeper = Counter.remote()
    pid = sheaf.get(actor.pid.remote())
    sheaf.get(keeper.keep.remote([sheaf.get_actor("copied")]))
    assert sheaf.get(keeper.through_other.remote()) == 1
    del actor
    ends(pid)
    with pytest.raises(RayActorError):
        sheaf.get(keeper.through_other.remote(), timeout=20)


def test_nor_does_what_get_if_exists_finds_nor_the_actors_own():
    options = {"name": "either", "get_if_exists": True}
    actor = Counter.options(**options).remote()
    again = Counter.options(**options).remote()
    own = sheaf.get(actor.own_handle.remote())
    assert again == actor == own and sheaf.get(again.add.remote()) == 1
    assert sheaf.get(own.add.remote()) == 2
    pid = sheaf.get(actor.pid.remote())
    del actor
    ends(pid)


def test_handles_that_are_passed_on_keep_it():
    actor = Counter.options(name="passed on").remote()
    keeper = Counter.remote()
    pid = sheaf.get(actor.pid.remote())
    sheaf.get(keeper.keep.remote([actor]))
    del actor
    for _ in range(3):
        assert is_alive(pid)
        time.sleep(0.5)   # longer than an actor without a handle lives
    assert sheaf.get(keeper.through_other.remote()) == 1
    assert sheaf.get(sheaf.get_actor("passed on").add.remote()) == 2
    del keeper
    ends(pid)


def test_a_detached_actor_needs_no_handle():
    Counter.options(name="stays", lifetime="detached").remote()
    found = sheaf.get_actor("stays")
    assert sheaf.get(found.add.remote()) == 1
    pid = sheaf.get(found.pid.remote())
    del found
    time.sleep(0.5)
    assert sheaf.get(sheaf.get_actor("stays").pid.remote()) == pid
    sheaf.kill(sheaf.get_actor("stays"))
    ends(pid)


def test_a_function_that_captured_a_handle_keeps_it_no_longer_than_it_lives():
    def make():
        actor = Counter.remote()
        pid = sheaf.get(actor.pid.remote())

        @sheaf.remote(num_cpus=0, max_calls=1)
        def through_closure():
            return sheaf.get(actor.add.remote(), timeout=20)

        return through_closure, pid

    function, pid = make()
    assert sheaf.get(function.remote()) == 1
    assert sheaf.get(function.remote()) == 2
    del function
    ends(pid)


def test_a_class_that_captured_a_handle():
    actor = Counter.remote()
    pid = sheaf.get(actor.pid.remote())

    @sheaf.remote(num_cpus=0)
    class Uses:
        def add(self):
            return sheaf.get(actor.add.remote(), timeout=20)

    uses = Uses.remote()
    assert sheaf.get(uses.add.remote()) == 1
    del actor
    assert sheaf.get(uses.add.remote()) == 2   # the user's process has a handle of its own
    del uses, Uses
    ends(pid)


def test_a_pickle_of_the_users_own_does_not_keep_it():
    import pickle

    actor = Counter.remote()
    pid = sheaf.get(actor.pid.remote())
    data = pickle.dumps(actor)
    assert pickle.loads(data) == actor
    assert sheaf.get(pickle.loads(data).add.remote()) == 1
    del actor
    ends(pid)
