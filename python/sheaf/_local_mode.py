"""``init(local_mode=True)``: tasks and actors run in this process, each call before ``remote()``
returns, so that a debugger sees everything. Objects and references are the cluster's as always.
"""

from __future__ import annotations

import inspect
import os

from . import _core

_actors: dict[bytes, "_LocalActor"] = {}


class _LocalActor:
    __slots__ = ("instance", "death", "name", "handle")

    def __init__(self, name: tuple | None, handle: bytes):
        self.instance = None
        self.death: Exception | None = None
        self.name = name
        self.handle = handle


class LocalGenerator:
    """What a streaming call gives here: references that exist already."""

    def __init__(self, refs: list):
        self._refs = refs
        self._end = _core.put(None)

    def __iter__(self):
        return self

    def __next__(self):
        if not self._refs:
            raise StopIteration
        return self._refs.pop(0)

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self._refs:
            raise StopAsyncIteration
        return self._refs.pop(0)

    def completed(self):
        """A reference that is ready when the call has ended: at once."""
        return self._end

    def next_ready(self) -> bool:
        """True: nothing is waited for."""
        return True

    def is_finished(self) -> bool:
        """Whether every item has been taken."""
        return not self._refs


class LocalTask:
    """A function with its options; ``remote`` runs it."""

    def __init__(self, function, options: dict):
        from ._signature import is_generator

        self._function = function
        self._name = getattr(function, "__qualname__", repr(function))
        self._num_returns = options.get("num_returns")
        if self._num_returns is None:
            self._num_returns = "streaming" if is_generator(function) else 1

    def remote(self, *args, **kwargs):
        """Runs the function; gives references to what came of it."""
        try:
            result = _finished(self._function(*_values(args), **_named_values(kwargs)))
        except Exception as error:
            return _failed(self._num_returns, error, self._name)
        return _results(self._num_returns, result, self._name)


class LocalMethod:
    """A method of an actor of this process with its options; ``remote`` runs it."""

    def __init__(self, actor: bytes, name: str, options: dict):
        self._actor = actor
        self._method_name = name
        self._num_returns = options["num_returns"]
        self._shown = options["name"]

    def remote(self, *args, **kwargs):
        """Runs the method; gives references to what came of it."""
        actor = _actors[self._actor]
        try:
            if actor.death is not None:
                raise actor.death
            kind = type(actor.instance)
            method = inspect.getattr_static(kind, self._method_name).__get__(actor.instance, kind)
            result = _finished(method(*_values(args), **_named_values(kwargs)))
        except SystemExit:
            kill(self._actor)
            return _failed(self._num_returns, actor.death, self._shown)
        except Exception as error:
            return _failed(self._num_returns, error, self._shown)
        return _results(self._num_returns, result, self._shown)


def create_actor(user_class: type, spec: dict, args: tuple, kwargs: dict) -> tuple:
    """Constructs an actor here: ``(its id, None)``, or the id and the handle's bytes of one that
    has the name.
    """
    from ._actor_class import instance_class
    from .exceptions import ActorAlreadyExistsError, ActorDiedError

    name = (spec["name_space"], spec["name"]) if spec["name"] else None
    for binary, actor in _actors.items():
        if name is not None and actor.name == name and actor.death is None:
            if spec["get_if_exists"]:
                return binary, spec["handle"]
            raise ActorAlreadyExistsError(f"The name '{spec['name']}' is already taken. Please use a different name.")
    actor = _LocalActor(name, spec["handle"])
    binary = os.urandom(16)
    _actors[binary] = actor
    try:
        actor.instance = instance_class(user_class)(*_values(args), **_named_values(kwargs))
    except Exception as error:
        actor.death = ActorDiedError(f"The actor died because of an error in its constructor: {error!r}")
        actor.death.__cause__ = error
    return binary, None


def lookup(name: str, name_space: str) -> tuple[bytes, bytes] | None:
    """``(id, handle's bytes)`` of the actor of that name."""
    for binary, actor in _actors.items():
        if actor.name == (name_space, name) and actor.death is None:
            return binary, actor.handle
    return None


def kill(binary: bytes) -> None:
    """The actor answers no further call."""
    from .exceptions import ActorDiedError

    actor = _actors[binary]
    if actor.death is None:
        actor.death = ActorDiedError("The actor is dead: it was killed, or has left.")
    actor.instance = None


def _values(args) -> list:
    return [_core.get(arg) if isinstance(arg, _core.ObjectRef) else arg for arg in args]


def _named_values(kwargs: dict) -> dict:
    return dict(zip(kwargs, _values(kwargs.values())))


def _finished(result):
    """The result, when it is a coroutine; the items of an asynchronous generator."""
    if not inspect.isawaitable(result) and not inspect.isasyncgen(result):
        return result
    import asyncio

    async def wait():
        if inspect.isasyncgen(result):
            return [item async for item in result]
        return await result

    return asyncio.run(wait())


def _results(num_returns, result, name: str):
    if num_returns == 1:
        return _core.put(result)
    if num_returns == 0:
        return None
    wanted = num_returns if isinstance(num_returns, int) else None
    refs, items = [], iter(result)
    try:
        while wanted is None or len(refs) < wanted:
            refs.append(_core.put(next(items)))
    except StopIteration:
        if wanted is not None:
            error = ValueError(f"Task returned {len(refs)} objects, but num_returns={wanted}.")
            refs += [_error_ref(error, name)] * (wanted - len(refs))
    except Exception as error:
        refs += [_error_ref(error, name)] * (1 if wanted is None else wanted - len(refs))
    return _wrapped(num_returns, refs)


def _wrapped(num_returns, refs: list):
    if num_returns == "streaming":
        return LocalGenerator(refs)
    if num_returns == "dynamic":
        from ._generators import DynamicObjectRefGenerator

        return _core.put(DynamicObjectRefGenerator(refs))
    return refs


def _failed(num_returns, error: Exception, name: str):
    if num_returns in (1, "dynamic"):
        return _error_ref(error, name)
    if num_returns == 0:
        return None
    count = num_returns if isinstance(num_returns, int) else 1
    return _wrapped(num_returns, [_error_ref(error, name)] * count)


def _error_ref(error: Exception, name: str):
    from . import _errors
    from .exceptions import ActorDiedError

    if isinstance(error, ActorDiedError):
        cause = error.__cause__
        payload = _errors.pack_exception(cause, name) if cause is not None else b""
        return _core.put_error(_errors.KIND_ACTOR_DIED, str(error), payload)
    text = f"{type(error).__name__}: {error}"
    return _core.put_error(_errors.KIND_USER, text, _errors.pack_exception(error, name))


def end() -> None:
    """The connection is closed."""
    _actors.clear()
