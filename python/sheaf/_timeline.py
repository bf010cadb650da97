"""Task events as a trace that browsers can show."""

from __future__ import annotations

_KINDS = {
    "NORMAL_TASK": "task",
    "ACTOR_CREATION_TASK": "actor_creation",
    "ACTOR_TASK": "actor_task",
}


def events(limit: int = 100_000) -> list[dict]:
    """Complete events ("ph": "X"), one for each task that has run; times in microseconds since
    1970.
    """
    from ._api import query

    rows, _ = query("tasks", limit=limit)
    tracks = _tracks()
    return [event for event in (_event(row, tracks) for row in rows) if event is not None]


def daemon_events() -> list[dict]:
    """What the daemons of all nodes did lately, each as a track of its own; times as above."""
    from ._api import query

    return query("trace")[0]["traceEvents"]


def _tracks() -> dict[str, str]:
    """A name for each node by its id: its address, with a piece of the id where two have one."""
    from ._api import query
    from .exceptions import GetTimeoutError, LocalRayletDiedError

    try:
        nodes = query("nodes")[0]
    except (GetTimeoutError, LocalRayletDiedError):  # only the head knows them, and it is away
        nodes = []
    addresses = [node["node_ip"] for node in nodes]
    return {
        node["node_id"]: node["node_ip"]
        if addresses.count(node["node_ip"]) == 1
        else f"{node['node_ip']} {node['node_id'][:8]}"
        for node in nodes
    }


def _event(row: dict, tracks: dict[str, str]) -> dict | None:
    start, end = row.get("start_time_ms"), row.get("end_time_ms")
    start_ns, end_ns = row.get("start_ns"), row.get("end_ns")
    if start_ns:
        begin, duration = start_ns / 1e3, max((end_ns or start_ns) - start_ns, 0) / 1e3
    elif start:
        begin, duration = start * 1e3, max((end or start) - start, 0) * 1e3
    else:
        return None
    kind = _KINDS.get(row.get("type", ""), "task")
    return {
        "cat": kind,
        "name": row.get("name", ""),
        "ph": "X",
        "ts": begin,
        "dur": duration,
        "pid": tracks.get(row.get("node_id", ""), f"node {row.get('node_id', '')[:8]}"),
        "tid": f"worker:{row.get('worker_pid') or row.get('worker_id') or '?'}",
        "cname": "terrible" if row.get("state") == "FAILED" else "good",
        "args": {"task_id": row.get("task_id", ""), "state": row.get("state", "")},
    }
