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
    return [event for event in map(_event, rows) if event is not None]


def _event(row: dict) -> dict | None:
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
        "pid": row.get("node_ip") or "node",
        "tid": f"worker:{row.get('worker_pid') or row.get('worker_id') or '?'}",
        "cname": "terrible" if row.get("state") == "FAILED" else "good",
        "args": {"task_id": row.get("task_id", ""), "state": row.get("state", "")},
    }
