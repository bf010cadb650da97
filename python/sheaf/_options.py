"""What may stand in ``@remote(...)`` and ``.options(...)``: checks, defaults, and the form that the
engine takes.

A wrong name or value raises ValueError, a wrong type TypeError; both name the option.
"""

from __future__ import annotations

NONE = type(None)
NUMBER = (int, float, NONE)
COUNT = (int, NONE)
TEXT = (str, NONE)
_LEAST_AMOUNT = 0.0001  # what the engine counts resources in

_NUM_RETURNS_TEXT = (
    "The keyword 'num_returns' only accepts None, a non-negative integer, 'streaming' (for "
    "generators), or 'dynamic'; None means 1, and 'streaming' for generator functions."
)


def _non_negative(name, value):
    if value is not None and value < 0:
        raise ValueError(f"The quantity of resource {name} cannot be negative")
    if value and value < _LEAST_AMOUNT:
        raise ValueError(
            f"The precision of the fractional quantity of resource {name} cannot go beyond "
            f"{_LEAST_AMOUNT}"
        )


def _count_or_forever(name, value):
    if value is not None and value < -1:
        raise ValueError(
            f"The keyword '{name}' only accepts None, 0, -1 or a positive integer, where -1 "
            "represents infinity."
        )


def _at_least_zero(name, value):
    if value is not None and value < 0:
        raise ValueError(f"The keyword '{name}' only accepts None, 0 or a positive integer.")


def _num_returns(name, value):
    if value is None or value in ("streaming", "dynamic"):
        return
    if not isinstance(value, str) and not hasattr(value, "__index__"):
        raise TypeError(
            f"The type of keyword 'num_returns' must be {(int, str, NONE)}, but received type "
            f"{type(value)}. {_NUM_RETURNS_TEXT}"
        )
    if isinstance(value, str):
        raise ValueError(f"{_NUM_RETURNS_TEXT} Got {value!r}.")
    if value < 0:
        raise ValueError(f"{_NUM_RETURNS_TEXT} Got {value!r}.")


def _resources(name, value):
    if not value:
        return
    for key, amount in value.items():
        if not isinstance(key, str):
            raise TypeError(f"The keys of 'resources' must be str, but got {type(key)}")
        if key in ("CPU", "GPU"):
            raise ValueError(
                "Use the 'num_cpus' and 'num_gpus' keywords instead of 'CPU' and 'GPU' in "
                "'resources'"
            )
        if key in ("memory", "object_store_memory"):
            raise ValueError(f"Use the '{key}' keyword instead of '{key}' in 'resources'")
        if isinstance(amount, bool) or not isinstance(amount, (int, float)):
            raise TypeError(
                f"The quantity of resource {key} must be a number, but got {type(amount)}"
            )
        _non_negative(key, amount)


def _retry_exceptions(name, value):
    if isinstance(value, bool):
        return
    if not all(isinstance(item, type) and issubclass(item, BaseException) for item in value):
        raise ValueError("retry_exceptions must be either a boolean or a list of exceptions")


def _backpressure(name, value):
    if value is not None and (value == 0 or value < -1):
        raise ValueError(
            f"{name}={value} is not allowed: give a number of items above 0 that may wait "
            "unconsumed, "
            "or -1 for no limit."
        )


def _lifetime(name, value):
    if value not in (None, "detached", "non_detached"):
        raise ValueError(
            "actor `lifetime` argument must be one of 'detached', 'non_detached' and 'None', "
            f"but got {value!r}."
        )


def _strategy_text(name, value):
    if isinstance(value, str) and value not in ("DEFAULT", "SPREAD"):
        raise ValueError(
            f"The keyword 'scheduling_strategy' accepts 'DEFAULT', 'SPREAD' or a strategy object, "
            f"but got {value!r}."
        )


def _label_selector(name, value):
    if value:
        from ._labels import check_label_selector

        check_label_selector(value, name)


