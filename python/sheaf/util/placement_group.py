"""Placement groups: bundles of resources reserved together, for tasks and actors that belong
together.
"""

from __future__ import annotations

from .. import _core
from .._state import ensure_connected, state
from ..ids import PlacementGroupID, binary_of, hex_of

__all__ = [
    "PlacementGroup",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]

STRATEGIES = {"PACK": 0, "SPREAD": 1, "STRICT_PACK": 2, "STRICT_SPREAD": 3}
VALID_PLACEMENT_GROUP_STRATEGIES = set(STRATEGIES)
_WAIT_SLICE_S = 3600.0


class PlacementGroup:
    """A handle to a placement group; made by `placement_group`. Can be passed to tasks."""

    # Groups without a name that do not outlive their job are created and removed without waiting
    # for an answer. What this process sends stays in order; before anybody else can learn of the
    # group, which is by its identity, the cluster knows it.
    _light = False
    _settled = True

    def __init__(self, id: PlacementGroupID, bundle_cache: list[dict] | None = None):
        self._id = id
        self.bundle_cache = bundle_cache

    @property
    def id(self) -> PlacementGroupID:
        """The group's identity."""
        if not self._settled:
            _core.group_settle()
            self._settled = True
        return self._id

    @staticmethod
    def empty() -> "PlacementGroup":
        """The group of no bundles: placing something in it places it anywhere."""
        return PlacementGroup(PlacementGroupID.nil(), [])

    @staticmethod
    def from_binary(binary: bytes) -> "PlacementGroup":
        """A handle to the group with this identity."""
        return PlacementGroup(PlacementGroupID(binary))

    @property
    def is_empty(self) -> bool:
        """Whether this is the empty group."""
        return self._id.is_nil()

    @property
    def bundle_specs(self) -> list[dict]:
        """The resources of each bundle."""
        if self.bundle_cache is None:
            self.bundle_cache = _row_of(self.id)["bundle_specs"]
        return [{name: float(amount) for name, amount in b.items()} for b in self.bundle_cache]

    @property
    def bundle_count(self) -> int:
        """Number of bundles."""
        return len(self.bundle_specs)

    def ready(self):
        """A reference that becomes ready when all bundles are reserved; its value is this
        handle.
        """
        from .._api import remote
        from .scheduling_strategies import PlacementGroupSchedulingStrategy

        strategy = PlacementGroupSchedulingStrategy(self)
        return remote(_itself).options(num_cpus=0, scheduling_strategy=strategy).remote(self)

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Waits until all bundles are reserved; False when they are not after so many seconds."""
        ensure_connected()
        return (
            _core.group_wait(
                self._id.binary(), None if timeout_seconds is None else float(timeout_seconds)
            )
            == "created"
        )

    def __eq__(self, other):
        return isinstance(other, PlacementGroup) and other._id == self._id

    def __hash__(self):
        return hash(self._id)

    def __repr__(self):
        return f"PlacementGroup({self.id.hex()})"

    def __reduce__(self):
        return PlacementGroup, (self.id, self.bundle_cache)


def _itself(group):
    return group


def placement_group(
    bundles: list[dict],
    strategy: str | None = None,
    name: str = "",
    lifetime: str | None = None,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: list[dict] | None = None,
    topology_strategy: dict | None = None,
) -> PlacementGroup:
    """Reserves bundles of resources; does not wait for them.

    Args:
        bundles: resources of each bundle, e.g. ``[{"CPU": 2}, {"GPU": 1}]``.
        strategy: "PACK" (default: few nodes), "SPREAD" (many nodes), "STRICT_PACK" (one node),
            "STRICT_SPREAD" (each bundle its own node).
        name: by which `get_placement_group` finds it.
        lifetime: "detached" for a group that outlives its job.
        bundle_label_selector: for each bundle, conditions on its node's labels.

    Raises: ValueError or TypeError for malformed arguments.

    Example::

        group = placement_group([{"CPU": 1}] * 2)
        assert group.wait(10)
    """
    amounts = check_bundles(bundles)
    strategy = "PACK" if strategy is None else strategy
    if strategy not in STRATEGIES:
        raise ValueError(
            f"Invalid placement group strategy {strategy!r}. Supported strategies are "
            f"{list(STRATEGIES)}."
        )
    if lifetime not in (None, "detached"):
        raise ValueError(
            "placement group `lifetime` argument must be either None or 'detached', but got "
            f"{lifetime!r}"
        )
    if not isinstance(name, str):
        raise TypeError(f"The name of a placement group is a str, not {type(name)}")
    labels = _check_bundle_labels(bundle_label_selector, len(bundles))
    ensure_connected()
    group_id = _core.group_create(
        {
            "bundles": amounts,
            "bundle_labels": labels,
            "strategy": STRATEGIES[strategy],
            "name": name,
            "name_space": state.namespace,
            "detached": lifetime == "detached",
        }
    )
    group = PlacementGroup(PlacementGroupID(bytes(group_id)), [dict(bundle) for bundle in bundles])
    if lifetime is None and not name:
        group._light, group._settled = True, False
    return group


def check_bundles(bundles) -> list[dict[str, float]]:
    """The bundles as amounts; ValueError or TypeError when they are malformed."""
    if not isinstance(bundles, list):
        raise ValueError(f"Placement group bundles must be a list, got {type(bundles)}.")
    if not bundles:
        raise ValueError("Placement group bundles must be a non-empty list.")
    for bundle in bundles:
        if not isinstance(bundle, dict):
            raise ValueError(
                f"Bundles must be a list of resource dictionaries, e.g. [{{'CPU': 1.0}}]. Got "
                f"{bundle!r}."
            )
        if not all(_is_amount(*item) for item in bundle.items()):
            raise ValueError(
                "Bundles must be a list of resource dictionaries that map a resource's name to a "
                f"number. Got {bundle!r}."
            )
        if not bundle or all(amount == 0 for amount in bundle.values()):
            raise ValueError(
                "Bundles cannot be an empty dictionary or resources with only 0 values. Bundles: "
                f"{bundles}"
            )
        for key, amount in bundle.items():
            if amount < 0:
                raise ValueError(
                    f"The quantity of resource {key} in a bundle cannot be negative: {amount}"
                )
            if key == "bundle":
                raise ValueError("No resource of a bundle can be called 'bundle'.")
    return [{key: float(amount) for key, amount in bundle.items() if amount} for bundle in bundles]


def _is_amount(name, amount) -> bool:
    is_number = isinstance(amount, (int, float)) and not isinstance(amount, bool)
    return isinstance(name, str) and is_number


def _check_bundle_labels(selectors, count: int) -> list[dict]:
    if not selectors:
        return []
    from .._labels import check_label_selector

    if not isinstance(selectors, list):
        raise ValueError(f"bundle_label_selector must be a list, got {type(selectors)}.")
    for item in selectors:
        if not isinstance(item, dict) or not all(
            isinstance(text, str) for pair in item.items() for text in pair
        ):
            raise ValueError(
                f"bundle_label_selector must be a list of string dictionary, got {item!r}."
            )
    if len(selectors) != count:
        raise ValueError(f"bundle_label_selector has {len(selectors)} entries for {count} bundles")
    for selector in selectors:
        try:
            check_label_selector(selector, "bundle_label_selector")
        except ValueError as error:
            raise ValueError(f"Invalid label selector provided in {error}") from None
    return selectors


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Gives the bundles back; what runs in them is killed. Waiting tasks fail with
    TaskPlacementGroupRemoved.
    """
    if placement_group is None:
        raise ValueError("A placement group is needed, got None")
    ensure_connected()
    if not placement_group.is_empty:
        _core.group_remove(placement_group._id.binary(), not placement_group._light)


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """The group of this name in this job's namespace; ValueError when there is none."""
    if not placement_group_name:
        raise ValueError("Please supply a non-empty value to get_placement_group")
    ensure_connected()
    for row in _rows({"name": placement_group_name}):
        if (
            row["name"] == placement_group_name
            and row["state"] != "REMOVED"
            and row.get("namespace", state.namespace) == state.namespace
        ):
            return PlacementGroup(
                PlacementGroupID.from_hex(row["placement_group_id"]), row["bundle_specs"]
            )
    raise ValueError(f"Failed to look up placement group with name: {placement_group_name}")


