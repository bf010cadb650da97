"""Resources, strategies, labels and placement groups."""

import os
import time

import pytest
import sheaf
from conftest import wait_until
from sheaf.util import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from sheaf.util.scheduling_strategies import (
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

pytestmark = pytest.mark.usefixtures("cluster")


@sheaf.remote
def resources():
    return sheaf.get_runtime_context().get_assigned_resources()


@sheaf.remote
def hold(seconds):
    time.sleep(seconds)


def all_free():
    wait_until(
        lambda: sheaf.available_resources() == sheaf.cluster_resources(), 20, "free resources"
    )


def test_assigned_resources():
    assert sheaf.get(resources.remote()) == {"CPU": 1.0}
    assert sheaf.get(resources.options(num_cpus=0.5, resources={"gold": 0.25}).remote()) == {
        "CPU": 0.5,
        "gold": 0.25,
    }
    assert sheaf.get(resources.options(num_cpus=0).remote()) == {}


def test_a_resource_limits_what_runs_at_a_time():
    began = time.monotonic()
    sheaf.get([hold.options(resources={"silver": 1}, num_cpus=0).remote(0.2) for _ in range(3)])
    assert time.monotonic() - began >= 0.6


def test_resources_in_use_are_not_available():
    ref = hold.options(num_cpus=3).remote(100)
    wait_until(lambda: sheaf.available_resources().get("CPU") == 1.0, what="the use of 3 CPUs")
    sheaf.cancel(ref)
    all_free()


def test_an_infeasible_request_waits():
    ref = hold.options(resources={"unobtainium": 1}).remote(0)
    big = hold.options(num_cpus=1000).remote(0)
    assert sheaf.wait([ref, big], timeout=0.5)[0] == []
    for waiting in (ref, big):
        sheaf.cancel(waiting)
        with pytest.raises(sheaf.exceptions.TaskCancelledError):
            sheaf.get(waiting, timeout=10)


def test_node_affinity():
    here = sheaf.get_runtime_context().get_node_id()

    @sheaf.remote
    def where():
        return sheaf.get_runtime_context().get_node_id()

    assert (
        sheaf.get(
            where.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False)
            ).remote()
        )
        == here
    )
    gone = NodeAffinitySchedulingStrategy("ab" * 16, soft=False)
    with pytest.raises(sheaf.exceptions.TaskUnschedulableError):
        sheaf.get(where.options(scheduling_strategy=gone).remote(), timeout=20)
    soft = NodeAffinitySchedulingStrategy("ab" * 16, soft=True)
    assert sheaf.get(where.options(scheduling_strategy=soft).remote(), timeout=20) == here
    assert sheaf.get(where.options(scheduling_strategy="SPREAD").remote()) == here


def test_labels():
    assert sheaf.get(resources.options(label_selector={"zone": "a"}).remote(), timeout=20)
    assert sheaf.get(
        resources.options(label_selector={"zone": "in(a,b)", "disk": "!hdd"}).remote(), timeout=20
    )
    strategy = NodeLabelSchedulingStrategy({"disk": In("ssd", "nvme")})
    assert sheaf.get(resources.options(scheduling_strategy=strategy).remote(), timeout=20)
    other = resources.options(label_selector={"zone": "b"}).remote()
    assert sheaf.wait([other], timeout=0.5)[0] == []
    sheaf.cancel(other)


def test_a_blocked_task_lends_its_cpu():
    @sheaf.remote(num_cpus=4)
    def outer():
        return sheaf.get(resources.options(num_cpus=4).remote())

    assert sheaf.get(outer.remote(), timeout=30) == {"CPU": 4.0}


# ---- Placement groups


def test_a_group_reserves_its_bundles():
    all_free()
    group = placement_group([{"CPU": 1}, {"CPU": 1, "gold": 1}], strategy="PACK")
    assert group.wait(30) and sheaf.get(group.ready(), timeout=10) == group
    assert group.bundle_count == 2 and group.bundle_specs[1] == {"CPU": 1, "gold": 1}
    free = sheaf.available_resources()
    assert free["CPU"] == 2.0 and free["gold"] == 1.0
    inside = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=1)

    @sheaf.remote
    def where():
        context = sheaf.get_runtime_context()
        return context.get_placement_group_id(), get_current_placement_group()

    group_id, current = sheaf.get(
        where.options(scheduling_strategy=inside, resources={"gold": 1}).remote(), timeout=20
    )
    assert group_id == group.id.hex() and current == group
    assert sheaf.get(where.remote()) == (None, None) and get_current_placement_group() is None
    assert sheaf.get(where.options(placement_group=group).remote(), timeout=20)[0] == group.id.hex()
    remove_placement_group(group)
    all_free()
    with pytest.raises(
        (sheaf.exceptions.TaskPlacementGroupRemoved, sheaf.exceptions.TaskUnschedulableError)
    ):
        sheaf.get(where.options(scheduling_strategy=inside).remote(), timeout=20)


def test_a_bundle_limits_what_runs_in_it():
    group = placement_group([{"CPU": 1}])
    inside = PlacementGroupSchedulingStrategy(group)
    began = time.monotonic()
    sheaf.get([hold.options(scheduling_strategy=inside).remote(0.2) for _ in range(3)], timeout=30)
    assert time.monotonic() - began >= 0.6
    remove_placement_group(group)


