"""Functions and classes on their way to workers: pickled by value once, kept in the cluster by
their hash.
"""

from __future__ import annotations

import sys

from . import _core
from ._state import ensure_connected

FUNCTION_SPACE = "fn"
WARN_BYTES = 10 << 20
MAX_BYTES = 512 << 20


def export(definition, what: str, name: str) -> bytes:
    """Stores ``definition`` under its 16-byte hash and returns that.

    Raises TypeError that names the attribute or variable which cannot be pickled, and ValueError
    for a definition of more than 512 MiB (usually a large array captured from an outer scope).
    """
    import cloudpickle
    import hashlib

    ensure_connected()
    try:
        data = cloudpickle.dumps(definition, protocol=5)
    except Exception as error:
        from .util.check_serialize import explain

        raise TypeError(
            f"Could not serialize the {what} {name}:\n{explain(definition, name)}"
        ) from error
    check_size(len(data), what, name)
    key = hashlib.sha256(data).digest()[:16]
    _core.kv_put(FUNCTION_SPACE, key, data, False)
    return key


def check_size(n_bytes: int, what: str, name: str) -> None:
    """Warns about a definition that is large, refuses one that is huge."""
    if n_bytes > MAX_BYTES:
        raise ValueError(
            f"The {what} {name} is too large ({n_bytes >> 20} MiB > {MAX_BYTES >> 20} MiB). It "
            "probably "
            "captures a large object from an outer scope: put() that object and pass the reference."
        )
    if n_bytes > WARN_BYTES:
        print(
            f"sheaf: warning: the {what} {name} is large ({n_bytes >> 20} MiB). Check that it does "
            "not "
            "capture a large array or object from an outer scope; put() large objects and pass the "
            "reference.",
            file=sys.stderr,
        )
