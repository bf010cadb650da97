"""What programs written for Ray rely on beyond the calls themselves: module names that they import,
words of error messages that they match, clusters that they put together.
"""

import asyncio
import importlib
import os
import sys

import numpy
import pytest

import sheaf
from conftest import wait_until
from sheaf import exceptions
from sheaf.cluster_utils import Cluster
from sheaf.util.scheduling_strategies import (
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
)

MODULES = """
ray._private.internal_api:free ray._private.services:get_node_ip_address ray._raylet:ObjectRef
ray._raylet:DynamicObjectRefGenerator ray.autoscaler.sdk:request_resources ray.cloudpickle:dumps
ray.cluster_utils:Cluster ray.dag.class_node:ClassNode ray.dag.dag_node:DAGNode
ray.dag.function_node:FunctionNode ray.experimental.state.api:list_actors
ray.experimental.tqdm_ray:tqdm ray.job_config:JobConfig ray.util.actor_group:ActorGroup
ray.util.annotations:PublicAPI ray.util.joblib.ray_backend:SheafBackend
ray.util.state.common:StateResource ray.util.state.exception:RayStateApiException
"""


@pytest.fixture
def as_ray():
    import sheaf.as_ray

    sheaf.as_ray.install()
    yield
    sheaf.as_ray.uninstall()


def test_modules_that_programs_import(as_ray):
    for text in MODULES.split():
        module, name = text.split(":")
        assert getattr(importlib.import_module(module), name) is not None, text
    from ray.dag.dag_node import DAGNode

    assert DAGNode is sheaf.dag.DAGNode and sys.modules["ray.dag.dag_node"] is sheaf.dag.nodes


@sheaf.remote
class Member:
    def __init__(self, fails=False):
        if fails:
            raise KeyError("k")

    def pid(self):
        return os.getpid()

    async def asks(self):
        return sheaf.get_runtime_context().is_canceled()


class Plain:
    def __init__(self, start):
        self.n = start

    def add(self, k):
        self.n += k
        return self.n

    def get_actor_metadata(self):
        return "about me"


@sheaf.remote
class Prepared:
    async def __init__(self, start):
        self.order = [start]
        self.order.append(await sheaf.put(start + 1))

    def seen(self):
        return self.order


def test_a_constructor_may_be_async(cluster):
    assert sheaf.get(Prepared.remote(1).seen.remote()) == [1, 2]


def test_words_of_errors_about_actors(cluster):
    named = Member.options(name="one").remote()
    with pytest.raises(ValueError, match="The name .* is already taken.*use a different name"):
        Member.options(name="one").remote()
    with pytest.raises(ValueError, match="cannot be an empty string"):
        Member.options(name="").remote()
    with pytest.raises(ValueError, match="namespace"):
        Member.options(name="x", namespace="").remote()
    sheaf.kill(named)
    with pytest.raises(exceptions.RayActorError, match="it was killed by `ray.kill"):
        sheaf.get(named.pid.remote())
    with pytest.raises(exceptions.ActorDiedError, match="an error raised in its creation task"):
        sheaf.get(Member.remote(True).pid.remote())
    other = Member.remote()
    with pytest.raises(RuntimeError, match="not supported in an async actor"):
        sheaf.get(other.asks.remote())
    pid = sheaf.get(other.pid.remote())
    os.kill(pid, 9)
    with pytest.raises(exceptions.RayActorError, match="because its worker process has died"):
        sheaf.get(other.pid.remote())
    with pytest.raises(TypeError, match="Inheriting from actor classes"):

        class Child(Member):
            pass


def test_words_of_errors_about_placement():
    for bundles, words in (
        ([], "non-empty list"),
        ("no", "must be a list"),
        ([{8: 7}], "resource dictionaries"),
        ([{"CPU": "6"}], "resource dictionaries"),
        ([{"CPU": 0}], "only 0 values"),
    ):
        with pytest.raises(ValueError, match=words):
            sheaf.util.placement_group(bundles)
    for selectors, words in (
        ("no", "must be a list"),
        ([{"a": 1}], "list of string dictionary"),
        ([{"bad key!": "v"}], "Invalid label selector"),
    ):
        with pytest.raises(ValueError, match=words):
            sheaf.util.placement_group([{"CPU": 1}], bundle_label_selector=selectors)
    for operator in (In, NotIn):
        with pytest.raises(ValueError, match=f"position 0 for the {operator.__name__} operator"):
            operator(1)
        with pytest.raises(ValueError, match="must be a non-empty tuple"):
            operator()
    for hard, words in (([1], "must be a map"), ({1: In("a")}, "of type str"), ({"a": "b"}, "In")):
        with pytest.raises(ValueError, match=words):
            NodeLabelSchedulingStrategy(hard)


