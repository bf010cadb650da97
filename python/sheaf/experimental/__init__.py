"""Calls that may change."""

from __future__ import annotations

from . import internal_kv
from .locations import get_local_object_locations, get_object_locations

__all__ = ["get_local_object_locations", "get_object_locations", "internal_kv"]
