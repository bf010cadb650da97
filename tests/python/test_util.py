"""Pools, queues, executors, iterators, metrics, key-value: on a real cluster."""

import concurrent.futures
import multiprocessing
import os
import threading
import time

import pytest
import sheaf
from conftest import wait_until
from sheaf.util import ActorPool, as_completed, map_unordered
from sheaf.util.multiprocessing import Pool
from sheaf.util.queue import Empty, Full, Queue

pytestmark = pytest.mark.usefixtures("cluster")


def square(x):
    return x * x


def fail_at_three(x):
    if x == 3:
        raise ValueError("three")
    return x


def slow(x):
    time.sleep(0.05)
    return x


# ---- multiprocessing.Pool


@pytest.fixture(scope="module")
def pool(cluster):
    with Pool(2, ray_remote_args={"num_cpus": 0}) as pool:
        yield pool


def test_pool_maps(pool):
    assert pool.map(square, range(10)) == [x * x for x in range(10)]
    assert pool.map(square, iter(range(5)), chunksize=2) == [0, 1, 4, 9, 16]
    assert pool.map(square, []) == []
    assert pool.starmap(pow, [(2, 3), (3, 2)]) == [8, 9]
    assert list(pool.imap(square, range(20), chunksize=3)) == [x * x for x in range(20)]
    assert sorted(pool.imap_unordered(slow, range(8))) == list(range(8))
    assert (
        pool.apply(pow, (2, 5)) == 32
        and pool.apply(dict, kwds := (), {"a": 1}) == {"a": 1}
        and kwds == ()
    )


def test_pool_errors(pool):
    with pytest.raises(ValueError, match="three"):
        pool.map(fail_at_three, range(5))
    iterator = pool.imap(fail_at_three, range(5))
    assert [next(iterator) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(iterator)
    assert next(iterator) == 4
    with pytest.raises(StopIteration):
        next(iterator)
    with pytest.raises(multiprocessing.TimeoutError):
        pool.apply_async(time.sleep, (5,)).get(timeout=0.1)


def test_pool_callbacks(pool):
    seen, done = [], threading.Event()
    result = pool.map_async(
        square, [1, 2], callback=lambda values: (seen.append(values), done.set())
    )
    assert result.get(20) == [1, 4] and done.wait(20) and seen == [[1, 4]]
    assert result.ready() and result.successful()
    failed = pool.apply_async(fail_at_three, (3,), error_callback=seen.append)
    failed.wait(20)
    assert not failed.successful() and isinstance(seen[1], ValueError)


def test_pool_life():
    def initialise(value):
        os.environ["POOL_VALUE"] = value

    pool = Pool(1, initialise, ("x",), maxtasksperchild=2, ray_remote_args={"num_cpus": 0})
    assert pool.apply(os.getenv, ("POOL_VALUE",)) == "x"
    assert len({pool.apply(os.getpid) for _ in range(6)}) >= 2
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    pending = pool.apply_async(slow, (1,))
    pool.close()
    pool.join()
    assert pending.get(10) == 1
    with pytest.raises(ValueError, match="not running"):
        pool.apply(square, (1,))
    for count in (0, -1):
        with pytest.raises(ValueError):
            Pool(count)


# ---- ActorPool


@sheaf.remote(num_cpus=0)
class Doubler:
    def double(self, x, pause=0.0):
        time.sleep(pause)
        return 2 * x


def test_actor_pool():
    pool = ActorPool([Doubler.remote(), Doubler.remote()])
    assert list(pool.map(lambda a, x: a.double.remote(x), range(6))) == [0, 2, 4, 6, 8, 10]
    assert sorted(pool.map_unordered(lambda a, x: a.double.remote(x), range(6))) == [
        0,
        2,
        4,
        6,
        8,
        10,
    ]
    pool.submit(lambda a, x: a.double.remote(x, 2.0), 1)
    pool.submit(lambda a, x: a.double.remote(x), 2)
    pool.submit(lambda a, x: a.double.remote(x), 3)
    assert pool.has_next() and not pool.has_free()
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0.01)
    assert pool.get_next_unordered() == 4
    assert [pool.get_next_unordered(), pool.get_next_unordered()] in ([2, 6], [6, 2])
    with pytest.raises(StopIteration):
        pool.get_next()
    idle = pool.pop_idle()
    assert idle is not None
    pool.push(idle)
    with pytest.raises(ValueError):
        pool.push(idle)


