"""The benchmark lines, written against an API module (`sheaf`, `ray`, or a peer as peer_apis.py
shows it) so that all engines run the same code.

This file imports no engine: a peer's interpreter loads it by path. Each line is a generator of one
callable; calling that does `multiplier` units of work. Units and method follow `ray microbenchmark`
for the lines that it has. `needs` names what an engine must offer beyond plain calls; a peer
without it is left out of the line.
"""
from __future__ import annotations

import dataclasses
import importlib
import os
from typing import Any, Callable, Iterator

Work = Callable[[], Any]


#: What a whole engine offers.
EVERYTHING = frozenset({"put", "refs", "wait", "map", "actors", "nested", "returns", "groups"})


@dataclasses.dataclass
class Line:
    """One line of the table. `unit` is what is counted per second; `bandwidth` marks lines that
    memory speed bounds.
    """

    name: str
    setup: Callable[[Any], Iterator[Work]]
    multiplier: float = 1.0
    unit: str = "calls"
    bandwidth: bool = False
    needs: frozenset[str] = frozenset()


LINES: list[Line] = []


def line(name: str, multiplier: float = 1.0, unit: str = "calls", *, bandwidth=False, needs=""):
    """Registers a generator function `setup(api)` that yields the work and cleans up after it."""

    def register(setup: Callable[[Any], Iterator[Work]]) -> Callable[[Any], Iterator[Work]]:
        LINES.append(Line(name, setup, multiplier, unit, bandwidth, frozenset(needs.split())))
        return setup

    return register