def test_a_group_that_does_not_fit_waits():
    group = placement_group([{"CPU": 1000}])
    assert not group.wait(0.3)
    assert sheaf.wait([group.ready()], timeout=0.3)[0] == []
    assert placement_group_table(group)["state"] == "PENDING"
    remove_placement_group(group)
    apart = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    assert not apart.wait(0.3)
    remove_placement_group(apart)
    all_free()


def test_removing_a_group_ends_what_runs_in_it():
    group = placement_group([{"CPU": 1}])
    inside = PlacementGroupSchedulingStrategy(group)

    @sheaf.remote
    class Inside:
        def pid(self):
            return os.getpid()

    actor = Inside.options(scheduling_strategy=inside, num_cpus=1).remote()
    pid = sheaf.get(actor.pid.remote(), timeout=20)
    remove_placement_group(group)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), what="the actor's end")
    with pytest.raises(
        (sheaf.exceptions.RayActorError, sheaf.exceptions.ActorPlacementGroupRemoved)
    ):
        sheaf.get(actor.pid.remote(), timeout=20)


def test_children_can_be_captured():
    group = placement_group([{"CPU": 2}])

    @sheaf.remote
    def child():
        return sheaf.get_runtime_context().get_placement_group_id()

    @sheaf.remote
    def parent():
        return sheaf.get([child.remote(), child.options(placement_group=None).remote()])

    inside = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)
    assert sheaf.get(parent.options(scheduling_strategy=inside).remote(), timeout=30) == [
        group.id.hex(),
        None,
    ]
    loose = PlacementGroupSchedulingStrategy(group)
    assert sheaf.get(parent.options(scheduling_strategy=loose).remote(), timeout=30) == [None, None]
    remove_placement_group(group)


def test_groups_made_and_removed_without_waiting():
    groups = [placement_group([{"CPU": 0.001}]) for _ in range(50)]
    for group in groups[::2]:
        remove_placement_group(group)
    assert [group.wait(10) for group in groups] == [False, True] * 25
    for group in groups[1::2]:
        remove_placement_group(group)
    all_free()
    with pytest.raises(ValueError):
        placement_group([{"GPU": 1.5}])


def test_a_worker_knows_a_group_as_soon_as_it_is_told():
    @sheaf.remote(num_cpus=0)
    def wait_for(group):
        return group.wait(20)

    sheaf.get(wait_for.remote(placement_group([{"CPU": 0.001}])))  # a worker, and what it needs, are there
    for _ in range(20):
        group = placement_group([{"CPU": 0.001}])
        assert sheaf.get(wait_for.remote(group), timeout=20)
        remove_placement_group(group)


def test_names_and_tables():
    group = placement_group([{"CPU": 1}], name="named group")
    group.wait(10)
    assert get_placement_group("named group") == group
    table = placement_group_table(group)
    assert (
        table["name"] == "named group"
        and table["state"] == "CREATED"
        and table["bundles"] == {0: {"CPU": 1.0}}
    )
    assert group.id.hex() in placement_group_table()
    remove_placement_group(group)
    with pytest.raises(ValueError):
        get_placement_group("nobody")


@pytest.mark.parametrize(
    "arguments",
    [
        {"bundles": [{"CPU": 1}], "strategy": "NEAR"},
        {"bundles": [{"CPU": 1}], "lifetime": "x"},
        {"bundles": []},
        {"bundles": [{"CPU": 1}], "bundle_label_selector": [{}, {}]},
    ],
)
def test_malformed_groups(arguments):
    with pytest.raises((ValueError, TypeError)):
        placement_group(**arguments)


def test_fractional_gpus(fresh):
    fresh(num_cpus=2, num_gpus=1)

    @sheaf.remote(num_gpus=0.5)
    class Half:
        def ids(self):
            return sheaf.get_gpu_ids(), os.environ.get("CUDA_VISIBLE_DEVICES")

    halves = [Half.remote() for _ in range(2)]
    assert sheaf.get([half.ids.remote() for half in halves], timeout=30) == [([0], "0")] * 2
    assert "GPU" not in sheaf.available_resources()
    third = Half.remote()
    assert sheaf.wait([third.ids.remote()], timeout=0.5)[0] == []
    sheaf.kill(halves[0])
    assert sheaf.get(third.ids.remote(), timeout=30)[0] == [0]


def test_a_request_that_no_bundle_can_hold_is_refused_at_once(cluster):
    group = placement_group([{"CPU": 1}])
    inside = PlacementGroupSchedulingStrategy(group)
    with pytest.raises(ValueError, match="cannot fit into any bundles"):
        resources.options(num_cpus=2, scheduling_strategy=inside).remote()
    remove_placement_group(group)


def test_the_first_label_selector_that_a_node_meets_is_taken(cluster):
    fallback = [{"label_selector": {"zone": "in(x,y)"}}, {"label_selector": {"disk": "!hdd"}}]
    picky = resources.options(label_selector={"zone": "nowhere"}, fallback_strategy=fallback)
    assert sheaf.get(picky.remote(), timeout=20)
    for wrong in (["zone"], [{"memory": 1}], [{"label_selector": {"-bad-": "x"}}]):
        with pytest.raises(ValueError, match="fallback_strategy"):
            resources.options(fallback_strategy=wrong)
