"""init(local_mode=True): everything runs in the driver, and means the same."""

from __future__ import annotations

import asyncio
import os

import pytest

import sheaf


@pytest.fixture(scope="module", autouse=True)
def local():
    sheaf.shutdown()
    sheaf.init(num_cpus=1, local_mode=True, namespace="local")
    yield
    sheaf.shutdown()
    assert not sheaf._state.state.local_mode


log = []


@sheaf.remote
def add(a, b=1):
    log.append((a, b))
    return a + b


@sheaf.remote
class Counter:
    def __init__(self, start=0):
        if start < 0:
            raise ValueError("below zero")
        self.n = start

    def add(self, k=1):
        self.n += k
        return self.n

    async def later(self):
        await asyncio.sleep(0)
        return self.n

    @sheaf.method(num_returns=2)
    def two(self):
        return 1, 2

    def numbers(self, n):
        yield from range(n)


def test_tasks_run_before_remote_returns():
    ref = add.remote(1, b=add.remote(2))
    assert log == [(2, 1), (1, 3)] and sheaf.get(ref) == 4
    assert sheaf.get(add.options(name="x").remote(1)) == 2
    assert sheaf.wait([ref])[0] == [ref]
    unpicklable = lambda: (x for x in ())  # noqa: E731
    local_function = sheaf.remote(lambda: unpicklable() is not None and os.getpid())
    assert sheaf.get(local_function.remote()) == os.getpid()


def test_errors_are_the_results():
    @sheaf.remote
    def fails():
        raise KeyError("k")

    ref = fails.remote()
    with pytest.raises(KeyError) as info:
        sheaf.get(ref)
    assert isinstance(info.value, sheaf.exceptions.RayTaskError)
    with pytest.raises(KeyError):
        sheaf.get(add.remote(ref))


def test_several_results_and_generators():
    @sheaf.remote
    def numbers(n):
        yield from range(n)
        if n > 3:
            raise KeyError("end")

    assert sheaf.get(numbers.options(num_returns=2).remote(2)) == [0, 1]
    assert [sheaf.get(ref) for ref in numbers.remote(3)] == [0, 1, 2]
    stream = numbers.remote(4)
    assert [sheaf.get(next(stream)) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(KeyError):
        sheaf.get(next(stream))
    assert [sheaf.get(ref) for ref in sheaf.get(numbers.options(num_returns="dynamic").remote(2))] == [0, 1]
    assert add.options(num_returns=0).remote(1) is None

    async def consume():
        return [await ref async for ref in numbers.remote(2)]

    assert asyncio.run(consume()) == [0, 1]


def test_actors():
    counter = Counter.remote(5)
    assert sheaf.get(counter.add.remote()) == 6
    assert sheaf.get(counter.add.remote(add.remote(1))) == 8
    assert sheaf.get(counter.later.remote()) == 8
    assert sheaf.get(counter.two.remote()) == [1, 2]
    assert [sheaf.get(ref) for ref in counter.numbers.remote(3)] == [0, 1, 2]
    named = Counter.options(name="named").remote()
    assert sheaf.get_actor("named") == named
    assert Counter.options(name="named", get_if_exists=True).remote() == named
    with pytest.raises(ValueError):
        Counter.options(name="named").remote()
    sheaf.kill(named)
    with pytest.raises(sheaf.exceptions.RayActorError):
        sheaf.get(named.add.remote())
    with pytest.raises(ValueError):
        sheaf.get_actor("named")
    broken = Counter.remote(-1)
    with pytest.raises(sheaf.exceptions.RayActorError):
        sheaf.get(broken.add.remote())
