"""Actors that run several calls at once, in threads and in coroutines, and drivers with threads."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

import sheaf

pytestmark = pytest.mark.usefixtures("cluster")


@sheaf.remote
class Threaded:
    def __init__(self):
        self.lock = threading.Lock()
        self.running = self.most = 0
        self.event = threading.Event()

    def sleep(self, seconds):
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(seconds)
        with self.lock:
            self.running -= 1

    def add(self, a, b):
        return a + b

    def wait(self):
        return self.event.wait(20)

    def set(self):
        self.event.set()

    def peak(self):
        return self.most

    def where(self):
        return threading.get_ident()

    def nested(self, n):
        return sheaf.get([echo.remote(i) for i in range(n)])

    def fail(self):
        raise ValueError("in a thread")


@sheaf.remote
def echo(x):
    return x


def test_calls_overlap_up_to_the_limit():
    actor = Threaded.options(max_concurrency=16).remote()
    sheaf.get(actor.peak.remote())
    start = time.monotonic()
    sheaf.get([actor.sleep.remote(0.05) for _ in range(64)])
    elapsed = time.monotonic() - start
    assert 1 < sheaf.get(actor.peak.remote()) <= 16
    assert elapsed >= 0.2


def test_a_blocked_call_waits_for_a_later_one():
    actor = Threaded.options(max_concurrency=2).remote()
    blocked = actor.wait.remote()
    time.sleep(0.1)
    actor.set.remote()
    assert sheaf.get(blocked, timeout=30) is True


def test_many_short_calls():
    actor = Threaded.options(max_concurrency=4).remote()
    assert sheaf.get([actor.add.remote(i, 1) for i in range(5000)]) == [i + 1 for i in range(5000)]
    with pytest.raises(ValueError, match="in a thread"):
        sheaf.get(actor.fail.remote())


def test_nested_calls_from_threads():
    actor = Threaded.options(max_concurrency=8).remote()
    results = sheaf.get([actor.nested.remote(10) for _ in range(40)], timeout=60)
    assert results == [list(range(10))] * 40


def test_groups_do_not_block_each_other():
    @sheaf.remote(concurrency_groups={"io": 2, "compute": 1})
    class Grouped:
        def __init__(self):
            self.event = threading.Event()

        @sheaf.method(concurrency_group="io")
        def block(self):
            return self.event.wait(20)

        @sheaf.method(concurrency_group="compute")
        def compute(self, x):
            return x * 2

        def release(self):
            self.event.set()

    actor = Grouped.remote()
    blocked = [actor.block.remote() for _ in range(3)]
    assert sheaf.get([actor.compute.remote(i) for i in range(10)], timeout=30) == [i * 2 for i in range(10)]
    assert sheaf.wait(blocked, timeout=0.1)[0] == []
    sheaf.get(actor.release.remote(), timeout=30)
    assert sheaf.get(blocked, timeout=30) == [True] * 3


def test_context_of_the_call_in_threads_and_coroutines():
    @sheaf.remote
    class Named:
        def sync(self):
            time.sleep(0.01)
            return sheaf.get_runtime_context().get_task_id()

    @sheaf.remote
    class AsyncNamed:
        async def coro(self):
            before = sheaf.get_runtime_context().get_task_id()
            await asyncio.sleep(0.01)
            assert sheaf.get_runtime_context().get_task_id() == before
            return before

    threaded, coroutines = Named.options(max_concurrency=8).remote(), AsyncNamed.remote()
    for method in (threaded.sync, coroutines.coro):
        refs = [method.remote() for _ in range(30)]
        assert sheaf.get(refs) == [ref.task_id().hex() for ref in refs]


@sheaf.remote
class Async:
    def __init__(self):
        self.event = asyncio.Event()

    async def wait(self):
        await self.event.wait()
        return "woken"

    async def set(self):
        self.event.set()

    async def echo(self, x):
        return x

    async def await_ref(self, refs):
        return await refs[0] + sum(await asyncio.gather(*refs[1:]))

    async def fail(self):
        await asyncio.sleep(0)
        raise KeyError("k")

    def plain(self, x):
        return x + 1

    async def with_timeout(self):
        try:
            await asyncio.wait_for(asyncio.sleep(10), 0.05)
        except asyncio.TimeoutError:
            return asyncio.current_task() is not None

    async def large(self, array):
        return array


def test_async_actor():
    import numpy as np

    actor = Async.remote()
    waiting = [actor.wait.remote() for _ in range(100)]
    assert sheaf.get([actor.echo.remote(i) for i in range(3000)]) == list(range(3000))
    assert sheaf.get(actor.plain.remote(1)) == 2
    assert sheaf.get(actor.await_ref.remote([echo.remote(1), sheaf.put(2), echo.remote(3)])) == 6
    assert sheaf.get(actor.with_timeout.remote()) is True
    with pytest.raises(KeyError):
        sheaf.get(actor.fail.remote())
    array = np.arange(300_000)
    assert (sheaf.get(actor.large.remote(array)) == array).all()
    actor.set.remote()
    assert sheaf.get(waiting) == ["woken"] * 100


def test_driver_threads_get_wait_and_submit():
    failures = []

    def work(k):
        try:
            for i in range(200):
                assert sheaf.get(echo.remote((k, i))) == (k, i)
                refs = [echo.remote(j) for j in range(3)]
                ready, rest = sheaf.wait(refs, num_returns=2, timeout=20)
                assert len(ready) == 2 and len(rest) == 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    [t.start() for t in threads]
    [t.join(60) for t in threads]
    assert not failures and not any(t.is_alive() for t in threads)


def test_asyncio_in_the_driver():
    async def main():
        refs = [echo.remote(i) for i in range(500)]
        assert await asyncio.gather(*refs) == list(range(500))
        assert await echo.remote("one") == "one"
        assert await sheaf.put("ready") == "ready"

        async def sum_all():
            return sum([await echo.remote(i) for i in range(50)])

        assert await asyncio.gather(*(sum_all() for _ in range(10))) == [1225] * 10
        slow = sleep_then.remote(1.5)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(slow, 0.05)
        assert await slow == "slept"
        with pytest.raises(ZeroDivisionError):
            await divide.remote(0)

    for _ in range(2):   # a second loop in the same process
        asyncio.run(main())
    loops = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(3)]
    [t.start() for t in loops]
    [t.join(60) for t in loops]
    assert not any(t.is_alive() for t in loops)


def test_concurrent_futures():
    import concurrent.futures

    futures = [echo.remote(i).future() for i in range(50)] + [divide.remote(0).future()]
    done, _ = concurrent.futures.wait(futures, timeout=20)
    assert len(done) == 51
    assert [f.result() for f in futures[:50]] == list(range(50))
    with pytest.raises(ZeroDivisionError):
        futures[50].result()


@sheaf.remote
def sleep_then(seconds):
    time.sleep(seconds)
    return "slept"


@sheaf.remote
def divide(x):
    return 1 / x


def test_an_async_actor_lives_through_late_wakes(cluster):
    """Called one at a time: wakes of its loop come when it is awake again for another reason."""

    @sheaf.remote
    class Echo:
        async def call(self):
            return b"ok"

    for _ in range(8):
        actor = Echo.remote()
        end = time.monotonic() + 0.35
        while time.monotonic() < end:
            assert sheaf.get(actor.call.remote(), timeout=30) == b"ok"
        sheaf.kill(actor)
