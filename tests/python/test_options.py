"""What the decorator and .options() refuse, and that they name the option. No cluster."""

import pytest
import sheaf
from sheaf import _options
from sheaf.util.placement_group import PlacementGroup
from sheaf.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
    strategy_dict,
)


def function():
    return 1


class Thing:
    pass


BAD_FOR_BOTH = [
    ({"num_cpus": "a"}, TypeError, "num_cpus"),
    ({"num_cpus": -1}, ValueError, "num_cpus"),
    ({"num_gpus": -1}, ValueError, "num_gpus"),
    ({"memory": -1}, ValueError, "memory"),
    ({"resources": 1}, TypeError, "resources"),
    ({"resources": {"CPU": 1}}, ValueError, "num_cpus"),
    ({"resources": {"a": -1}}, ValueError, "a"),
    ({"resources": {"a": "b"}}, TypeError, "a"),
    ({"foo": 1}, ValueError, "foo"),
    ({"name": 3}, TypeError, "name"),
    ({"scheduling_strategy": 3}, TypeError, "scheduling_strategy"),
    ({"scheduling_strategy": "NEAR"}, ValueError, "scheduling_strategy"),
    ({"runtime_env": 3}, TypeError, "runtime_env"),
    ({"label_selector": 3}, TypeError, "label_selector"),
    ({"label_selector": {"a": 1}}, TypeError, "label_selector"),
    ({"label_selector": {"a": "in(x"}}, ValueError, "label_selector"),
    ({"accelerator_type": 3}, TypeError, "accelerator_type"),
    ({"placement_group": 3}, TypeError, "placement_group"),
    ({"enable_task_events": 3}, TypeError, "enable_task_events"),
]
BAD_FOR_TASKS = [
    ({"num_returns": -1}, ValueError, "num_returns"),
    ({"num_returns": "many"}, ValueError, "num_returns"),
    ({"max_retries": -2}, ValueError, "max_retries"),
    ({"max_retries": "a"}, TypeError, "max_retries"),
    ({"retry_exceptions": 3}, TypeError, "retry_exceptions"),
    ({"retry_exceptions": [int]}, ValueError, "retry_exceptions"),
    ({"max_calls": -1}, ValueError, "max_calls"),
    ({"max_restarts": 1}, ValueError, "max_restarts"),
    ({"_generator_backpressure_num_objects": 0}, ValueError, "_generator_backpressure_num_objects"),
]
BAD_FOR_ACTORS = [
    ({"max_restarts": -2}, ValueError, "max_restarts"),
    ({"max_restarts": "a"}, TypeError, "max_restarts"),
    ({"max_task_retries": -2}, ValueError, "max_task_retries"),
    ({"max_concurrency": "a"}, TypeError, "max_concurrency"),
    ({"max_pending_calls": -2}, ValueError, "max_pending_calls"),
    ({"lifetime": "x"}, ValueError, "lifetime"),
    ({"namespace": 3}, TypeError, "namespace"),
    ({"get_if_exists": True}, ValueError, "get_if_exists"),
    ({"concurrency_groups": 3}, TypeError, "concurrency_groups"),
    ({"concurrency_groups": {"a": 0}}, ValueError, "a"),
    ({"allow_out_of_order_execution": 3}, TypeError, "allow_out_of_order_execution"),
    ({"num_returns": 2}, ValueError, "num_returns"),
    ({"max_retries": 2}, ValueError, "max_retries"),
    ({"max_calls": 2}, ValueError, "max_calls"),
]


@pytest.mark.parametrize("options, error, name", BAD_FOR_BOTH + BAD_FOR_TASKS)
def test_a_wrong_task_option_is_named(options, error, name):
    with pytest.raises(error, match=name):
        sheaf.remote(**options)(function)
    with pytest.raises(error, match=name):
        sheaf.remote(function).options(**options)


@pytest.mark.parametrize("options, error, name", BAD_FOR_BOTH + BAD_FOR_ACTORS)
def test_a_wrong_actor_option_is_named(options, error, name):
    with pytest.raises(error, match=name):
        sheaf.remote(**options)(Thing)
    if "concurrency_groups" not in options:
        with pytest.raises(error, match=name):
            sheaf.remote(Thing).options(**options)


