"""The module name under which programs import the inputs of a graph."""

from .nodes import DAGInputData, InputAttributeNode, InputNode  # noqa: F401  importable from here