def clients(api: Any) -> int:
    """Half of the cores, at least one: how many server actors the n:n lines use."""
    return max(1, (os.cpu_count() or 2) // 2)


def _functions(api: Any) -> dict[str, Any]:
    @api.remote
    def small_value():
        return b"ok"

    @api.remote
    def echo(value):
        return value

    @api.remote
    def many_small_puts():
        for _ in range(100):
            api.put(0)

    @api.remote
    def many_large_puts():
        import numpy as np

        for _ in range(10):
            api.put(np.zeros(10 * 1024 * 1024, dtype=np.int64))

    @api.remote
    def list_of_refs():
        return [api.put(1) for _ in range(10_000)]

    @api.remote
    def three_thousand():
        return list(range(3000))

    @api.remote
    def count_arguments(*values):
        return len(values)

    @api.remote(num_cpus=1)
    def hold(path):
        """Keeps a CPU until the file is gone, two minutes at most; when it began, and where."""
        import os
        import time

        began = time.time()
        while os.path.exists(path) and time.time() < began + 120:
            time.sleep(0.005)
        return began, os.getpid()

    return {name: value for name, value in locals().items() if name != "api"}


def _classes(api: Any, small_value: Any) -> dict[str, Any]:
    @api.remote(num_cpus=0)
    class Server:
        def small_value(self):
            return b"ok"

        def small_value_arg(self, value):
            return b"ok"

        def small_value_batch(self, n):
            api.get([small_value.remote() for _ in range(n)])
            return 0

    @api.remote(num_cpus=0)
    class AsyncServer:
        async def small_value(self):
            return b"ok"

        async def small_value_with_arg(self, value):
            return b"ok"

    @api.remote(num_cpus=0)
    class Client:
        def __init__(self, servers):
            self.servers = list(servers) if isinstance(servers, (list, tuple)) else [servers]

        def small_value_batch(self, n):
            refs = []
            for server in self.servers:
                refs.extend(server.small_value.remote() for _ in range(n))
            api.get(refs)

        def small_value_batch_arg(self, n):
            value = api.put(0)
            refs = []
            for server in self.servers:
                refs.extend(server.small_value_arg.remote(value) for _ in range(n))
            api.get(refs)

    return {"Server": Server, "AsyncServer": AsyncServer, "Client": Client}


def definitions(api: Any) -> dict[str, Any]:
    """Remote functions and classes of the suite for one engine, made once."""
    known = getattr(api, "_sheaf_perf_definitions", None)
    if known is None:
        known = _functions(api)
        known.update(_classes(api, known["small_value"]))
        api._sheaf_perf_definitions = known
    return known


def kill_all(api: Any, *actors: Any) -> None:
    for actor in actors:
        api.kill(actor)


@line("single client get calls", needs="put")
def get_calls(api):
    ref = api.put(0)
    yield lambda: api.get(ref)


@line("single client put calls", needs="put")
def put_calls(api):
    yield lambda: api.put(0)


@line("multi client put calls", multiplier=1000, needs="put nested")
def multi_put_calls(api):
    task = definitions(api)["many_small_puts"]
    yield lambda: api.get([task.remote() for _ in range(10)])


@line("single client put gigabytes", multiplier=0.8, unit="GB", bandwidth=True, needs="put")
def put_gigabytes(api):
    import numpy as np

    array = np.zeros(100 * 1024 * 1024, dtype=np.int64)
    array[:] = 1
    yield lambda: api.put(array)


@line("multi client put gigabytes", multiplier=8.0, unit="GB", bandwidth=True, needs="put nested")
def multi_put_gigabytes(api):
    task = definitions(api)["many_large_puts"]
    yield lambda: api.get([task.remote() for _ in range(10)])


@line("single client tasks and get batch", unit="batches of 1,000")
def tasks_and_get(api):
    task = definitions(api)["small_value"]
    yield lambda: api.get([task.remote() for _ in range(1000)])


@line("single client get object containing 10k refs", unit="objects", needs="put nested")
def get_refs(api):
    ref = definitions(api)["list_of_refs"].remote()
    api.wait([ref])
    yield lambda: api.get(ref)


@line("single client wait 1k refs", unit="rounds", needs="wait")
def wait_refs(api):
    task = definitions(api)["small_value"]

    def work():
        pending = [task.remote() for _ in range(1000)]
        while pending:
            _, pending = api.wait(pending)

    yield work


@line("single client tasks sync", unit="tasks")
def tasks_sync(api):
    task = definitions(api)["small_value"]
    yield lambda: api.get(task.remote())


@line("single client tasks async", multiplier=1000, unit="tasks")
def tasks_async(api):
    task = definitions(api)["small_value"]
    yield lambda: api.get([task.remote() for _ in range(1000)])


@line("multi client tasks async", multiplier=10_000, unit="tasks", needs="actors")
def multi_tasks_async(api):
    servers = [definitions(api)["Server"].remote() for _ in range(4)]
    yield lambda: api.get([s.small_value_batch.remote(2500) for s in servers])
    kill_all(api, *servers)


@line("1:1 actor calls sync", needs="actors")
def actor_sync(api):
    actor = definitions(api)["Server"].remote()
    yield lambda: api.get(actor.small_value.remote())
    kill_all(api, actor)


@line("1:1 actor calls async", multiplier=1000, needs="actors")
def actor_async(api):
    actor = definitions(api)["Server"].remote()
    yield lambda: api.get([actor.small_value.remote() for _ in range(1000)])
    kill_all(api, actor)


@line("1:1 actor calls concurrent", multiplier=1000, needs="actors")
def actor_concurrent(api):
    actor = definitions(api)["Server"].options(max_concurrency=16).remote()
    yield lambda: api.get([actor.small_value.remote() for _ in range(1000)])
    kill_all(api, actor)


def one_client_many_servers(api, server_class: str):
    """One client actor that calls every server; 5,000 calls in all."""
    made = definitions(api)
    n = clients(api)
    servers = [made[server_class].remote() for _ in range(n)]
    client = made["Client"].remote(servers)
    yield lambda: api.get(client.small_value_batch.remote(5000 // n))
    kill_all(api, client, *servers)


def many_tasks_many_servers(api, server_class: str):
    """Four tasks that call the servers in turn; 10,000 calls in all."""
    n = clients(api)
    servers = [definitions(api)[server_class].remote() for _ in range(n)]

    @api.remote
    def work(actors):
        api.get([actors[i % n].small_value.remote() for i in range(2500)])

    yield lambda: api.get([work.remote(servers) for _ in range(4)])
    kill_all(api, *servers)


@line("1:n actor calls async", multiplier=5000, needs="actors")
def one_to_n(api):
    return one_client_many_servers(api, "Server")


@line("n:n actor calls async", multiplier=10_000, needs="actors")
def n_to_n(api):
    return many_tasks_many_servers(api, "Server")


@line("n:n actor calls with arg async", multiplier=2000, needs="actors")
def n_to_n_arg(api):
    made = definitions(api)
    n = clients(api)
    servers = [made["Server"].remote() for _ in range(n)]
    callers = [made["Client"].remote(s) for s in servers]
    per_caller = 2000 // n
    yield lambda: api.get([c.small_value_batch_arg.remote(per_caller) for c in callers])
    kill_all(api, *callers, *servers)


@line("1:1 async-actor calls sync", needs="actors")
def async_actor_sync(api):
    actor = definitions(api)["AsyncServer"].remote()
    yield lambda: api.get(actor.small_value.remote())
    kill_all(api, actor)


@line("1:1 async-actor calls async", multiplier=1000, needs="actors")
def async_actor_async(api):
    actor = definitions(api)["AsyncServer"].remote()
    yield lambda: api.get([actor.small_value.remote() for _ in range(1000)])
    kill_all(api, actor)


@line("1:1 async-actor calls with args async", multiplier=1000, needs="actors")
def async_actor_args(api):
    actor = definitions(api)["AsyncServer"].remote()
    yield lambda: api.get([actor.small_value_with_arg.remote(i) for i in range(1000)])
    kill_all(api, actor)


@line("1:n async-actor calls async", multiplier=5000, needs="actors")
def one_to_n_async(api):
    return one_client_many_servers(api, "AsyncServer")


@line("n:n async-actor calls async", multiplier=10_000, needs="actors")
def n_to_n_async(api):
    return many_tasks_many_servers(api, "AsyncServer")


@line("placement group create/removal", multiplier=100, unit="groups", needs="groups")
def placement_groups(api):
    groups = importlib.import_module(api.__name__ + ".util.placement_group")

    def work():
        made = [groups.placement_group([{"custom": 0.001}]) for _ in range(100)]
        for group in made:
            group.wait(timeout_seconds=30)
        for group in made:
            groups.remove_placement_group(group)

    yield work


@line("actors created and called once", multiplier=8, unit="actors", needs="actors")
def actor_creation(api):
    server = definitions(api)["Server"]

    def work():
        actors = [server.remote() for _ in range(8)]
        api.get([a.small_value.remote() for a in actors])
        kill_all(api, *actors)

    yield work


@line("fan-out 100, fan-in 1", multiplier=101, unit="tasks", needs="refs")
def fan_out_in(api):
    made = definitions(api)
    small, count = made["small_value"], made["count_arguments"]
    yield lambda: api.get(count.remote(*[small.remote() for _ in range(100)]))


@line("chain of 100 tasks", multiplier=100, unit="tasks", needs="refs")
def chain(api):
    echo = definitions(api)["echo"]

    def work():
        ref = echo.remote(0)
        for _ in range(99):
            ref = echo.remote(ref)
        return api.get(ref)

    yield work


@line("task with 10k arguments", unit="tasks", needs="put refs nested")
def many_arguments(api):
    task = definitions(api)["count_arguments"]
    values = [api.put(i) for i in range(10_000)]
    yield lambda: api.get(task.remote(*values))


@line("task with 3k returns", unit="tasks", needs="returns")
def many_returns(api):
    task = definitions(api)["three_thousand"].options(num_returns=3000)
    yield lambda: api.get(task.remote())


@line("get of an 800 MB array", unit="gets", needs="put")
def get_large(api):
    import numpy as np

    ref = api.put(np.zeros(100 * 1024 * 1024, dtype=np.int64))
    yield lambda: api.get(ref)


@line("map of 100,000 calls in chunks", multiplier=100_000, needs="map")
def chunked_map(api):
    if hasattr(api, "map"):
        yield lambda: api.map(abs, range(100_000))
        return
    pools = importlib.import_module(api.__name__ + ".util.multiprocessing")
    pool = pools.Pool(os.cpu_count() or 2)
    yield lambda: pool.map(abs, range(100_000))
    pool.terminate()


def round_trip(api, value):
    """The value as an argument and back as the result."""
    echo = definitions(api)["echo"]
    return lambda: api.get(echo.remote(value))


@line("task, 1 KB of bytes in and out", unit="tasks")
def bytes_argument(api):
    yield round_trip(api, b"x" * 1024)


@line("task, dict of 1,000 floats in and out", unit="tasks")
def dict_argument(api):
    yield round_trip(api, {f"key {i}": i * 0.5 for i in range(1000)})


@line("task, 8 MB array in and out", multiplier=0.01678, unit="GB", bandwidth=True)
def array_argument(api):
    import numpy as np

    yield round_trip(api, np.zeros(1 << 20))


@line("put and get of a dict of 1,000 floats", unit="objects", needs="put")
def put_get_dict(api):
    value = {f"key {i}": i * 0.5 for i in range(1000)}
    yield lambda: api.get(api.put(value))


@line("put and get of a 1 MB array", unit="objects", needs="put")
def put_get_array(api):
    import numpy as np

    value = np.zeros(1 << 17)
    yield lambda: api.get(api.put(value))
