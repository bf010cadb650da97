"""``_config``: settings of the connected cluster by name."""

from __future__ import annotations


class _Config:
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def setting(*args):
            from .. import _core
            from .._state import ensure_connected

            ensure_connected()
            try:
                return _core.session()["config"][name]
            except KeyError:
                raise AttributeError(f"The cluster has no setting {name!r}") from None

        return setting


_config = _Config()
