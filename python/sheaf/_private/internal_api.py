"""``ray._private.internal_api``, as far as programs outside of Ray use it."""

from __future__ import annotations

from .. import _core
from .._state import ensure_connected

__all__ = ["free", "memory_summary"]


def free(object_refs, local_only: bool = False) -> None:
    """Deletes values although references to them are alive: reading those raises ObjectFreedError.

    Args:
        object_refs: a reference, or a list of them.
        local_only: accepted; a value is deleted everywhere.
    """
    ensure_connected()
    if isinstance(object_refs, _core.ObjectRef):
        object_refs = [object_refs]
    if not isinstance(object_refs, list):
        raise TypeError(f"free() expects a list of ObjectRef, got {type(object_refs)}")
    if not all(isinstance(ref, _core.ObjectRef) for ref in object_refs):
        raise TypeError("Attempting to call free() on something that is not an ObjectRef.")
    if object_refs:
        _core.free(object_refs)


def memory_summary(*_, **__) -> str:
    """The objects of the cluster as a text, one line each, the largest first."""
    from .._api import query

    rows, _ = query("objects")
    rows.sort(key=lambda row: -int(row.get("size") or 0))
    lines = [f"{row.get('object_id', ''):34} {int(row.get('size') or 0):>14}" for row in rows]
    return "\n".join([f"{'object':34} {'bytes':>14}", *lines])
