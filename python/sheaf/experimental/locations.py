"""Where objects are."""

from __future__ import annotations

from .._state import connected

_ALL = 10**6


def get_object_locations(obj_refs: list, timeout_ms: int = -1) -> dict:
    """Where the values of references are, as far as the nodes know now.

    Args:
        obj_refs: the references.
        timeout_ms: accepted for programs that pass it; nothing is waited for.

    Returns: for each reference ``node_ids`` (hexadecimal, of the nodes that have a copy),
    ``object_size`` in bytes and ``did_spill``. Small values are in no store: without nodes, and of
    unknown size, like those that are not made yet.
    Raises: RuntimeError when not connected.
    """
    if not connected():
        raise RuntimeError("sheaf is not initialised in this process; call sheaf.init() first.")
    if not obj_refs:
        return {}
    from .._api import query

    filters = {"object_id": obj_refs[0].hex()} if len(obj_refs) == 1 else {}
    rows: dict = {}
    for row in query("objects", filters, _ALL)[0]:
        rows.setdefault(row["object_id"], []).append(row)
    return {ref: _summary(rows.get(ref.hex(), [])) for ref in obj_refs}


def get_local_object_locations(obj_refs: list) -> dict:
    """The same: there is no cheaper answer."""
    return get_object_locations(obj_refs)


def _summary(rows: list) -> dict:
    stored = [row for row in rows if row["state"] in ("IN_STORE", "SPILLED")]
    return {
        "node_ids": sorted({row["node_id"] for row in stored}),
        "object_size": max((row["object_size"] for row in stored), default=None),
        "did_spill": any(row["on_disk"] for row in stored),
    }