def test_actor_pool_with_several_results_and_leftovers():
    @sheaf.remote(num_cpus=0)
    class Pairs:
        @sheaf.method(num_returns=2)
        def pair(self, x):
            return x, -x

        async def sleep(self, seconds):
            import asyncio

            await asyncio.sleep(seconds)
            return seconds

    pool = ActorPool([Pairs.remote()])
    assert list(pool.map(lambda a, x: a.pair.remote(x), [1, 2])) == [[1, -1], [2, -2]]
    assert list(pool.map_unordered(lambda a, x: a.pair.remote(x), [3])) == [[3, -3]]
    pool.submit(lambda a, x: a.sleep.remote(x), 30)
    assert list(pool.map(lambda a, x: a.sleep.remote(x), [0.0, 0.01])) == [0.0, 0.01]


# ---- Queue


def test_queue():
    queue = Queue(maxsize=3, actor_options={"num_cpus": 0})
    for i in range(3):
        queue.put(i)
    assert queue.full() and queue.qsize() == len(queue) == 3
    with pytest.raises(Full):
        queue.put(3, timeout=0.05)
    with pytest.raises(Full):
        queue.put_nowait(3)
    assert [queue.get() for _ in range(3)] == [0, 1, 2] and queue.empty()
    with pytest.raises(Empty):
        queue.get(timeout=0.05)
    with pytest.raises(Empty):
        queue.get_nowait()
    with pytest.raises(ValueError):
        queue.get(timeout=-1)
    queue.put_nowait_batch([1, 2, 3])
    with pytest.raises(Full):
        queue.put_nowait_batch([4])
    assert queue.get_nowait_batch(2) == [1, 2]
    with pytest.raises(Empty):
        queue.get_nowait_batch(2)

    @sheaf.remote(num_cpus=0)
    def fill(queue):
        for i in range(10):
            queue.put(i)

    queue.get()
    filling = fill.remote(queue)
    assert [queue.get(timeout=20) for _ in range(10)] == list(range(10))
    sheaf.get(filling)
    queue.shutdown()


def test_queue_for_coroutines():
    import asyncio

    queue = Queue(actor_options={"num_cpus": 0})

    async def main():
        getting = asyncio.ensure_future(queue.get_async())
        await asyncio.sleep(0.05)
        await queue.put_async("x")
        return await getting

    assert asyncio.run(main()) == "x"
    queue.shutdown(force=True)


# ---- Iterators and executors


def test_as_completed_and_map_unordered():
    f = sheaf.remote(slow)
    assert sorted(as_completed([f.remote(i) for i in range(5)])) == list(range(5))
    assert all(
        isinstance(r, sheaf.ObjectRef) for r in as_completed([f.remote(1)], yield_obj_refs=True)
    )
    assert sorted(map_unordered(f, range(20), backpressure_size=4)) == list(range(20))
    with pytest.raises(ValueError):
        list(map_unordered(f, [1], backpressure_size=0))
    with pytest.raises(ValueError):
        list(as_completed([], chunk_size=0))


def test_executor():
    from sheaf.util.concurrent import SheafExecutor

    with SheafExecutor(max_workers=2) as executor:
        assert executor.submit(square, 3).result(20) == 9
        assert list(executor.map(square, range(10), chunksize=3)) == [x * x for x in range(10)]
        with pytest.raises(ValueError, match="three"):
            executor.submit(fail_at_three, 3).result(20)
        futures = [executor.submit(slow, i) for i in range(4)]
        assert {f.result() for f in concurrent.futures.as_completed(futures, timeout=20)} == set(
            range(4)
        )
    with pytest.raises(RuntimeError):
        executor.submit(square, 1)
    with pytest.raises(ValueError):
        SheafExecutor(max_workers=0)