def get_current_placement_group() -> PlacementGroup | None:
    """The group in which the calling task or actor runs, None outside of groups."""
    ensure_connected()
    task = _core.current_task() if state.mode == "worker" else None
    group = ((task or {}).get("strategy") or {}).get("group")
    if not group or not hex_of(group).strip("0"):
        return None
    return PlacementGroup.from_binary(binary_of(group))


def capturing_group() -> bytes | None:
    """Identity of the group that takes in tasks submitted by the running task, None for none."""
    task = _core.current_task() if state.mode == "worker" else None
    strategy = (task or {}).get("strategy") or {}
    if not strategy.get("capture_child_tasks"):
        return None
    return binary_of(strategy["group"])


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict:
    """What is known of one group, or ``{id: ...}`` of all: name, strategy, state, bundles."""
    ensure_connected()
    if placement_group is not None:
        return _table_entry(_row_of(placement_group.id))
    return {row["placement_group_id"]: _table_entry(row) for row in _rows()}


def _table_entry(row: dict) -> dict:
    return {
        "placement_group_id": row["placement_group_id"],
        "name": row["name"],
        "strategy": row.get("strategy", "PACK"),
        "state": row["state"],
        "bundles": dict(enumerate(row["bundle_specs"])),
        "bundles_to_node_id": {
            i: bundle.get("node_id") or "" for i, bundle in enumerate(row.get("bundles") or [])
        },
        "stats": row.get("stats") or {},
    }


def _rows(filters: dict | None = None) -> list[dict]:
    from .._api import query

    rows, _ = query("placement_groups", filters)
    for row in rows:
        row["bundle_specs"] = [_spec_of(bundle) for bundle in row.get("bundles") or []]
    return rows


def _spec_of(bundle: dict) -> dict:
    for key in ("unit_resources", "resources"):
        if key in bundle:
            return bundle[key]
    return bundle


def _row_of(group_id: PlacementGroupID) -> dict:
    ensure_connected()
    for row in _rows({"placement_group_id": group_id.hex()}):
        if row["placement_group_id"] == group_id.hex():
            return row
    raise ValueError(f"No placement group {group_id.hex()} is known to this cluster.")
