"""The module name under which programs import the outputs of a graph."""

from .nodes import MultiOutputNode  # noqa: F401  importable from here
