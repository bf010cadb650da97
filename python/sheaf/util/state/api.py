"""Lists, single rows and summaries of the cluster's state.

Common parameters: ``filters`` is a list of ``(column, "=" or "!=", value)``; ``limit`` the number
of rows at most; ``timeout`` seconds; ``detail`` is accepted, rows always have all columns.
``address`` is needed only in a process that is not connected.
"""

from __future__ import annotations

import os

from .rows import COLUMNS, Row, check_filters, make_row, matches

DEFAULT_LIMIT = 100
DEFAULT_TIMEOUT_S = 30
MAX_LIMIT = 10_000
_IDENTITIES = ("actor_id", "task_id", "object_id", "node_id", "placement_group_id", "job_id")


class StateApiClient:
    """The state API as an object; its methods are the functions of this module under other names.

    Args:
        address: a cluster's address for a process that is not connected (see `sheaf.init`); else
            ignored.
        cookies, headers: accepted for compatibility; ignored.
    """

    def __init__(self, address: str | None = None, cookies=None, headers=None):
        self._address = address

    def list(
        self,
        resource,
        options=None,
        raise_on_missing_output: bool = True,
        filters=None,
        limit: int = DEFAULT_LIMIT,
    ) -> list[Row]:
        """Rows of a kind: "actors", "tasks", "nodes", ..."""
        what = getattr(resource, "value", resource)
        if options is not None:
            filters, limit = getattr(options, "filters", filters), getattr(options, "limit", limit)
        return _list(what, self._address, filters, limit)

    def get(self, resource, id: str, options=None):
        """One row by its identity, None when there is none."""
        return _get(getattr(resource, "value", resource), id, self._address)

    def summary(self, resource, options=None, raise_on_missing_output: bool = True) -> dict:
        """The summary of "tasks", "actors" or "objects"."""
        what = getattr(resource, "value", resource)
        return {"tasks": summarize_tasks, "actors": summarize_actors, "objects": summarize_objects}[
            what
        ](self._address)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def _connect(address: str | None) -> None:
    from ..._state import state

    if state.mode is None:
        if address:
            from ..._cluster import connect_tool

            connect_tool(address)
        else:
            from ..._state import ensure_connected

            ensure_connected()


def _list(what: str, address, filters, limit) -> list[Row]:
    from ..._api import query

    if isinstance(limit, bool) or not isinstance(limit, int) or limit <= 0:
        raise ValueError(f"limit must be a positive number, got {limit!r}")
    if limit > MAX_LIMIT:
        raise ValueError(
            f"Given limit {limit} exceeds the supported limit {MAX_LIMIT}. Use a lower limit."
        )
    checked = check_filters(filters)
    _connect(address)
    rows, _ = query(what, _for_daemon(checked), MAX_LIMIT)
    found = []
    for raw in rows:
        row = make_row(what, raw)
        if matches(row, checked):
            found.append(row)
            if len(found) == limit:
                break
    return found


def _for_daemon(filters) -> dict:
    # The daemon compares text exactly; only identities are known to be written one way: in lower case.
    return {
        column: value.lower()
        for column, operator, value in filters
        if operator == "=" and isinstance(value, str) and column in _IDENTITIES
    }


def _get(what: str, identity: str, address) -> Row | None:
    column = COLUMNS[what][0]
    rows = _list(what, address, [(column, "=", identity)], MAX_LIMIT)
    return rows[0] if rows else None


def list_actors(
    address=None,
    filters=None,
    limit=DEFAULT_LIMIT,
    timeout=DEFAULT_TIMEOUT_S,
    detail=False,
    raise_on_missing_output=True,
    _explain=False,
) -> list[Row]:
    """Actors: state is PENDING_CREATION, ALIVE, RESTARTING or DEAD.

    Example::

        alive = list_actors(filters=[("state", "=", "ALIVE")])
    """
    return _list("actors", address, filters, limit)


def list_placement_groups(
    address=None,
    filters=None,
    limit=DEFAULT_LIMIT,
    timeout=DEFAULT_TIMEOUT_S,
    detail=False,
    raise_on_missing_output=True,
    _explain=False,
) -> list[Row]:
    """Placement groups."""
    return _list("placement_groups", address, filters, limit)


def list_nodes(
    address=None,
    filters=None,
    limit=DEFAULT_LIMIT,
    timeout=DEFAULT_TIMEOUT_S,
    detail=False,
    raise_on_missing_output=True,
    _explain=False,
) -> list[Row]:
    """Nodes."""
    return _list("nodes", address, filters, limit)


