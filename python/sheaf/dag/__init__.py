"""Graphs of bound calls: written down by ``.bind()``, run as often as wanted by ``.execute()``.

Example::

    from sheaf.dag import InputNode, MultiOutputNode

    with InputNode() as number:
        both = MultiOutputNode([double.bind(number), square.bind(number)])
    print(sheaf.get(both.execute(3)))   # [6, 9]
"""

from .compiled import CompiledDAG, DAGContext
from .nodes import (
    ClassMethodNode,
    ClassNode,
    DAGInputData,
    DAGNode,
    FunctionNode,
    InputAttributeNode,
    InputNode,
    MultiOutputNode,
)

__all__ = [
    "ClassMethodNode",
    "ClassNode",
    "CompiledDAG",
    "DAGContext",
    "DAGInputData",
    "DAGNode",
    "FunctionNode",
    "InputAttributeNode",
    "InputNode",
    "MultiOutputNode",
]
