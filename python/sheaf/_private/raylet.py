"""``ray._raylet``: identities and reference types under the module name that programs import them
from.
"""

from __future__ import annotations

from .._core import ObjectRef, ObjectRefGenerator  # noqa: F401  importable from here

from .._generators import DynamicObjectRefGenerator  # noqa: F401  importable from here
from ..ids import (  # noqa: F401
    ActorID,
    BaseID,
    JobID,
    NodeID,
    PlacementGroupID,
    TaskID,
    UniqueID,
    WorkerID,
)

RAY_NODE_ID_KEY = "ray.io/node-id"  # a label of every node