def list_jobs(
    address=None,
    filters=None,
    limit=DEFAULT_LIMIT,
    timeout=DEFAULT_TIMEOUT_S,
    detail=False,
    raise_on_missing_output=True,
    _explain=False,
) -> list[Row]:
    """Jobs, one for each driver."""
    return _list("jobs", address, filters, limit)


def list_workers(
    address=None,
    filters=None,
    limit=DEFAULT_LIMIT,
    timeout=DEFAULT_TIMEOUT_S,
    detail=False,
    raise_on_missing_output=True,
    _explain=False,
) -> list[Row]:
    """Processes: drivers and workers."""
    return _list("workers", address, filters, limit)


def list_tasks(
    address=None,
    filters=None,
    limit=DEFAULT_LIMIT,
    timeout=DEFAULT_TIMEOUT_S,
    detail=False,
    raise_on_missing_output=True,
    _explain=False,
) -> list[Row]:
    """Calls of tasks and actor methods, the newest first; only so many are remembered."""
    return _list("tasks", address, filters, limit)


def list_objects(
    address=None,
    filters=None,
    limit=DEFAULT_LIMIT,
    timeout=DEFAULT_TIMEOUT_S,
    detail=False,
    raise_on_missing_output=True,
    _explain=False,
) -> list[Row]:
    """Objects in the store."""
    return _list("objects", address, filters, limit)


def list_runtime_envs(
    address=None,
    filters=None,
    limit=DEFAULT_LIMIT,
    timeout=DEFAULT_TIMEOUT_S,
    detail=False,
    raise_on_missing_output=True,
    _explain=False,
) -> list[Row]:
    """Runtime environments that have been asked for."""
    return _list("runtime_envs", address, filters, limit)


def list_cluster_events(
    address=None,
    filters=None,
    limit=DEFAULT_LIMIT,
    timeout=DEFAULT_TIMEOUT_S,
    detail=False,
    raise_on_missing_output=True,
    _explain=False,
) -> list[Row]:
    """What happened to the cluster: deaths, restarts, warnings."""
    return _list("cluster_events", address, filters, limit)


def get_actor(id: str, address=None, timeout=DEFAULT_TIMEOUT_S, _explain=False) -> Row | None:
    """One actor, None when it is not known."""
    return _get("actors", id, address)


def get_job(id: str, address=None, timeout=DEFAULT_TIMEOUT_S, _explain=False) -> Row | None:
    """One job, None when it is not known."""
    return _get("jobs", id, address)


def get_placement_group(
    id: str, address=None, timeout=DEFAULT_TIMEOUT_S, _explain=False
) -> Row | None:
    """One placement group, None when it is not known."""
    return _get("placement_groups", id, address)


def get_node(id: str, address=None, timeout=DEFAULT_TIMEOUT_S, _explain=False) -> Row | None:
    """One node, None when it is not known."""
    return _get("nodes", id, address)


def get_worker(id: str, address=None, timeout=DEFAULT_TIMEOUT_S, _explain=False) -> Row | None:
    """One process, None when it is not known."""
    return _get("workers", id, address)


def get_task(id, address=None, timeout=DEFAULT_TIMEOUT_S, _explain=False):
    """One task by its identity or a reference to its result; a list when it was attempted several
    times.
    """
    if hasattr(id, "task_id"):
        from ...ids import hex_of

        id = hex_of(id.task_id())
    rows = _list("tasks", address, [("task_id", "=", id)], MAX_LIMIT)
    if not rows:
        return None
    return rows[0] if len(rows) == 1 else rows


def get_objects(id: str, address=None, timeout=DEFAULT_TIMEOUT_S, _explain=False) -> list[Row]:
    """What is known of one object; an empty list when nothing is."""
    return _list("objects", address, [("object_id", "=", id)], MAX_LIMIT)


def summarize_tasks(
    address=None, timeout=DEFAULT_TIMEOUT_S, raise_on_missing_output=True, _explain=False
) -> dict:
    """How many tasks of each name are in each state."""
    return _summary(list_tasks(address, limit=MAX_LIMIT), "func_or_class_name", "task")


def summarize_actors(
    address=None, timeout=DEFAULT_TIMEOUT_S, raise_on_missing_output=True, _explain=False
) -> dict:
    """How many actors of each class are in each state."""
    return _summary(list_actors(address, limit=MAX_LIMIT), "class_name", "actor")


