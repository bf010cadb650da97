"""``sheaf status``, ``list``, ``summary``, ``logs``, ``timeline``, ``metrics`` and ``memory``."""

from __future__ import annotations

import sys
from typing import List, Optional

import typer

from .output import bytes_text, cell, fail, print_json, print_table

_ADDRESS = typer.Option(
    None, help="Session directory or socket; default: the newest cluster of this user."
)
_JSON = typer.Option(False, "--json", help="Print JSON.")

# What a table shows; --json has everything.
_COLUMNS = {
    "topology": ["node_id", "hostname", "cpus", "cores", "numa_nodes", "gpus", "nics", "bound"],
    "nodes": ["node_id", "state", "node_name", "is_head_node", "resources_total", "labels"],
    "actors": [
        "actor_id",
        "class_name",
        "state",
        "name",
        "ray_namespace",
        "job_id",
        "pid",
        "num_restarts",
    ],
    "tasks": [
        "task_id",
        "name",
        "state",
        "type",
        "attempt_number",
        "job_id",
        "worker_pid",
        "error_type",
    ],
    "objects": ["object_id", "object_size", "reference_type", "task_status", "pid"],
    "workers": ["worker_id", "worker_type", "pid", "is_alive", "state", "exit_detail"],
    "jobs": ["job_id", "status", "entrypoint", "driver_info"],
    "placement_groups": ["placement_group_id", "name", "state", "strategy", "bundles"],
    "runtime_envs": ["runtime_env", "success", "ref_cnt", "error"],
    "cluster_events": ["time", "severity", "source_type", "message"],
}


def _connect(address: Optional[str]) -> None:
    from .._cluster import connect_tool

    connect_tool(address)


def status(address: Optional[str] = _ADDRESS, as_json: bool = _JSON) -> None:
    """What the cluster has, and what of it is in use."""
    _connect(address)
    from .._api import available_resources, cluster_resources, nodes
    from .._state import state

    total, free, found = cluster_resources(), available_resources(), nodes()
    if as_json:
        print_json(
            {
                "session_dir": state.session["session_dir"],
                "nodes": found,
                "cluster_resources": total,
                "available_resources": free,
            }
        )
        return
    alive = [node for node in found if node["Alive"]]
    print(
        f"Cluster {state.session['session_dir']}: {len(alive)} node(s) alive, "
        f"{len(found) - len(alive)} dead\n"
    )
    rows = []
    for name in sorted(total):
        used = total[name] - free.get(name, 0.0)
        show = bytes_text if name in ("memory", "object_store_memory") else cell
        rows.append({"resource": name, "used": show(used), "total": show(total[name])})
    print_table(rows, ["resource", "used", "total"])
    _print_counts()


def _print_counts() -> None:
    from ..util.state import list_actors, list_workers

    workers = [row for row in list_workers(limit=10000) if row.get("is_alive") is not False]
    actors = [row for row in list_actors(limit=10000) if row["state"] != "DEAD"]
    print(f"{len(workers)} processes, {len(actors)} living actors")


def list_rows(
    what: str = typer.Argument(
        ...,
        help="nodes, topology, actors, tasks, objects, workers, jobs, placement-groups, "
        "runtime-envs or cluster-events",
    ),
    filters: Optional[List[str]] = typer.Option(
        None, "--filter", "-f", help="COLUMN=VALUE or COLUMN!=VALUE"
    ),
    limit: int = typer.Option(100, help="Rows at most."),
    detail: bool = typer.Option(False, help="All columns."),
    address: Optional[str] = _ADDRESS,
    as_json: bool = _JSON,
) -> None:
    """List what a cluster has."""
    kind = what.replace("-", "_")
    if kind not in _COLUMNS:
        fail(
            f"There is no list of {what}; there are "
            f"{', '.join(name.replace('_', '-') for name in _COLUMNS)}.",
            2,
        )
    from ..util.state import api

    _connect(address)
    rows = api._list(kind, None, [_filter(text) for text in filters or ()], limit)
    if kind == "nodes" and (as_json or detail):
        _add_topology(rows)
    if kind == "topology" and not as_json:
        rows = [_in_short(row) for row in rows]
    if as_json:
        print_json(rows)
        return
    if not rows:
        print(f"No {what}.")
        return
    columns = (
        sorted({key for row in rows for key in row})
        if detail
        else [
            column for column in _COLUMNS[kind] if any(row.get(column) is not None for row in rows)
        ]
    )
    print_table(rows, columns)
    print(
        f"{len(rows)} {what}"
        + (f" (more may exist: --limit {limit})" if len(rows) == limit else "")
    )


def _add_topology(nodes: list) -> None:
    from ..util.state import api

    known = {row["node_id"]: row["topology"] for row in api._list("topology", None, [], 10000)}
    for node in nodes:
        node["topology"] = known.get(node["node_id"], {})