def test_joblib():
    joblib = pytest.importorskip("joblib")
    import numpy as np
    from sheaf.util.joblib import register_ray

    register_ray()
    shared = np.ones(500_000)
    for name in ("sheaf", "ray"):
        with joblib.parallel_backend(name, n_jobs=2):
            assert joblib.Parallel()(joblib.delayed(square)(i) for i in range(20)) == [
                i * i for i in range(20)
            ]
            assert (
                joblib.Parallel()(joblib.delayed(np.sum)(shared) for _ in range(3))
                == [500_000.0] * 3
            )
    with joblib.parallel_backend("sheaf", n_jobs=2):
        with pytest.raises(ValueError, match="three"):
            joblib.Parallel()(joblib.delayed(fail_at_three)(i) for i in range(5))


# ---- The rest


def test_metrics_reach_the_daemon():
    from sheaf.util import metrics

    @sheaf.remote
    def work():
        metrics.Counter("py_test_total", "calls", ("who",)).inc(2, tags={"who": "task"})
        metrics.flush()

    sheaf.get(work.remote())
    gauge = metrics.Gauge("py_test_gauge")
    gauge.set(1.5)
    metrics.Histogram("py_test_hist", boundaries=[1, 10]).observe(5)
    metrics.flush()

    def text():
        found = sheaf._core.state_query("metrics", {}, 0)[0]
        return found if "py_test_total" in found and "py_test_gauge" in found else None

    found = wait_until(text, what="the metrics")
    assert 'who="task"' in found and "py_test_gauge" in found and "py_test_hist_bucket" in found


def test_internal_kv():
    from sheaf.experimental import internal_kv as kv

    assert kv._internal_kv_initialized()
    assert kv._internal_kv_put("py:a", "1") is False and kv._internal_kv_put(b"py:a", b"2") is True
    assert kv._internal_kv_get("py:a") == b"2" and kv._internal_kv_exists("py:a")
    kv._internal_kv_put("py:b", "3", namespace="other")
    assert (
        kv._internal_kv_get("py:b") is None
        and kv._internal_kv_get("py:b", namespace="other") == b"3"
    )
    assert kv._internal_kv_list("py:") == [b"py:a"]
    assert (
        kv._internal_kv_del("py:", del_by_prefix=True) == 1 and kv._internal_kv_get("py:a") is None
    )


def test_registered_serializers_are_used():
    from sheaf.util import deregister_serializer, register_serializer

    class Locked:
        def __init__(self, name):
            self.name, self.lock = name, threading.Lock()

    register_serializer(Locked, serializer=lambda v: v.name, deserializer=lambda name: Locked(name))
    try:
        assert sheaf.get(sheaf.put(Locked("x"))).name == "x"

        @sheaf.remote
        def name_of(value):
            return value.name

        assert sheaf.get(name_of.remote(Locked("y"))) == "y"
    finally:
        deregister_serializer(Locked)


def test_context_of_the_driver_and_of_tasks():
    context = sheaf.get_runtime_context()
    assert (
        context.get_task_id() is None
        and context.get_actor_id() is None
        and context.namespace == "tests"
    )
    with pytest.raises(RuntimeError):
        context.current_actor
    with pytest.raises(AssertionError):
        context.get_assigned_resources()
    assert context.get_node_labels()["zone"] == "a"

    @sheaf.remote
    def who():
        c = sheaf.get_runtime_context()
        return (
            c.get_job_id(),
            c.get_node_id(),
            c.get_worker_id(),
            c.get_task_id(),
            c.get_task_name(),
            c.namespace,
        )

    ref = who.remote()
    job, node, worker, task, name, namespace = sheaf.get(ref)
    assert (job, node, namespace) == (context.get_job_id(), context.get_node_id(), "tests")
    assert (
        worker != context.get_worker_id() and task == ref.task_id().hex() and name.endswith("who")
    )


def test_node_address():
    from sheaf.util import get_node_ip_address

    assert get_node_ip_address().count(".") == 3


def test_unsupported_parts_say_so():
    for call in (
        lambda: sheaf.java_function("a", "b"),
        lambda: sheaf.java_actor_class("a"),
        lambda: sheaf.util.collective.allreduce(1),
    ):
        with pytest.raises(NotImplementedError):
            call()
    with pytest.raises(AttributeError, match="nothing"):
        sheaf.nothing
