"""put, get, wait, references, futures, and the store's limits."""

import asyncio
import concurrent.futures
import gc
import pickle
import threading
import time

import cloudpickle
import numpy as np
import pytest
import sheaf
from conftest import wait_until
from sheaf.util.state import list_objects

pytestmark = pytest.mark.usefixtures("cluster")


@sheaf.remote
def later(seconds, value=None):
    time.sleep(seconds)
    return value


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda r: sheaf.get(3), ValueError),
        (lambda r: sheaf.get([3]), TypeError),
        (lambda r: sheaf.get((r,)), ValueError),
        (lambda r: sheaf.put(r), TypeError),
        (lambda r: sheaf.wait(r), TypeError),
        (lambda r: sheaf.wait({r}), TypeError),
        (lambda r: sheaf.wait([3]), TypeError),
        (lambda r: sheaf.wait([r, r]), ValueError),
        (lambda r: sheaf.wait([r], num_returns=2), ValueError),
        (lambda r: sheaf.wait([r], num_returns=0), ValueError),
        (lambda r: sheaf.wait([r], timeout=-2), ValueError),
        (lambda r: sheaf.get(r, timeout="x"), TypeError),
        (lambda r: list(r), TypeError),
        (lambda r: len(r), TypeError),
        (lambda r: sheaf.ObjectRef.from_hex("x"), ValueError),
    ],
)
def test_wrong_arguments(call, error):
    with pytest.raises(error):
        call(sheaf.put(1))


def test_get_in_lists_and_timeouts(tmp_path):
    go = tmp_path / "go"

    @sheaf.remote
    def held():
        while not go.exists():
            time.sleep(0.01)
        return "slow"

    assert sheaf.get([]) == []
    ref = sheaf.put("x")
    assert sheaf.get([ref, ref]) == ["x", "x"]
    slow = held.remote()
    with pytest.raises(sheaf.exceptions.GetTimeoutError):
        sheaf.get(slow, timeout=0.1)
    with pytest.raises(TimeoutError):
        sheaf.get([ref, slow], timeout=0)
    go.touch()
    assert sheaf.get(slow) == "slow"


def test_wait_splits():
    fast, slow = later.remote(0), later.remote(100)
    assert sheaf.wait([slow, fast], timeout=30) == ([fast], [slow])
    assert sheaf.wait([slow, fast], num_returns=2, timeout=0.1) == ([fast], [slow])
    assert sheaf.wait([]) == ([], [])
    refs = [sheaf.put(i) for i in range(5)]
    assert sheaf.wait(refs, num_returns=2) == (refs[:2], refs[2:])
    assert sheaf.wait(refs, num_returns=5, timeout=0)[0] == refs
    sheaf.cancel(slow)


def test_references_are_values():
    ref = sheaf.put(1)
    assert (
        sheaf.ObjectRef.from_hex(ref.hex()) == ref
        and len(ref.binary()) == 16
        and bytes.fromhex(ref.hex()) == ref.binary()
    )
    assert len({ref, sheaf.ObjectRef.from_hex(ref.hex())}) == 1 and ref != sheaf.put(1)
    assert ref.hex() in repr(ref) and not ref.is_nil()
    assert isinstance(ref.task_id(), sheaf.TaskID) and isinstance(ref, sheaf.ObjectID)


@pytest.mark.parametrize("library", [pickle, cloudpickle])
def test_references_pickle(library):
    ref = sheaf.put(["value"])
    again = library.loads(library.dumps({"ref": ref}))["ref"]
    assert again == ref and sheaf.get(again) == ["value"]


def test_a_foreign_reference_is_refused():
    foreign = sheaf.ObjectRef.from_hex("ab" * 16)
    with pytest.raises(
        (sheaf.exceptions.ObjectLostError, ValueError, sheaf.exceptions.GetTimeoutError)
    ):
        sheaf.get(foreign, timeout=5)


def test_a_freed_object():
    ref = sheaf.put(np.zeros(1_000_000))
    sheaf._core.free([ref])
    with pytest.raises(sheaf.exceptions.ObjectLostError):
        sheaf.get(ref, timeout=5)


