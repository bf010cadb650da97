"""Where a task or actor may run: objects for the ``scheduling_strategy`` option, and label
conditions.

The words "DEFAULT" (pack onto busy nodes) and "SPREAD" (prefer idle ones) are strategies too.
"""

from __future__ import annotations

# protocol::StrategyKind
_DEFAULT, _SPREAD, _NODE_AFFINITY, _NODE_LABEL, _PLACEMENT_GROUP = range(5)


class PlacementGroupSchedulingStrategy:
    """Run inside a placement group.

    Args:
        placement_group: the group.
        placement_group_bundle_index: which of its bundles, -1 for any.
        placement_group_capture_child_tasks: whether tasks that the task submits run in the group
            too.

    Example::

        group = sheaf.util.placement_group([{"CPU": 1}])
        f.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group)).remote()
    """

    def __init__(
        self,
        placement_group,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ):
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks

    def __eq__(self, other):
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None


class NodeAffinitySchedulingStrategy:
    """Run on one node. ``node_id``: hexadecimal; ``soft``: elsewhere when that node is gone or too
    small.
    """

    def __init__(
        self,
        node_id: str,
        soft: bool,
        _spill_on_unavailable: bool = False,
        _fail_on_unavailable: bool = False,
    ):
        if not isinstance(node_id, str):
            node_id = node_id.hex()
        self.node_id = node_id
        self.soft = soft
        self._spill_on_unavailable = _spill_on_unavailable
        self._fail_on_unavailable = _fail_on_unavailable

    def __eq__(self, other):
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None


def _check_label_values(values, what):
    if not values:
        raise ValueError(
            f"The variadic parameter of the {what} operator must be a non-empty tuple: it takes at "
            "least one value."
        )
    for place, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(
                f"Type of value in position {place} for the {what} operator must be str, not "
                f"{type(value).__name__}: {value!r}"
            )


class In:
    """The node's label has one of these values."""

    def __init__(self, *values):
        _check_label_values(values, "In")
        self.values = list(values)


class NotIn:
    """The node's label has none of these values, or the node lacks the label."""

    def __init__(self, *values):
        _check_label_values(values, "NotIn")
        self.values = list(values)


class Exists:
    """The node has the label."""


class DoesNotExist:
    """The node lacks the label."""


class NodeLabelSchedulingStrategy:
    """Run on a node whose labels match.

    Args:
        hard: ``{label: In(...) | NotIn(...) | Exists() | DoesNotExist()}`` that must hold.
        soft: the same, preferred but not needed.
    """

    def __init__(self, hard: dict, *, soft: dict | None = None):
        self.hard = _conditions(hard, "hard")
        self.soft = _conditions(soft, "soft")
        if not self.hard and not self.soft:
            raise ValueError(
                "The `hard` and `soft` parameter of NodeLabelSchedulingStrategy cannot both be "
                "empty."
            )


def _conditions(labels, what) -> dict[str, str]:
    if labels is None:
        return {}
    if not isinstance(labels, dict):
        raise ValueError(
            f"The {what} parameter must be a map (a dict), but is a {type(labels).__name__}."
        )
    result = {}
    for key, condition in labels.items():
        if not isinstance(key, str):
            raise ValueError(
                f"The map key of the {what} parameter must be of type str, but got {key!r}"
            )
        if isinstance(condition, In):
            result[key] = f"in({','.join(condition.values)})"
        elif isinstance(condition, NotIn):
            result[key] = f"!in({','.join(condition.values)})"
        elif isinstance(condition, Exists):
            result[key] = "exists()"
        elif isinstance(condition, DoesNotExist):
            result[key] = "!exists()"
        else:
            raise ValueError(
                f"The condition on label {key!r} in `{what}` must be one of the `In`, `NotIn`, "
                f"`Exists` or `DoesNotExist` operators, but is a {type(condition).__name__}."
            )
    return result


STRATEGY_TYPES = (
    PlacementGroupSchedulingStrategy,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
)


def strategy_dict(options: dict, resources: dict | None = None, what: str = "this") -> dict:
    """The engine's form of the placement that ``options`` ask for.

    ``resources``: what the task or actor ``what`` needs; ValueError when no bundle of its placement
    group could ever hold that.
    """
    strategy = options.get("scheduling_strategy")
    group = options.get("placement_group", "default")
    if strategy is None and group not in (None, "default"):
        strategy = PlacementGroupSchedulingStrategy(
            group,
            options.get("placement_group_bundle_index", -1),
            options.get("placement_group_capture_child_tasks"),
        )
    result: dict = {"kind": _DEFAULT}
    if strategy == "SPREAD":
        result["kind"] = _SPREAD
    elif isinstance(strategy, NodeAffinitySchedulingStrategy):
        result.update(kind=_NODE_AFFINITY, node=strategy.node_id, soft=bool(strategy.soft))
    elif isinstance(strategy, NodeLabelSchedulingStrategy):
        result.update(kind=_NODE_LABEL, hard_labels=strategy.hard, soft_labels=strategy.soft)
    elif isinstance(strategy, PlacementGroupSchedulingStrategy):
        result.update(_group_strategy(strategy, resources or {}, what))
    elif options.get("placement_group_bundle_index", -1) != -1:
        raise ValueError("The bundle index must be -1 where no placement group is given.")
    selector = _chosen_selector(options)
    if selector:
        result["hard_labels"] = {**result.get("hard_labels", {}), **selector}
        if result["kind"] == _DEFAULT:
            result["kind"] = _NODE_LABEL
    return result


def _chosen_selector(options: dict) -> dict | None:
    """The label selector, or the first of ``fallback_strategy`` that a live node meets when none
    meets the selector.
    """
    selector = options.get("label_selector")
    fallbacks = [item["label_selector"] for item in options.get("fallback_strategy") or []]
    if not fallbacks:
        return selector
    from .._api import nodes
    from .._labels import matches

    labels = [node["Labels"] for node in nodes() if node["Alive"]]
    wanted = [selector or {}, *fallbacks]
    return next((each for each in wanted if any(matches(each, have) for have in labels)), selector)


def _group_strategy(
    strategy: PlacementGroupSchedulingStrategy, resources: dict, what: str
) -> dict:
    group = strategy.placement_group
    if group is None:
        return {"kind": _DEFAULT}
    index = strategy.placement_group_bundle_index
    if group.is_empty:
        if index != -1:
            raise ValueError(
                "A placement group is needed when placement_group_bundle_index is given."
            )
        return {"kind": _DEFAULT}
    if not isinstance(index, int) or index < -1 or index >= group.bundle_count:
        raise ValueError(
            f"placement group bundle index {index} is invalid: the group has {group.bundle_count} "
            "bundles; -1 means any."
        )
    bundles = group.bundle_specs if index == -1 else [group.bundle_specs[index]]
    _check_fits(bundles, resources, what)
    return {
        "kind": _PLACEMENT_GROUP,
        "group": group.id.binary(),
        "bundle": index,
        "capture_child_tasks": bool(strategy.placement_group_capture_child_tasks),
    }


def _check_fits(bundles: list[dict], resources: dict, what: str) -> None:
    # What a node adds by itself (accelerator types) is in no bundle.
    needed = {name: amount for name, amount in resources.items() if ":" not in name}
    for bundle in bundles:
        if all(bundle.get(name, 0) >= amount for name, amount in needed.items()):
            return
    needed = {key: int(value) if value == int(value) else value for key, value in needed.items()}
    raise ValueError(
        f"Cannot schedule {what} with the placement group because the resource request {needed} "
        f"cannot fit into any bundles for the placement group, {bundles}."
    )
