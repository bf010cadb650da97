"""Names for type annotations."""

from ._core import ObjectRef

__all__ = ["ObjectRef"]
