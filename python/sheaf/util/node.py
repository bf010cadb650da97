"""Addresses of the machine that the calling code runs on."""

from __future__ import annotations

import os


def get_node_ip_address(address: str = "8.8.8.8:53") -> str:
    """The address by which this machine reaches others; 127.0.0.1 when it has no network.

    Args:
        address: "host:port" that the route is looked up for; no packet is sent.
    """
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
