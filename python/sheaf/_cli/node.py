"""``sheaf node``: single nodes of a cluster."""

from __future__ import annotations

from typing import Optional

import typer

from .output import fail

app = typer.Typer(no_args_is_help=True, help="Act on one node of a cluster.")


@app.callback()
def _node() -> None:
    """Act on one node of a cluster."""


@app.command("drain")
def drain(
    node: str = typer.Argument(..., help="Its number or node id (see 'sheaf list nodes')."),
    undo: bool = typer.Option(False, "--undo", help="Let it take work again."),
    address: Optional[str] = typer.Option(
        None, help="Session directory or socket; default: the newest cluster of this user."
    ),
) -> None:
    """Give a node no new tasks, actors and placement groups; what runs there goes on."""
    from .. import _core
    from .._api import query
    from .._cluster import connect_tool

    connect_tool(address)
    rows, _ = query("nodes")
    found = [row for row in rows if node in (str(row["number"]), row["node_id"])]
    if not found:
        known = ", ".join(str(row["number"]) for row in rows)
        fail(f"There is no node {node}: the cluster has {known}.")
    _core.drain_node(found[0]["number"], not undo)
    print(f"Node {found[0]['number']} {'takes work again' if undo else 'takes no new work'}.")
