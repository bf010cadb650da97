"""Marks of an API's stability, for programs that import them from Ray; they change nothing."""

from __future__ import annotations


def _mark(*args, **kwargs):
    if len(args) == 1 and callable(args[0]) and not kwargs:
        return args[0]
    return lambda target: target


PublicAPI = DeveloperAPI = Deprecated = _mark


class RayDeprecationWarning(DeprecationWarning):
    """A deprecated call."""