def summarize_objects(
    address=None, timeout=DEFAULT_TIMEOUT_S, raise_on_missing_output=True, _explain=False
) -> dict:
    """Number and size of objects, by kind of reference."""
    rows = list_objects(address, limit=MAX_LIMIT)
    groups: dict = {}
    for row in rows:
        group = groups.setdefault(
            row.get("reference_type") or "STORE", {"total_objects": 0, "total_size_mb": 0.0}
        )
        group["total_objects"] += 1
        group["total_size_mb"] += (row.get("object_size") or 0) / 1e6
    return {
        "cluster": {
            "summary": groups,
            "total_objects": len(rows),
            "total_size_mb": sum((row.get("object_size") or 0) for row in rows) / 1e6,
            "summary_by": "reference_type",
        }
    }


def _summary(rows, column: str, what: str) -> dict:
    summary: dict = {}
    for row in rows:
        name = row.get(column) or "?"
        entry = summary.setdefault(
            name,
            {
                "class_name" if what == "actor" else "func_or_class_name": name,
                "type": row.get("type"),
                "state_counts": {},
            },
        )
        counts = entry["state_counts"]
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    total = f"total_{what}s"
    return {
        "cluster": {
            "summary": summary,
            total: len(rows),
            "summary_by": "class" if what == "actor" else "func_name",
        }
    }


def list_logs(
    address=None,
    node_id=None,
    node_ip=None,
    glob_filter: str | None = None,
    timeout=DEFAULT_TIMEOUT_S,
) -> dict[str, list[str]]:
    """Log files of this machine's node, by kind; ``glob_filter`` is a shell pattern."""
    import fnmatch

    names = sorted(os.listdir(_log_directory(address)))
    if glob_filter:
        names = [name for name in names if fnmatch.fnmatch(name, glob_filter)]
    kinds: dict[str, list[str]] = {}
    for name in names:
        kind = (
            "daemon"
            if name.startswith("sheafd")
            else "worker_err"
            if name.endswith(".err")
            else "worker_out"
        )
        kinds.setdefault(kind, []).append(name)
    return kinds


def get_log(
    address=None,
    node_id=None,
    node_ip=None,
    filename: str | None = None,
    actor_id: str | None = None,
    task_id: str | None = None,
    pid: int | None = None,
    follow: bool = False,
    tail: int = -1,
    timeout=DEFAULT_TIMEOUT_S,
    suffix: str = "out",
    encoding: str | None = "utf-8",
    errors: str = "replace",
    submission_id=None,
    attempt_number: int = 0,
    _interval=None,
    filter_ansi_code: bool = False,
):
    """Yields a log's text in pieces.

    Args:
        filename, actor_id, task_id, pid: which log; one of them.
        follow: wait for more at its end, for ever.
        tail: only so many lines from the end; -1 for all.
        suffix: "out" or "err".
        encoding: None yields bytes.

    Raises: ValueError when the log is not named or does not exist.
    """
    if filename is None:
        filename = f"worker-{_pid_of(pid, actor_id, task_id, address)}.{suffix}"
    path = os.path.join(_log_directory(address), os.path.basename(filename))
    if not os.path.isfile(path):
        raise ValueError(f"There is no log {filename}")
    return _read_log(path, follow, tail, encoding, errors, filter_ansi_code)


def _read_log(path, follow, tail, encoding, errors, filter_ansi_code):
    import re
    import time

    with open(path, "rb") as file:
        data = file.read()
        if tail >= 0:
            data = b"".join(data.splitlines(keepends=True)[-tail:] if tail else [])
        while True:
            if data:
                if filter_ansi_code:
                    data = re.sub(rb"\x1b\[[0-9;]*m", b"", data)
                yield data.decode(encoding, errors) if encoding else data
            elif not follow:
                return
            else:
                time.sleep(0.2)
            data = file.read()


def _pid_of(pid, actor_id, task_id, address) -> int:
    if pid is not None:
        return int(pid)
    if actor_id is not None:
        row = get_actor(actor_id, address)
        pid = row and row["pid"]
    elif task_id is not None:
        row = get_task(task_id, address)
        row = row[-1] if isinstance(row, list) else row
        pid = row and row["worker_pid"]
    else:
        raise ValueError("Name a log: filename, pid, actor_id or task_id")
    if not pid:
        raise ValueError(f"Nothing is known of the process of {actor_id or task_id}")
    return pid


def _log_directory(address) -> str:
    from ..._api import query
    from ..._state import state

    _connect(address)
    query("logs", {"name": ""}, 1)  # the daemon writes down what workers have printed by now
    return os.path.join(state.session["session_dir"], "logs")