def _in_short(row: dict) -> dict:
    """A row for people: counts instead of lists."""
    found = row["topology"]
    short = {name: row[name] for name in ("node_id", "hostname")}
    short.update({name: found.get(name) for name in ("cpus", "cores")})
    short.update({name: len(found.get(name, ())) for name in ("numa_nodes", "gpus", "nics")})
    why = found.get("not_bound_because")
    short["bound"] = f"no: {why}" if why else found.get("binding")
    return short


def _filter(text: str) -> tuple[str, str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        fail(f"--filter {text}: COLUMN=VALUE or COLUMN!=VALUE is needed", 2)
    if name.endswith("!"):
        return name[:-1], "!=", value
    return name, "=", value


def summary(
    what: str = typer.Argument("tasks", help="tasks, actors or objects"),
    address: Optional[str] = _ADDRESS,
    as_json: bool = _JSON,
) -> None:
    """Count tasks, actors or objects by name and state."""
    from ..util import state

    functions = {
        "tasks": state.summarize_tasks,
        "actors": state.summarize_actors,
        "objects": state.summarize_objects,
    }
    if what not in functions:
        fail(f"There is no summary of {what}; there are {', '.join(functions)}.", 2)
    _connect(address)
    found = functions[what]()
    if as_json:
        print_json(found)
        return
    rows = []
    for name, entry in found["cluster"]["summary"].items():
        counts = entry.get("state_counts")
        rows.append({"name": name, **(counts if counts is not None else entry)})
    if not rows:
        print(f"No {what}.")
        return
    print_table(rows, ["name", *sorted({key for row in rows for key in row if key != "name"})])


def logs(
    filename: Optional[str] = typer.Argument(
        None, help="A log's name; without one they are listed."
    ),
    actor_id: Optional[str] = typer.Option(None, help="Log of this actor."),
    task_id: Optional[str] = typer.Option(None, help="Log of the worker that ran this task."),
    pid: Optional[int] = typer.Option(None, help="Log of this process."),
    tail: int = typer.Option(-1, help="Lines from the end; -1: all."),
    follow: bool = typer.Option(False, "--follow", "-f", help="Wait for more."),
    err: bool = typer.Option(False, help="Standard error instead of standard output."),
    address: Optional[str] = _ADDRESS,
) -> None:
    """Show logs of the daemon and of workers."""
    from ..util.state import get_log, list_logs

    _connect(address)
    if filename is None and actor_id is None and task_id is None and pid is None:
        for kind, names in list_logs().items():
            print(f"{kind}:")
            for name in names:
                print(f"  {name}")
        return
    try:
        for text in get_log(
            filename=filename,
            actor_id=actor_id,
            task_id=task_id,
            pid=pid,
            tail=tail,
            follow=follow,
            suffix="err" if err else "out",
        ):
            sys.stdout.write(text)
            sys.stdout.flush()
    except KeyboardInterrupt:
        pass


def timeline(
    output: str = typer.Option("sheaf-timeline.json", "--output", "-o", help="File to write."),
    daemons: bool = typer.Option(
        False, "--daemons", help="With what the nodes' daemons did lately: workers, leases."
    ),
    address: Optional[str] = _ADDRESS,
) -> None:
    """Write what ran when, on all nodes, as a trace for chrome://tracing or ui.perfetto.dev."""
    import json

    from .._timeline import daemon_events, events

    _connect(address)
    found = events() + (daemon_events() if daemons else [])
    with open(output, "w", encoding="utf-8") as file:
        json.dump(found, file)
    print(f"Wrote {output}: open it in https://ui.perfetto.dev or chrome://tracing.")


def metrics(address: Optional[str] = _ADDRESS) -> None:
    """Print the metrics of all nodes as Prometheus text, each with its node's id as a tag."""
    from .. import _core

    _connect(address)
    text, truncated = _core.state_query("metrics", {}, 0)
    sys.stdout.write(text)
    if truncated:
        print("A node did not answer in time.", file=sys.stderr)


def memory(
    address: Optional[str] = _ADDRESS,
    limit: int = typer.Option(20, help="Objects to show."),
    as_json: bool = _JSON,
) -> None:
    """Show the object store: its size, the largest objects, and who pins them."""
    from ..util.state import list_objects

    _connect(address)
    from .._api import query
    from .._state import state

    rows = sorted(list_objects(limit=10000), key=lambda row: -(row.get("object_size") or 0))
    pins, _ = query("pins")
    if as_json:
        print_json({"arena_bytes": state.session.get("arena_bytes"), "objects": rows, "pins": pins})
        return
    used = sum(row.get("object_size") or 0 for row in rows)
    print(
        f"{len(rows)} objects, {bytes_text(used)} of "
        f"{bytes_text(state.session.get('arena_bytes') or 0)} "
        f"({state.session.get('arena_backing')})"
    )
    if rows:
        print_table(
            rows[:limit],
            [c for c in _COLUMNS["objects"] if any(r.get(c) is not None for r in rows)],
        )
    if pins:
        print_table(
            pins if isinstance(pins, list) else [pins],
            sorted({key for row in (pins if isinstance(pins, list) else [pins]) for key in row}),
            title="Pins",
        )
