"""Python's multiprocessing pool on actors: the same calls, across all nodes of the cluster."""

from __future__ import annotations

from multiprocessing import JoinableQueue, TimeoutError

from . import pool
from .pool import Pool

__all__ = ["JoinableQueue", "Pool", "TimeoutError", "pool"]
