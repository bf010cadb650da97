"""Calls that may change."""

from __future__ import annotations

from . import internal_kv

__all__ = ["internal_kv"]
