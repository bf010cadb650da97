"""One CPU, one idle process: what a process asks for must not come back to itself."""

from __future__ import annotations

import numpy
import pytest

import sheaf

TIMEOUT_S = 20


@pytest.fixture(scope="module", autouse=True)
def one_cpu():
    sheaf.shutdown()
    sheaf.init(num_cpus=1, object_store_memory=128 << 20)
    yield
    sheaf.shutdown()


def test_a_task_that_nobody_waits_for_runs_when_its_parent_has_ended():
    @sheaf.remote
    def parent(number):
        @sheaf.remote
        def child():
            return number

        return child.remote()

    for number in range(10):
        reference = sheaf.get(parent.remote(number), timeout=TIMEOUT_S)
        assert sheaf.get(reference, timeout=TIMEOUT_S) == number


def test_an_actor_may_live_in_the_process_that_made_it():
    @sheaf.remote
    class Answers:
        def get(self):
            return 42

    @sheaf.remote
    def parent():
        return [Answers.remote().get.remote()]

    assert sheaf.get(sheaf.get(parent.remote(), timeout=TIMEOUT_S)[0], timeout=TIMEOUT_S) == 42


@sheaf.remote(num_cpus=0)
class Selfish:
    def numbers(self, count):
        own = sheaf.get_runtime_context().current_actor
        return [own.same.remote(number) for number in range(count)]

    def array(self):
        return sheaf.get_runtime_context().current_actor.same.remote(numpy.ones(1 << 16))

    def same(self, value):
        return value

    def restarted(self):
        return sheaf.get_runtime_context().was_current_actor_reconstructed

    def die(self):
        import os

        os._exit(1)


def test_an_actor_calls_itself():
    actor = Selfish.remote()
    references = sheaf.get(actor.numbers.remote(2000), timeout=TIMEOUT_S)
    assert sheaf.get(references, timeout=TIMEOUT_S) == list(range(2000))
    assert sheaf.get(sheaf.get(actor.array.remote()), timeout=TIMEOUT_S).sum() == 1 << 16


def test_an_async_actor_awaits_itself():
    @sheaf.remote(num_cpus=0)
    class Recursive:
        async def factorial(self, own, n):
            return 1 if n == 0 else n * await own.factorial.remote(own, n - 1)

    actor = Recursive.remote()
    assert sheaf.get(actor.factorial.remote(actor, 6), timeout=TIMEOUT_S) == 720


def test_an_actor_knows_that_it_was_restarted():
    actor = Selfish.options(max_restarts=1, max_task_retries=-1).remote()
    assert sheaf.get(actor.restarted.remote()) is False
    actor.die.options(max_task_retries=0).remote()
    assert sheaf.get(actor.restarted.remote(), timeout=TIMEOUT_S) is True


def test_the_last_call_of_a_worker_leaves_no_task_behind():
    @sheaf.remote
    def slow(number):
        import time

        time.sleep(0.3)
        return number

    @sheaf.remote(max_calls=1, max_retries=0)
    def parent(number):
        return [slow.remote(number)]

    nested = sheaf.get([parent.remote(number) for number in range(4)], timeout=TIMEOUT_S)
    assert sheaf.get([refs[0] for refs in nested], timeout=TIMEOUT_S) == [0, 1, 2, 3]