def test_an_actor_needs_the_cpu_that_places_it_in_its_group(cluster):
    group = sheaf.util.placement_group([{"gold": 1}])
    inside = PlacementGroupSchedulingStrategy(group)
    with pytest.raises(ValueError, match="Cannot schedule Member with the placement group"):
        Member.options(scheduling_strategy=inside).remote()
    actor = Member.options(scheduling_strategy=inside, num_cpus=0).remote()
    assert sheaf.get(actor.pid.remote(), timeout=20)
    sheaf.util.remove_placement_group(group)
    with pytest.raises(ValueError, match="bundle index must be -1"):
        Member.options(placement_group_bundle_index=0).remote()


def test_properties_of_the_context_say_what_to_use_instead(cluster):
    context = sheaf.get_runtime_context()
    for name in ("node_id", "job_id"):
        with pytest.warns(DeprecationWarning, match=f"Use get_{name}"):
            assert getattr(context, name).hex() == getattr(context, f"get_{name}")()


def test_freed_by_hand(cluster):
    from sheaf._private.internal_api import free, memory_summary

    ref = sheaf.put(numpy.zeros(1 << 20))
    assert ref.hex() in memory_summary()
    free([ref])
    with pytest.raises(exceptions.ObjectFreedError):
        sheaf.get(ref, timeout=20)
    with pytest.raises(TypeError):
        free("x")


def test_actor_group(cluster):
    with pytest.warns(DeprecationWarning):
        group = sheaf.util.actor_group.ActorGroup(Plain, 2, num_cpus_per_actor=0, init_args=(5,))
    assert len(group) == 2 and group.actor_metadata == ["about me"] * 2
    assert sheaf.get(group.add.remote(1)) == [6, 6]
    assert sheaf.get(group[1].actor.add.remote(1)) == 7
    with pytest.raises(TypeError):
        group.add(1)
    with pytest.raises(AttributeError):
        group.nothing
    group.add_actors(1)
    group.remove_actors([0])
    assert sheaf.get(group.add.remote(0)) == [7, 5]
    group.shutdown()
    with pytest.raises(RuntimeError):
        group.add.remote(1)


