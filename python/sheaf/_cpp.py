"""C++ functions and actors from Python: found by name in a library that workers load, called with
plain data.
"""

from __future__ import annotations

import hashlib

from . import _core, _options
from ._state import ensure_connected, state

_CALLER_IS_PYTHON = "cpp:"


def _id_of(name: str) -> bytes:
    # Both languages derive the id from the registered name, so that neither asks the other for a
    # table.
    return hashlib.sha256(name.encode()).digest()[:16]


class CppFunction:
    """A function of a C++ library; made by `sheaf.cpp_function`."""

    def __init__(self, name: str, library: str, options: dict | None = None):
        self._name = name
        self._library = library
        self._options = options or {}
        _options.check_task(self._options)
        self._bound = (-1, None)

    def remote(self, *args):
        """Calls it in a worker; gives a reference. Arguments are positional and plain data."""
        ensure_connected()
        generation, bound = self._bound
        if generation != state.generation:
            bound = _core.BoundTask(_id_of(self._name), self._engine_options())
            self._bound = (state.generation, bound)
        return bound.remote(*args)

    def options(self, **changes) -> "CppFunction":
        """The same function with other options (`sheaf.remote` lists them)."""
        _options.check_task(changes, in_options=True)
        return CppFunction(self._name, self._library, _options.merge(self._options, changes))

    def _engine_options(self) -> dict:
        from .remote_function import engine_options

        options = engine_options(self._options, self._name, False, None)
        return {**options, "language": f"cpp:{self._library}", "blob": _CALLER_IS_PYTHON}

    def __reduce__(self):
        return CppFunction, (self._name, self._library, self._options)


class CppActorClass:
    """An actor class of a C++ library; made by `sheaf.cpp_actor_class`."""

    def __init__(self, factory: str, class_name: str, library: str, options: dict | None = None):
        self._factory = factory
        self._class_name = class_name
        self._library = library
        self._options = options or {}
        _options.check_actor(self._options)

    def remote(self, *args):
        """Starts an actor; gives its handle, on which any method name may be called."""
        from . import actor
        from ._actor_class import ClassDescription

        ensure_connected()
        description = ClassDescription(self._class_name, {}, open_methods=True)
        name_space = self._options.get("namespace") or state.namespace
        spec, _ = actor.actor_spec(self._options, description, name_space)
        handle = f"cpp:{self._class_name}".encode()
        spec["placement"]["language"] = f"cpp:{self._library}"
        spec["blob"] = _CALLER_IS_PYTHON
        spec["handle"] = handle
        actor_id, existing = _core.create_actor(_id_of(self._factory), spec, args, {})
        return actor.handle_from_blob(actor_id, existing or handle, retain=False)

    def options(self, **changes) -> "CppActorClass":
        """The same class with other options (`sheaf.remote` lists them)."""
        _options.check_actor(changes, in_options=True)
        merged = _options.merge(self._options, changes)
        return CppActorClass(self._factory, self._class_name, self._library, merged)

    def __reduce__(self):
        return CppActorClass, (self._factory, self._class_name, self._library, self._options)
