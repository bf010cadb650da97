"""Streaming and dynamic generators."""

import asyncio
import time

import numpy as np
import pytest
import sheaf

pytestmark = pytest.mark.usefixtures("cluster")


@sheaf.remote
def count(n, pause=0.0, fail_at=None):
    for i in range(n):
        if i == fail_at:
            raise ValueError(f"at {i}")
        time.sleep(pause)
        yield i


def test_a_generator_function_streams():
    stream = count.remote(5)
    assert isinstance(stream, sheaf.ObjectRefGenerator)
    assert [sheaf.get(ref) for ref in stream] == [0, 1, 2, 3, 4]
    with pytest.raises(StopIteration):
        next(stream)


def test_items_come_before_the_end(tmp_path):
    go = tmp_path / "go"

    @sheaf.remote
    def held():
        yield 0
        while not go.exists():
            time.sleep(0.01)
        yield 1

    stream = held.remote()
    assert sheaf.get(next(stream), timeout=30) == 0
    go.touch()
    assert [sheaf.get(ref) for ref in stream] == [1]


def test_large_items():
    @sheaf.remote
    def arrays():
        yield from (np.full(100_000, i) for i in range(3))

    assert [sheaf.get(ref)[-1] for ref in arrays.remote()] == [0, 1, 2]


def test_an_error_ends_the_stream():
    values, stream = [], count.remote(5, fail_at=2)
    with pytest.raises(ValueError, match="at 2"):
        for ref in stream:
            values.append(sheaf.get(ref))
    assert values == [0, 1]


def test_no_items():
    assert list(count.remote(0)) == []


def test_what_never_yields_is_no_stream():
    with pytest.raises(ValueError, match="can only be used with generator functions"):

        @sheaf.remote(num_returns="streaming")
        def wrong():
            return 3

        wrong.remote()


def test_backpressure():
    @sheaf.remote(_generator_backpressure_num_objects=2)
    def greedy(log):
        for i in range(10):
            sheaf.get(log.note.remote(i))
            yield i

    @sheaf.remote
    class Log:
        def __init__(self):
            self.seen = []

        def note(self, i):
            self.seen.append(i)

        def get(self):
            return self.seen

    log = Log.remote()
    stream = greedy.remote(log)
    next(stream)
    time.sleep(0.5)
    assert len(sheaf.get(log.get.remote())) <= 5
    assert len(list(stream)) == 9


def test_actor_methods_stream():
    @sheaf.remote
    class Source:
        def items(self, n):
            yield from range(n)

        @sheaf.method(num_returns="streaming")
        def listed(self):
            yield from "ab"

    source = Source.remote()
    assert [sheaf.get(ref) for ref in source.items.remote(3)] == [0, 1, 2]
    assert [sheaf.get(ref) for ref in source.listed.remote()] == ["a", "b"]


def test_async_actors_stream():
    @sheaf.remote
    class Source:
        async def items(self, n):
            for i in range(n):
                await asyncio.sleep(0.001)
                yield i

    source = Source.remote()
    streams = [source.items.remote(3) for _ in range(3)]
    assert [[sheaf.get(ref) for ref in stream] for stream in streams] == [[0, 1, 2]] * 3


def test_async_iteration():
    async def main():
        return [await ref async for ref in count.remote(4)]

    assert asyncio.run(main()) == [0, 1, 2, 3]


def test_waiting_for_generators():
    fast, slow = count.remote(3), count.remote(3, pause=100.0)
    ready, rest = sheaf.wait([slow, fast], num_returns=1, timeout=30)
    assert ready == [fast] and rest == [slow]
    sheaf.cancel(slow)


def test_dynamic_results():
    ref = count.options(num_returns="dynamic").remote(3)
    generator = sheaf.get(ref)
    assert isinstance(generator, sheaf.DynamicObjectRefGenerator) and len(generator) == 3
    assert [sheaf.get(item) for item in generator] == [0, 1, 2]


def test_a_fixed_number_of_results_from_a_generator():
    assert sheaf.get(count.options(num_returns=3).remote(3)) == [0, 1, 2]
    # As Ray has it: surplus values are dropped, missing ones are errors.
    assert sheaf.get(count.options(num_returns=2).remote(3)) == [0, 1]
    with pytest.raises(ValueError, match="num_returns=3"):
        sheaf.get(count.options(num_returns=3).remote(2))


def test_generators_stay_in_their_process():
    import pickle

    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(count.remote(1))


def test_get_of_a_stream_is_the_stream():
    stream = count.remote(2)
    first, second = sheaf.get(stream)
    assert sheaf.get([first, second]) == [0, 1]