def test_a_bar_is_lines(capsys):
    from sheaf.experimental.tqdm_ray import tqdm

    assert list(tqdm([1, 2], desc="bar", flush_interval_s=0)) == [1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("bar:  50%|") and " 2/2 " in lines[-1]


async def awaited(ref):
    return await asyncio.wait_for(ref.as_future(), 20)


def test_errors_that_are_no_exceptions_keep_their_type(cluster):
    class Odd(BaseException):
        pass

    class Fixed(Exception):
        args = property(lambda self: ("fixed",))

    @sheaf.remote
    def fail(kind):
        raise kind()

    for kind in (Odd, Fixed):
        with pytest.raises(kind) as info:
            sheaf.get(fail.remote(kind))
        assert isinstance(info.value, exceptions.RayTaskError)
        assert str(info.value).startswith("ray::fail() (pid=")


def test_the_head_and_addresses_are_resources(cluster):
    (node,) = sheaf.nodes()
    here = f"node:{node['NodeManagerAddress']}"
    assert node["Labels"]["ray.io/node-id"] == node["NodeID"]

    @sheaf.remote(resources={"node:__internal_head__": 0.001, here: 0.001}, num_cpus=0)
    def on_head():
        return sheaf.get_runtime_context().get_node_id()

    assert sheaf.get(on_head.remote(), timeout=20) == node["NodeID"]


def test_a_node_has_one_address(cluster):
    from sheaf.util import get_node_ip_address

    here = f"node:{get_node_ip_address()}"
    assert here in sheaf.cluster_resources()
    assert sheaf.get(sheaf.remote(get_node_ip_address).options(resources={here: 0.01}).remote())


def test_where_objects_are(cluster):
    from sheaf.experimental import get_local_object_locations, get_object_locations

    here = sheaf.get_runtime_context().get_node_id()
    large, small = sheaf.put(numpy.zeros(10**6)), sheaf.put(1)
    wait_until(lambda: get_object_locations([large])[large]["node_ids"] == [here])
    found = get_local_object_locations([small, large])
    assert found[small]["node_ids"] == [] and found[small]["object_size"] is None
    assert found[large]["object_size"] > 8 * 10**6 and not found[large]["did_spill"]
    assert get_object_locations([]) == {}


@sheaf.remote
def own_name():
    return sheaf.get_runtime_context().get_task_function_name()


def test_functions_are_named_with_their_module(cluster):
    @sheaf.remote
    class Inner:
        def own_name(self):
            return sheaf.get_runtime_context().get_task_function_name()

    assert sheaf.get(own_name.remote()) == f"{__name__}.own_name"
    assert sheaf.get(own_name.options(name="other").remote()) == f"{__name__}.own_name"
    assert sheaf.get(Inner.remote().own_name.remote()) == f"{__name__}.Inner.own_name"
    assert sheaf.get_runtime_context().get_task_function_name() is None


def test_what_programs_ask_of_handles_and_ids(cluster):
    assert Member.__ray_metadata__.class_name == "Member"
    actor = Member.remote()
    assert {"__init__", "pid"} <= set(dir(actor))
    job = sheaf.get_runtime_context().get_job_id()
    assert actor._actor_id.job_id.hex() == actor.pid.remote().task_id().job_id().hex() == job


def test_a_handle_of_an_earlier_session_is_refused(fresh):
    fresh(num_cpus=1)
    actor = Member.remote()
    sheaf.shutdown()
    sheaf.init(num_cpus=1)
    with pytest.raises(exceptions.ActorHandleNotFoundError, match="not valid across"):
        sheaf.kill(actor)


def test_an_event_loop_outlives_a_session(no_cluster):
    loop = asyncio.new_event_loop()
    try:
        for session in range(3):
            sheaf.init(num_cpus=1)
            named = Prepared.remote(session)
            assert loop.run_until_complete(awaited(named.seen.remote())) == [session, session + 1]
            asyncio.set_event_loop(loop)
            outside = named.seen.remote().as_future()
            assert loop.run_until_complete(asyncio.wait_for(outside, 20))[0] == session
            assert named.seen.remote().future().result(20)[0] == session
            sheaf.shutdown()
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_a_cluster_put_together_by_a_program(no_cluster):
    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1, resources={"licence": 1}, labels={"zone": "b"})
        assert sheaf.cluster_resources()["licence"] == 1 and len(cluster.list_all_nodes()) == 2

        @sheaf.remote
        def where():
            return sheaf.get_runtime_context().get_node_id()

        def runs_at(node, soft):
            there = NodeAffinitySchedulingStrategy(node.node_id, soft=soft)
            return sheaf.get(where.options(scheduling_strategy=there).remote(), timeout=60)

        assert runs_at(node, soft=False) == node.node_id
        assert runs_at(cluster.head_node, soft=True) == cluster.head_node.node_id
        # The head has a worker that waits for work, and often no view yet with the newcomer in it.
        stay = {cluster.head_node.node_id}
        for _ in range(3):
            newcomer = cluster.add_node(num_cpus=1)
            assert runs_at(newcomer, soft=True) == newcomer.node_id
            stay.add(newcomer.node_id)
        cluster.remove_node(node, allow_graceful=False)
        assert {row["NodeID"] for row in sheaf.nodes() if row["Alive"]} == stay
        assert cluster.remaining_processes_alive()
        sheaf.shutdown()
        with pytest.raises(ValueError, match="_system_config must not be provided"):
            sheaf.init(address=cluster.address, _system_config={"log.level": "info"})
    finally:
        sheaf.shutdown()
        cluster.shutdown()
    assert cluster.address is None