def _fallback_strategy(name, value):
    for item in value or ():
        if not isinstance(item, dict) or set(item) != {"label_selector"}:
            raise ValueError(
                f"The items of '{name}' are dicts with the key 'label_selector', not {item!r}."
            )
        if not isinstance(item["label_selector"], dict):
            raise ValueError(f"The label_selector in '{name}' must be a dict, but is {item!r}.")
        _label_selector(name, item["label_selector"])


def _concurrency_groups(name, value):
    for group, limit in concurrency_groups(value).items():
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(
                f"The size of concurrency group {group!r} must be an int, got {type(limit)}"
            )
        if limit < 1:
            raise ValueError(
                f"The size of concurrency group {group!r} must be positive, got {limit}"
            )


def concurrency_groups(value) -> dict[str, int]:
    """``{name: size}`` from either of the accepted forms (a dict, or a list of one-entry
    descriptions).
    """
    if not value:
        return {}
    if isinstance(value, dict):
        return dict(value)
    return {item["name"]: item["max_concurrency"] for item in value}


def _one_type(accepted, value) -> bool:
    return isinstance(value, accepted)


_COMMON = {
    "accelerator_type": (TEXT, None),
    "label_selector": ((dict, NONE), _label_selector),
    "fallback_strategy": ((list, NONE), _fallback_strategy),
    "memory": (NUMBER, _non_negative),
    "name": (TEXT, None),
    "num_cpus": (NUMBER, _non_negative),
    "num_gpus": (NUMBER, _non_negative),
    "object_store_memory": (NUMBER, _non_negative),
    "placement_group": ("placement_group", None),
    "placement_group_bundle_index": ((int,), None),
    "placement_group_capture_child_tasks": ((bool, NONE), None),
    "resources": ((dict, NONE), _resources),
    "runtime_env": ((dict, NONE), None),
    "scheduling_strategy": ("strategy", _strategy_text),
    "enable_task_events": ((bool,), None),
    "_labels": ((dict, NONE), None),
    "_metadata": ((dict, NONE), None),
}

_TASK = {
    **_COMMON,
    "max_calls": (COUNT, _at_least_zero),
    "max_retries": (COUNT, _count_or_forever),
    "num_returns": (None, _num_returns),
    "retry_exceptions": ((bool, list, tuple), _retry_exceptions),
    "_generator_backpressure_num_objects": (COUNT, _backpressure),
    "_num_objects_per_yield": (COUNT, None),
}

_ACTOR = {
    **_COMMON,
    "allow_out_of_order_execution": ((bool, NONE), None),
    "concurrency_groups": ((list, dict, NONE), _concurrency_groups),
    "enable_tensor_transport": ((bool, NONE), None),
    "get_if_exists": ((bool,), None),
    "lifetime": (TEXT, _lifetime),
    "max_concurrency": (COUNT, _at_least_zero),
    "max_pending_calls": (COUNT, _count_or_forever),
    "max_restarts": (COUNT, _count_or_forever),
    "max_task_retries": (COUNT, _count_or_forever),
    "namespace": (TEXT, None),
    "_actor_generator_backpressure_num_objects": (COUNT, _backpressure),
}

_METHOD = {
    "num_returns": (None, _num_returns),
    "concurrency_group": (TEXT, None),
    "max_task_retries": (COUNT, _count_or_forever),
    "retry_exceptions": ((bool, list, tuple), _retry_exceptions),
    "enable_task_events": ((bool,), None),
    "name": (TEXT, None),
    "tensor_transport": (TEXT, None),
    "_generator_backpressure_num_objects": (COUNT, _backpressure),
    "_num_objects_per_yield": (COUNT, None),
}

TASK_KEYWORDS = tuple(_TASK)
ACTOR_KEYWORDS = tuple(_ACTOR)
METHOD_KEYWORDS = tuple(_METHOD)

# `method()` knows these; what an actor call's .options() knows more is its name.
METHOD_DECORATOR_KEYWORDS = tuple(key for key in _METHOD if key != "name")