def test_some_options_belong_to_the_decorator_only():
    with pytest.raises(ValueError, match="max_calls"):
        sheaf.remote(function).options(max_calls=1)
    with pytest.raises(ValueError, match="concurrency_groups"):
        sheaf.remote(Thing).options(concurrency_groups={"io": 1})


@pytest.mark.parametrize(
    "options",
    [
        {"num_cpus": None},
        {"num_gpus": 0.5},
        {"resources": {"a": 0.1}},
        {"num_returns": None},
        {"num_returns": 0},
        {"max_retries": -1},
        {"retry_exceptions": [ValueError, KeyError]},
        {"retry_exceptions": True},
        {"scheduling_strategy": "SPREAD"},
        {"label_selector": {"zone": "!in(a,b)"}},
        {"placement_group": None},
        {"placement_group": "default"},
        {"memory": 1.5},
        {"runtime_env": {}},
    ],
)
def test_right_options_are_taken(options):
    sheaf.remote(**options)(function)
    sheaf.remote(function).options(**options)


@pytest.mark.parametrize("num_returns", ["streaming", "dynamic"])
def test_only_generator_functions_give_generators(num_returns):
    def items():
        yield 1

    sheaf.remote(num_returns=num_returns)(items)
    sheaf.remote(items).options(num_returns=num_returns)
    sheaf.method(num_returns=num_returns)(items)
    for wrong in (
        lambda: sheaf.remote(num_returns=num_returns)(function),
        lambda: sheaf.remote(function).options(num_returns=num_returns),
        lambda: sheaf.method(num_returns=num_returns)(function),
    ):
        with pytest.raises(ValueError, match="can only be used with generator"):
            wrong()


def test_the_decorator_itself():
    for bad in (lambda: sheaf.remote(), lambda: sheaf.remote(3), lambda: sheaf.remote(1, 2)):
        with pytest.raises(AssertionError, match="decorator"):
            bad()
    with pytest.raises(TypeError, match="function or a class"):
        sheaf.remote(sheaf.remote(function))
    with pytest.raises(TypeError, match="function or a class"):
        sheaf.remote(len)


def test_direct_calls_say_what_to_do():
    with pytest.raises(TypeError, match=r"function\.remote\(\)"):
        sheaf.remote(function)()
    with pytest.raises(TypeError, match=r"Thing\.remote\(\)"):
        sheaf.remote(Thing)()


def test_no_class_derives_from_an_actor_class():
    Parent = sheaf.remote(Thing)
    with pytest.raises(sheaf.actor.ActorClassInheritanceException, match="Child.*Thing"):

        class Child(Parent):
            pass


def test_method_decorator():
    assert sheaf.method(num_returns=2)(function) is function
    with pytest.raises(AssertionError, match="foo"):
        sheaf.method(foo=1)
    with pytest.raises(AssertionError, match="keyword"):
        sheaf.method(3)
    with pytest.raises(ValueError, match="num_returns"):
        sheaf.method(num_returns=-1)


def test_resource_maps():
    assert _options.resource_map({}, 1) == {"CPU": 1.0}
    assert _options.resource_map({"num_cpus": 0}, 1) == {}
    assert _options.resource_map(
        {"num_gpus": 2, "memory": 10, "resources": {"a": 0.5, "b": 0}}, 0
    ) == {"GPU": 2.0, "memory": 10.0, "a": 0.5}
    assert _options.resource_map({"accelerator_type": "A100"}, 0) == {
        "accelerator_type:A100": 0.001
    }
    with pytest.raises(ValueError, match="whole"):
        _options.resource_map({"num_gpus": 1.5}, 1)


def test_actors_hold_what_they_name():
    from sheaf.actor import actor_resources

    assert actor_resources({}) == ({}, {"CPU": 1.0})
    assert actor_resources({"memory": 5}) == ({"memory": 5.0}, {"CPU": 1.0})
    assert actor_resources({"num_cpus": 2}) == ({"CPU": 2.0}, {})
    assert actor_resources({"num_cpus": 0}) == ({}, {})
    assert actor_resources({"num_gpus": 1}) == ({"CPU": 1.0, "GPU": 1.0}, {})


