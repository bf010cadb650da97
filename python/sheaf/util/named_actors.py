"""The names of living actors."""

from __future__ import annotations

from .. import _core
from .._state import ensure_connected, state


def list_named_actors(all_namespaces: bool = False) -> list:
    """Names of the actors that live.

    Args:
        all_namespaces: False: names of this job's namespace, as str. True: of all, as
            ``{"name": ..., "namespace": ...}``.
    """
    ensure_connected()
    names = _core.actor_names(all_namespaces, state.namespace)
    if all_namespaces:
        return [{"name": name, "namespace": name_space} for name_space, name in names]
    return [name for _, name in names]
