"""Tools on top of tasks and actors. Names are found when they are first asked for."""

from __future__ import annotations

# Functions that are called like the module they stand in: the function wins, the module is in
# sys.modules.
from .placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

_HOMES = {
    "ActorPool": ".actor_pool",
    "as_completed": ".helpers",
    "map_unordered": ".helpers",
    "deregister_serializer": ".serialization",
    "register_serializer": ".serialization",
    "disable_log_once_globally": ".debug",
    "enable_periodic_logging": ".debug",
    "log_once": ".debug",
    "get_node_instance_id": ".node",
    "get_node_ip_address": ".node",
    "inspect_serializability": ".check_serialize",
    "list_named_actors": ".named_actors",
    "SheafExecutor": ".concurrent",
}
_MODULES = {
    "accelerators",
    "actor_group",
    "actor_pool",
    "annotations",
    "check_serialize",
    "collective",
    "concurrent",
    "debug",
    "helpers",
    "joblib",
    "metrics",
    "multiprocessing",
    "queue",
    "scheduling_strategies",
    "serialization",
    "state",
    "iter",
}

__all__ = [
    *_HOMES,
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]


def __getattr__(name: str):
    import importlib

    home = _HOMES.get(name)
    if home is not None:
        value = getattr(importlib.import_module(home, __name__), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        try:
            return importlib.import_module(f".{name}", __name__)
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
