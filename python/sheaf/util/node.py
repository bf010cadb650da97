"""Addresses of the machine that the calling code runs on."""

from __future__ import annotations

import os


_own_address: tuple[int, str] | None = None  # (generation of the connection, address)


def get_node_ip_address(address: str = "8.8.8.8:53") -> str:
    """The address of this node, as `nodes` and the resource ``node:<address>`` name it; without a
    cluster, that by which this machine reaches others (127.0.0.1 when it has no network).

    Args:
        address: "host:port" that the route is looked up for without a cluster; no packet is sent.
    """
    global _own_address
    from .._state import state

    if state.mode is None or state.local_mode:
        return route_address(address)
    known = _own_address
    if known is None or known[0] != state.generation:
        from .._api import nodes

        own = state.session["node_id"].hex()
        found = (node["NodeManagerAddress"] for node in nodes() if node["NodeID"] == own)
        _own_address = known = (state.generation, next(found, "127.0.0.1"))
    return known[1]


def route_address(address: str = "8.8.8.8:53") -> str:
    """The address of the interface by which this machine would reach another; asks nobody."""
    import socket

    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, int(port)))
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"


def get_node_instance_id() -> str:
    """What the environment says this machine's instance is called ($SHEAF_CLOUD_INSTANCE_ID), "" by
    default.
    """
    return os.environ.get("SHEAF_CLOUD_INSTANCE_ID") or os.environ.get("RAY_CLOUD_INSTANCE_ID", "")