def test_strategies_for_the_engine():
    assert strategy_dict({}) == {"kind": 0}
    assert strategy_dict({"scheduling_strategy": "SPREAD"}) == {"kind": 1}
    node = NodeAffinitySchedulingStrategy("ab" * 16, soft=True)
    assert strategy_dict({"scheduling_strategy": node}) == {
        "kind": 2,
        "node": "ab" * 16,
        "soft": True,
    }
    labels = NodeLabelSchedulingStrategy(
        {"a": In("x", "y"), "b": Exists()}, soft={"c": NotIn("z"), "d": DoesNotExist()}
    )
    assert strategy_dict({"scheduling_strategy": labels}) == {
        "kind": 3,
        "hard_labels": {"a": "in(x,y)", "b": "exists()"},
        "soft_labels": {"c": "!in(z)", "d": "!exists()"},
    }
    assert strategy_dict({"label_selector": {"zone": "!a"}}) == {
        "kind": 3,
        "hard_labels": {"zone": "!a"},
    }
    group = PlacementGroup.from_binary(b"\1" * 16)
    group.bundle_cache = [{"CPU": 1}]
    for options in (
        {"placement_group": group, "placement_group_bundle_index": 0},
        {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, 0)},
    ):
        assert strategy_dict(options) == {
            "kind": 4,
            "group": b"\1" * 16,
            "bundle": 0,
            "capture_child_tasks": False,
        }
    with pytest.raises(ValueError, match="bundle index 1 is invalid"):
        strategy_dict({"placement_group": group, "placement_group_bundle_index": 1})
    assert strategy_dict({"placement_group": PlacementGroup.empty()}) == {"kind": 0}


@pytest.mark.parametrize(
    "make",
    [
        lambda: In(),
        lambda: In(1),
        lambda: NodeLabelSchedulingStrategy({}),
        lambda: NodeLabelSchedulingStrategy([]),
        lambda: NodeLabelSchedulingStrategy({"a": "b"}),
        lambda: NodeLabelSchedulingStrategy({1: Exists()}),
    ],
)
def test_malformed_label_conditions(make):
    with pytest.raises(ValueError):
        make()


def test_a_new_placement_replaces_the_old_one():
    group = PlacementGroup.from_binary(b"\1" * 16)
    merged = _options.merge(
        {"placement_group": group, "num_cpus": 1}, {"scheduling_strategy": "SPREAD"}
    )
    assert merged == {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
    with pytest.raises(ValueError, match="scheduling_strategy"):
        sheaf.remote(placement_group=group, scheduling_strategy="SPREAD")(function)


def test_signature_tables():
    from sheaf._signature import MANY, argument_check, is_async, is_generator, parameter_table

    def plain(a, b, c=1, *, d=2):
        pass

    def needs_keyword(a, *, k):
        pass

    def variadic(a, *rest, **more):
        yield a

    async def stream(self):
        yield 1

    least, most, check = argument_check(plain)
    assert (least, most) == (2, 3)
    check((1, 2), {"d": 3})
    with pytest.raises(TypeError, match="missing a required argument: 'b'"):
        check((1,), {})
    with pytest.raises(TypeError, match="too many positional"):
        check((1, 2, 3, 4), {})
    with pytest.raises(TypeError, match="unexpected keyword argument 'x'"):
        check((1, 2), {"x": 1})
    assert argument_check(needs_keyword)[0] > MANY
    assert argument_check(variadic)[:2] == (1, MANY)
    assert (
        is_generator(variadic) and is_generator(stream) and is_async(stream) and not is_async(plain)
    )
    assert parameter_table(plain, skip_first=True)[0][0] == "b"
    for target in (plain, needs_keyword, variadic):
        import inspect

        assert [(n, k, d) for n, k, d in parameter_table(target)] == [
            (p.name, int(p.kind), p.default is not p.empty)
            for p in inspect.signature(target).parameters.values()
        ]
