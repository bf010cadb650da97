"""Rows of the state API: dicts whose keys are attributes too, with the columns that Ray's have."""

from __future__ import annotations

# Columns by kind; what the cluster does not know is None. The first is the identity.
COLUMNS = {
    "actors": (
        "actor_id",
        "class_name",
        "state",
        "job_id",
        "name",
        "node_id",
        "pid",
        "ray_namespace",
        "serialized_runtime_env",
        "required_resources",
        "death_cause",
        "is_detached",
        "placement_group_id",
        "repr_name",
        "num_restarts",
    ),
    "placement_groups": (
        "placement_group_id",
        "name",
        "creator_job_id",
        "state",
        "bundles",
        "is_detached",
        "stats",
    ),
    "nodes": (
        "node_id",
        "node_ip",
        "is_head_node",
        "state",
        "state_message",
        "node_name",
        "resources_total",
        "labels",
        "start_time_ms",
        "end_time_ms",
    ),
    "jobs": (
        "job_id",
        "submission_id",
        "entrypoint",
        "type",
        "status",
        "message",
        "start_time",
        "end_time",
        "metadata",
        "runtime_env",
        "driver_info",
    ),
    "workers": (
        "worker_id",
        "is_alive",
        "worker_type",
        "exit_type",
        "node_id",
        "ip",
        "pid",
        "exit_detail",
        "start_time_ms",
        "end_time_ms",
    ),
    "tasks": (
        "task_id",
        "attempt_number",
        "name",
        "state",
        "job_id",
        "actor_id",
        "type",
        "func_or_class_name",
        "parent_task_id",
        "node_id",
        "worker_id",
        "worker_pid",
        "error_type",
        "language",
        "required_resources",
        "runtime_env_info",
        "placement_group_id",
        "events",
        "creation_time_ms",
        "start_time_ms",
        "end_time_ms",
        "error_message",
    ),
    "objects": (
        "object_id",
        "object_size",
        "task_status",
        "attempt_number",
        "reference_type",
        "call_site",
        "type",
        "pid",
        "ip",
    ),
    "runtime_envs": ("runtime_env", "success", "creation_time_ms", "node_id", "ref_cnt", "error"),
    "cluster_events": ("severity", "time", "source_type", "message", "event_id", "custom_fields"),
}

# Spellings of the engine -> columns
_RENAMED = {
    "namespace": "ray_namespace",
    "attempt": "attempt_number",
    "error": "error_type",
    "size": "object_size",
    "resources": "required_resources",
    "kind": "type",
}


class Row(dict):
    """One row: ``row["state"]`` and ``row.state`` are the same."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"this row has no column {name!r}; it has {sorted(self)}"
            ) from None

    def asdict(self) -> dict:
        """A plain dict."""
        return dict(self)


def make_row(what: str, raw: dict) -> Row:
    """A row with all columns of its kind, from what the engine says."""
    row = Row(raw)
    for name, column in _RENAMED.items():
        if name in raw and column in COLUMNS.get(what, ()) and column not in raw:
            row[column] = raw[name]
    if what == "tasks" and "func_or_class_name" not in row:
        row["func_or_class_name"] = raw.get("name")
    for unit in ("submitted", "start", "end"):
        column = {"submitted": "creation"}.get(unit, unit) + "_time_ms"
        if raw.get(f"{unit}_ns") and not row.get(column):
            row[column] = raw[f"{unit}_ns"] // 1_000_000
    if isinstance(row.get("worker_id"), int):
        row["worker_id"] = _worker_hex(row["worker_id"])
    for column in COLUMNS.get(what, ()):
        row.setdefault(column, None)
    return row


def matches(row: dict, filters) -> bool:
    """Whether a row meets all of ``[(column, "=" or "!=", value), ...]``; names of columns and
    text are compared without case.
    """
    for column, operator, value in filters:
        if column not in row:
            raise ValueError(f"There is no column {column!r} to filter by; there are {sorted(row)}")
        equal = _text(row[column]) == _text(value)
        if equal != (operator == "="):
            return False
    return True


def check_filters(filters) -> list[tuple]:
    """The filters as a list of triples; ValueError for other forms or operators."""
    result = []
    for entry in filters or ():
        if not isinstance(entry, (tuple, list)) or len(entry) != 3:
            raise ValueError(f"A filter is (column, '=' or '!=', value), got {entry!r}")
        column, operator, value = entry
        if operator not in ("=", "!="):
            raise ValueError(
                f"Unsupported filter predicate {operator!r} is given. Available predicates: =, !=."
            )
        result.append((str(column).lower(), operator, value))
    return result


def _text(value) -> str:
    return str(value).lower()


def _worker_hex(process: int) -> str | None:
    """The identity that `RuntimeContext.get_worker_id` gives in that process; None for none."""
    from ...ids import WorkerID

    return WorkerID.from_process(process).hex() if process else None
