"""``ray._private.services``, as far as programs outside of Ray use it."""

from __future__ import annotations

from ..util.node import get_node_ip_address

__all__ = ["get_node_ip_address"]