BEING_READ = []


class Record:
    pass


def free_and_build():
    sheaf._core.free(BEING_READ)
    Record.churn = [bytearray(b"y" * 4000) for _ in range(64)]
    return Record()


class FreedOnTheWay:
    def __reduce__(self):
        return free_and_build, (), {"text": "x" * 4000}


def test_an_object_freed_while_it_is_read():
    ref = sheaf.put(FreedOnTheWay())
    BEING_READ[:] = [ref]
    assert sheaf.get(ref).text == "x" * 4000
    with pytest.raises(sheaf.exceptions.ObjectLostError):
        sheaf.get(ref, timeout=5)


def test_futures():
    future = later.remote(0.1, 5).future()
    assert isinstance(future, concurrent.futures.Future) and future.result(timeout=30) == 5

    @sheaf.remote
    def broken():
        raise ValueError("x")

    with pytest.raises(ValueError):
        broken.remote().future().result(timeout=30)
    done, _ = concurrent.futures.wait(
        [later.remote(0.05, i).future() for i in range(3)], timeout=30
    )
    assert sorted(f.result() for f in done) == [0, 1, 2]


def test_await():
    async def main():
        assert await later.remote(0.05, 1) == 1
        assert await asyncio.gather(*[later.remote(0.01, i) for i in range(5)]) == list(range(5))
        assert await sheaf.put(3) == 3
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(later.remote(2), 0.1)
        return await asyncio.wrap_future(later.remote(0, 9).future())

    assert asyncio.run(main()) == 9


def test_threads_get_and_put():
    errors = []

    def work(seed):
        try:
            for i in range(50):
                assert sheaf.get(later.remote(0, (seed, i))) == (seed, i)
                assert sheaf.get(sheaf.put([seed, i])) == [seed, i]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors


def test_views_outlive_their_references():
    ref = sheaf.put(np.arange(1_000_000))
    view = sheaf.get(ref)
    del ref
    gc.collect()
    for _ in range(30):
        sheaf.put(np.zeros(1_000_000))
    assert view[123_456] == 123_456 and view.sum() == 499_999_500_000


def test_space_comes_back():
    for _ in range(40):  # 40 x 40 MB through a store of 512 MB
        assert sheaf.get(sheaf.put(np.ones(5_000_000)))[7] == 1.0
        gc.collect()


def test_dropped_objects_leave_the_store():
    refs = [sheaf.put(np.zeros(200_000)) for _ in range(5)]
    ids = {ref.hex() for ref in refs}
    assert ids <= {row.object_id for row in list_objects(limit=10_000)}
    del refs
    gc.collect()
    wait_until(
        lambda: not ids & {row.object_id for row in list_objects(limit=10_000)},
        what="the objects' end",
    )


def test_nested_objects_keep_each_other():
    inner = sheaf.put(np.full(200_000, 7.0))
    outer = sheaf.put({"inner": inner})
    del inner
    gc.collect()
    for _ in range(5):
        sheaf.put(np.zeros(1_000_000))
    assert sheaf.get(sheaf.get(outer)["inner"])[0] == 7.0


def test_more_than_fits_is_spilled_and_restored():
    arrays = [
        sheaf.put(np.full(8_000_000, i, dtype=np.float64)) for i in range(12)
    ]  # 768 MB of 512
    for i, ref in enumerate(arrays):
        value = sheaf.get(ref)
        assert value[0] == i and value[-1] == i
        del value


def test_ten_thousand_references_in_one_object():
    refs = [sheaf.put(i) for i in range(10_000)]
    again = sheaf.get(sheaf.put(refs))
    assert again == refs and sheaf.get(again[-1]) == 9_999


def test_as_future_is_an_asyncio_future():
    import asyncio

    async def wait_for_both():
        futures = [sheaf.remote(lambda: 5).remote().as_future(), sheaf.put(6).as_future()]
        assert all(isinstance(future, asyncio.Future) for future in futures)
        done, late = await asyncio.wait(futures, timeout=20)
        return sorted(future.result() for future in done), late

    assert asyncio.run(wait_for_both()) == ([5, 6], set())