def _check_type(name: str, accepted, value) -> None:
    if accepted is None:
        return
    if accepted == "strategy":
        from .util.scheduling_strategies import STRATEGY_TYPES

        accepted = (NONE, str, *STRATEGY_TYPES)
    elif accepted == "placement_group":
        if value is None or value == "default":
            return
        from .util.placement_group import PlacementGroup

        accepted = (NONE, str, PlacementGroup)
    if isinstance(value, accepted) and not (
        isinstance(value, bool) and bool not in accepted and int in accepted
    ):
        return
    shown = accepted[0] if len(accepted) == 1 else tuple(accepted)
    raise TypeError(
        f"The type of keyword '{name}' must be {shown}, but received type {type(value)}"
    )


def _check(table: dict, options: dict, what: str) -> None:
    for name, value in options.items():
        try:
            accepted, rule = table[name]
        except KeyError:
            raise ValueError(
                f"Invalid option keyword {name} for {what}. Valid ones are {sorted(table)}."
            ) from None
        _check_type(name, accepted, value)
        if rule is not None:
            rule(name, value)


def check_task(options: dict, in_options: bool = False) -> None:
    """Checks the options of a remote function; ``in_options``: they come from ``.options()``."""
    _check(_TASK, options, "remote functions")
    if in_options and "max_calls" in options:
        raise ValueError("Setting 'max_calls' is not supported in '.options()'.")
    _check_placement(options)


def check_actor(options: dict, in_options: bool = False) -> None:
    """Checks the options of an actor class; ``in_options``: they come from ``.options()``."""
    _check(_ACTOR, options, "actors")
    if in_options and "concurrency_groups" in options:
        raise ValueError("Setting 'concurrency_groups' is not supported in '.options()'.")
    if options.get("get_if_exists") and not options.get("name"):
        raise ValueError("The actor name must be specified to use `get_if_exists`.")
    _check_placement(options)


def check_generator(options: dict, function) -> None:
    """ValueError when ``options`` ask for a generator of references and ``function`` never yields."""
    if options.get("num_returns") in ("streaming", "dynamic"):
        from ._signature import is_generator

        if not is_generator(function):
            raise ValueError(
                f"num_returns={options['num_returns']!r} can only be used with generator functions, "
                f"and {getattr(function, '__qualname__', function)} has no 'yield'."
            )


def check_method(options: dict) -> None:
    """Checks the options of one actor method."""
    _check(_METHOD, options, "actor methods")


def _check_placement(options: dict) -> None:
    group = options.get("placement_group", "default")
    if group not in (None, "default") and options.get("scheduling_strategy") is not None:
        raise ValueError(
            "Placement groups should be specified via the scheduling_strategy option; "
            "the placement_group option cannot be combined with it."
        )


def merge(defaults: dict, changes: dict) -> dict:
    """``defaults`` overridden by ``changes``; a new placement replaces the old one in either
    spelling.
    """
    merged = dict(defaults)
    if "scheduling_strategy" in changes:
        for name in (
            "placement_group",
            "placement_group_bundle_index",
            "placement_group_capture_child_tasks",
        ):
            merged.pop(name, None)
    if "placement_group" in changes:
        merged.pop("scheduling_strategy", None)
    merged.update(changes)
    return merged


def resource_map(options: dict, default_cpus: float) -> dict[str, float]:
    """``{"CPU": 1.0, ...}`` in units (memory in bytes); zero amounts are left out.

    ValueError for a fractional number of GPUs above one, which no device can give.
    """
    cpus = options.get("num_cpus")
    amounts = {"CPU": default_cpus if cpus is None else cpus}
    if options.get("num_gpus"):
        gpus = options["num_gpus"]
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"num_gpus={gpus}: quantities above 1 must be whole numbers.")
        amounts["GPU"] = gpus
    if options.get("memory"):
        amounts["memory"] = options["memory"]
    amounts.update(options.get("resources") or {})
    if options.get("accelerator_type"):
        amounts[f"accelerator_type:{options['accelerator_type']}"] = 0.001
    return {name: float(amount) for name, amount in amounts.items() if amount}
