"""Actor classes, handles and methods: what ``@remote`` makes of a class."""

from __future__ import annotations

import sys

from . import _core, _options
from ._actor_class import ClassDescription, describe, export_class
from ._state import ensure_connected, state
from .ids import ActorID

__all__ = [
    "ActorClass",
    "ActorClassInheritanceException",
    "ActorHandle",
    "ActorMethod",
    "exit_actor",
    "method",
]

ASYNC_MAX_CONCURRENCY = 1000


class ActorClassInheritanceException(TypeError):
    """A class was derived from an actor class. Derive from the plain class and decorate the result
    instead.
    """


def method(*args, **kwargs):
    """Sets the options of one method of an actor class.

    Args (keywords only):
        num_returns: number of references that a call gives, or "streaming" for a generator of them.
        concurrency_group: the group of threads or coroutines that serves the method.
        max_task_retries: runs again after a crash of the actor, -1 without limit.
        retry_exceptions: True, or the exception types after which a call is run again.
        enable_task_events: whether the state API sees the method's calls.

    Raises: AssertionError for other arguments, ValueError or TypeError for wrong values.

    Example::

        @sheaf.remote
        class Halves:
            @sheaf.method(num_returns=2)
            def split(self, data):
                return data[: len(data) // 2], data[len(data) // 2 :]
    """
    known = _options.METHOD_DECORATOR_KEYWORDS
    if len(args) == 1 and not kwargs and callable(args[0]):
        return args[0]
    if args:
        raise AssertionError(f"@method takes keyword arguments only, out of {list(known)}.")
    for name in kwargs:
        if name not in known:
            raise AssertionError(
                f"Unexpected keyword argument to @method: '{name}'. The supported keyword "
                f"arguments are {list(known)}."
            )
    _options.check_method(kwargs)

    def annotate(function):
        _options.check_generator(kwargs, function)
        function.__sheaf_method__ = {**getattr(function, "__sheaf_method__", {}), **kwargs}
        if "num_returns" in kwargs:
            function.__ray_num_returns__ = kwargs["num_returns"]
        return function

    return annotate


class ActorMethod:
    """One method of one actor: ``handle.name.remote(...)``; ``handle.name.options(...)`` changes
    options.
    """

    def __init__(self, hold: "_Hold", name: str, options: dict):
        self._hold = hold
        self._method_name = name
        self._options = options
        self._bound = _bind(hold, name, _engine_method_options(hold, name, options))
        self.remote = self._bound.remote

    def __call__(self, *args, **kwargs):
        raise TypeError(
            "Actor methods cannot be called directly. Instead of running "
            f"'object.{self._method_name}()', "
            f"try 'object.{self._method_name}.remote()'."
        )

    def options(self, **changes) -> "ActorMethod":
        """The same method with other options (`sheaf.method` lists them; also ``name``)."""
        _options.check_method(changes)
        _check_group(self._hold.description, changes.get("concurrency_group"))
        return ActorMethod(self._hold, self._method_name, {**self._options, **changes})

    def _remote(self, args=(), kwargs=None, name="", **changes):
        """Calls with options given at the call."""
        if name:
            changes["name"] = name
        target = (
            self.options(**{k: v for k, v in changes.items() if v is not None}) if changes else self
        )
        return target.remote(*(args or ()), **(kwargs or {}))

    def bind(self, *args, **kwargs):
        """The call with these arguments as a node of a graph, to be executed later (`sheaf.dag`)."""
        from .dag.nodes import bind_method

        return bind_method(ActorHandle(self._hold), self._method_name, self._options, args, kwargs)

    def __reduce__(self):
        return _rebuild_method, (ActorHandle(self._hold), self._method_name, self._options)

    def __repr__(self):
        return f"<sheaf.ActorMethod {self._hold.description.class_name}.{self._method_name}>"


def _bind(hold: "_Hold", name: str, options: dict):
    if state.local_mode:
        from ._local_mode import LocalMethod

        return LocalMethod(hold.binary, name, options)
    return _core.BoundMethod(hold.binary, name, options)


def _check_group(description: ClassDescription, group: str | None) -> None:
    if group and group not in description.groups and not description.open_methods:
        raise ValueError(
            f"Actor class {description.class_name} has no concurrency group {group!r}; it has "
            f"{sorted(description.groups) or 'none'}."
        )


def _rebuild_method(handle, name, options):
    return ActorMethod(handle._hold, name, options)


def _engine_method_options(hold: "_Hold", name: str, options: dict) -> dict:
    from ._signature import check_from_table

    description = hold.description
    row = description.methods.get(name)
    num_returns = options.get("num_returns")
    if num_returns is None:
        num_returns = "streaming" if row is not None and row.is_generator else 1
    retries = options.get("max_task_retries")
    retry = options.get("retry_exceptions", False)
    backpressure = options.get("_generator_backpressure_num_objects")
    return {
        "num_returns": num_returns,
        "max_task_retries": description.max_task_retries if retries is None else retries,
        "retry_exceptions": retry if isinstance(retry, bool) else list(retry),
        "concurrency_group": options.get("concurrency_group") or "",
        "out_of_order": description.out_of_order,
        "name": options.get("name") or f"{description.class_name}.{name}",
        "generator_backpressure": backpressure if backpressure and backpressure > 0 else 0,
        "max_pending_calls": max(description.max_pending_calls, 0),
        "enable_task_events": options.get("enable_task_events", True),
        "signature": check_from_table(row.parameters) if row is not None else None,
        "weak": hold.weak,
        "blob": "cpp:" if description.open_methods else "",
    }


class _Hold:
    """One count on an actor, shared by a handle and its methods, given back when the last of them
    is gone. A weak one counts nothing: the actor may end meanwhile.
    """

    __slots__ = ("binary", "description", "generation", "blob", "weak", "__weakref__")

    def __init__(
        self,
        binary: bytes,
        description: ClassDescription,
        blob: bytes,
        retain: bool = True,
        weak: bool = False,
    ):
        self.binary = binary
        self.description = description
        self.blob = blob
        self.generation = state.generation
        self.weak = weak
        if retain and not weak:
            _core.actor_retain(binary)

    def another(self) -> "_Hold":
        """A further count on the same actor."""
        return _Hold(self.binary, self.description, self.blob)

    def __del__(self):
        try:
            if self.generation == state.generation and state.mode is not None and not self.weak:
                _core.actor_release(self.binary)
        except Exception:  # the interpreter is ending
            pass


class ActorHandle:
    """Reference to an actor. Its methods are attributes; it can be passed to tasks and stored in
    objects.

    The actor ends when no handle to it is left anywhere, unless it is detached. Handles from
    `get_actor`, ``get_if_exists`` and ``current_actor`` do not count, nor do copies of them.
    """

    def __init__(self, hold: _Hold):
        self.__dict__["_hold"] = hold

    def __getattr__(self, name):
        hold = self.__dict__["_hold"]
        row = hold.description.methods.get(name)
        if row is None and not hold.description.any_method(name):
            raise AttributeError(f"'ActorHandle' object has no attribute '{name}'")
        actor_method = ActorMethod(hold, name, row.options if row is not None else {})
        self.__dict__[name] = actor_method
        return actor_method

    @property
    def _actor_id(self) -> ActorID:
        return ActorID(self._hold.binary)

    _ray_actor_id = _actor_id

    @property
    def _class_name(self) -> str:
        return self._hold.description.class_name

    def __dir__(self):
        return sorted({*self._hold.description.methods, "__init__"})

    def __repr__(self):
        return f"Actor({self._hold.description.class_name}, {self._hold.binary.hex()})"

    def __hash__(self):
        return hash(self._hold.binary)

    def __eq__(self, other):
        return isinstance(other, ActorHandle) and other._hold.binary == self._hold.binary

    def __reduce__(self):
        # Out of the engine's sight, in the pickle of a function or of the user's own: nothing keeps
        # the actor until it is unpickled.
        hold = self._hold
        return _received_handle, (hold.binary, hold.blob, None, hold.weak)


def reduce_in_value(handle: ActorHandle):
    """How a handle is pickled in an argument, result or stored object: it keeps its actor on the
    way, unless it is weak.
    """
    from ._handle_keeper import token_for

    hold = handle._hold
    token = None if hold.weak else token_for(hold)
    return _received_handle, (hold.binary, hold.blob, token, hold.weak)


def _received_handle(binary: bytes, blob: bytes, token, weak: bool) -> ActorHandle:
    # The token has done its work once this process has its own count.
    return handle_from_blob(binary, blob, weak=weak)


def handle_from_blob(
    binary: bytes, blob: bytes, retain: bool = True, weak: bool = False
) -> ActorHandle:
    """A handle from what `ActorHandle` pickles to and what the cluster keeps for named actors.

    ``retain``: take a count of its own; False when the caller hands one over.
    ``weak``: have no count; the actor ends when nobody else has one.
    """
    ensure_connected()
    binary, blob = bytes(binary), bytes(blob)
    return ActorHandle(_Hold(binary, ClassDescription.from_blob(blob), blob, retain, weak))


class ActorClass:
    """A class whose instances run in workers of their own: ``Class.remote(...)`` makes one, gives
    its handle.

    Made by `sheaf.remote`, never directly.
    """

    def __init__(self, name, bases=None, attr=None):
        if bases is not None or attr is not None:
            parents = [base for base in bases or () if isinstance(base, ActorClass)]
            parent = parents[0].__name__ if parents else "an actor class"
            raise ActorClassInheritanceException(
                f"'{name}' cannot be a subclass of the actor class '{parent}'. Inheriting from actor "
                "classes is not currently supported. Derive from the plain class and make the "
                "derived class an actor class."
            )
        raise TypeError("Actor classes are made by the remote() decorator.")

    @classmethod
    def _from_class(cls, user_class: type, options: dict) -> "ActorClass":
        _options.check_actor(options)
        self = cls.__new__(cls)
        self.__dict__.update(
            __ray_actor_class__=user_class,
            _options=options,
            __name__=user_class.__name__,
            __qualname__=user_class.__qualname__,
            __module__=user_class.__module__,
            __doc__=user_class.__doc__,
        )
        return self

    @property
    def __ray_metadata__(self):
        """What programs written for Ray ask of a class: ``class_name``, ``modified_class``,
        ``module``.
        """
        import types

        user_class = self.__dict__["__ray_actor_class__"]
        return types.SimpleNamespace(
            class_name=user_class.__qualname__.rpartition(".")[2],
            modified_class=user_class,
            module=user_class.__module__,
        )

    def __call__(self, *args, **kwargs):
        raise TypeError(
            f"Actors cannot be instantiated directly. Instead of '{self.__name__}()', use "
            f"'{self.__name__}.remote()'."
        )

    def __getattr__(self, name):
        if name.startswith("__") or "__ray_actor_class__" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["__ray_actor_class__"], name)

    def __dir__(self):
        methods = (name for name in dir(self.__ray_actor_class__) if not name.startswith("_"))
        return sorted({*methods, "remote", "options", "bind", *super().__dir__()})

    def remote(self, *args, **kwargs) -> ActorHandle:
        """Starts an actor; its constructor gets these arguments. Does not wait for it.

        Raises: TypeError for arguments that the constructor does not take or that cannot be
        pickled, ActorAlreadyExistsError (a ValueError) when the name is taken.
        """
        return create(self, self._options, args, kwargs)

    def options(self, **changes) -> "_ConfiguredActorClass":
        """The same class with other options, for ``.remote()``.

        Args: as for `sheaf.remote`, except ``concurrency_groups``.

        Example::

            counter = Counter.options(name="counter", lifetime="detached").remote()
        """
        _options.check_actor(
            {**self._options, **changes} if changes.get("get_if_exists") else changes,
            in_options=False,
        )
        if "concurrency_groups" in changes:
            raise ValueError("Setting 'concurrency_groups' is not supported in '.options()'.")
        return _ConfiguredActorClass(self, _options.merge(self._options, changes))

    def _remote(self, args=None, kwargs=None, **changes) -> ActorHandle:
        """Starts an actor with options given at the call."""
        options = self.options(**changes)._options if changes else self._options
        return create(self, options, tuple(args or ()), kwargs or {})

    def bind(self, *args, **kwargs):
        """A new actor as a node of a graph; each execution makes one (`sheaf.dag`)."""
        from .dag import ClassNode

        return ClassNode(self, args, kwargs)

    def __reduce__(self):
        return _rebuild_class, (self.__dict__["__ray_actor_class__"], self._options)

    def __repr__(self):
        return f"<sheaf.ActorClass({self.__name__})>"


def _rebuild_class(user_class, options):
    return ActorClass._from_class(user_class, options)


class _ConfiguredActorClass:
    """An actor class with other options: has only ``remote``."""

    def __init__(self, actor_class: ActorClass, options: dict):
        self._actor_class = actor_class
        self._options = options

    def remote(self, *args, **kwargs) -> ActorHandle:
        """Starts an actor with these options."""
        return create(self._actor_class, self._options, args, kwargs)

    def options(self, **changes) -> "_ConfiguredActorClass":
        """Further changes of options."""
        base = ActorClass._from_class(
            self._actor_class.__dict__["__ray_actor_class__"], self._options
        )
        return _ConfiguredActorClass(self._actor_class, base.options(**changes)._options)

    def bind(self, *args, **kwargs):
        """A new actor as a node of a graph; each execution makes one (`sheaf.dag`)."""
        from .dag import ClassNode

        return ClassNode(self, args, kwargs)


def create(actor_class: ActorClass, options: dict, args: tuple, kwargs: dict) -> ActorHandle:
    """Starts an actor of ``actor_class`` with these checked options."""
    ensure_connected()
    user_class = actor_class.__dict__["__ray_actor_class__"]
    description = describe(user_class)
    if description.init_check is not None:
        description.init_check[2](args, kwargs)
    name_space = _checked_name_space(options)
    if options.get("get_if_exists"):
        existing = lookup(options["name"], name_space)
        if existing is not None:
            return existing
    spec, blob = actor_spec(options, description, name_space)
    if state.local_mode:
        from . import _local_mode

        actor_id, existing_blob = _local_mode.create_actor(user_class, spec, args, kwargs)
        return handle_from_blob(actor_id, existing_blob or blob, weak=True)
    class_id = export_class(user_class)
    actor_id, existing_blob = _core.create_actor(class_id, spec, args, kwargs)
    if existing_blob is not None:
        found = handle_from_blob(actor_id, existing_blob, weak=True)
        _core.actor_release(bytes(actor_id))  # the engine has taken a count
        return found
    hold = _Hold(bytes(actor_id), ClassDescription.from_blob(blob), blob, retain=False)
    return ActorHandle(hold)


def _checked_name_space(options: dict) -> str:
    if options.get("name") == "":
        raise ValueError("Actor name cannot be an empty string: leave it out, or give one.")
    if options.get("namespace") is None:
        return state.namespace
    from ._cluster import check_namespace

    check_namespace(options["namespace"])
    return options["namespace"]


def lookup(name: str, name_space: str) -> ActorHandle | None:
    """A weak handle of the actor of that name; None when there is none."""
    if state.local_mode:
        from . import _local_mode

        found = _local_mode.lookup(name, name_space)
        return found and handle_from_blob(*found, weak=True)
    try:
        actor_id, blob = _core.lookup_actor(name, name_space)
    except (ValueError, KeyError):
        return None
    return handle_from_blob(actor_id, blob, weak=True)


def actor_spec(options: dict, description: ClassDescription, name_space: str) -> tuple[dict, bytes]:
    """``(the engine's form, the handle's bytes)`` of a new actor with these checked options."""
    from ._runtime_env import prepare_json
    from .util.scheduling_strategies import strategy_dict

    resources, creation = actor_resources(options)
    needed = {**creation, **resources}  # a bundle of its placement group has to have both
    concurrency = options.get("max_concurrency")
    restarts = options.get("max_restarts") or 0
    retries = options.get("max_task_retries") or 0
    pending = options.get("max_pending_calls")
    groups = _options.concurrency_groups(options.get("concurrency_groups"))
    blob = description.to_blob(
        max_task_retries=retries,
        max_pending_calls=-1 if pending is None else pending,
        groups=tuple(groups),
        out_of_order=_may_be_overtaken(options, description),
    )
    fixed = ClassDescription.from_blob(blob)
    for row in description.methods.values():
        _check_group(fixed, row.options.get("concurrency_group"))
    spec = {
        "name": options.get("name") or "",
        "name_space": name_space,
        "class_name": description.class_name,
        "detached": options.get("lifetime") == "detached",
        "get_if_exists": bool(options.get("get_if_exists")),
        "placement": {
            "resources": resources,
            "strategy": _captured_strategy(options) or strategy_dict(options, needed, description.class_name),
            "runtime_env": prepare_json(options.get("runtime_env")),
            "language": "python",
        },
        "creation_resources": creation,
        "max_restarts": restarts,
        "max_task_retries": retries,
        "max_concurrency": concurrency or (ASYNC_MAX_CONCURRENCY if description.is_async else 1),
        "is_async": description.is_async,
        "out_of_order": fixed.out_of_order,
        "concurrency_groups": groups,
        "handle": blob,
        "enable_task_events": options.get("enable_task_events", True),
    }
    return spec, blob


def _may_be_overtaken(options: dict, description: ClassDescription) -> bool:
    # Calls that run at the same time have no order, so none waits for another's arguments.
    concurrent = description.is_async or (options.get("max_concurrency") or 1) > 1
    wanted = options.get("allow_out_of_order_execution")
    if concurrent and wanted is False:
        kind = "async" if description.is_async else "multi-threaded"
        raise ValueError(
            f"The calls of {kind} actors cannot be kept in order: allow_out_of_order_execution "
            "must not be False for them."
        )
    return concurrent if wanted is None else bool(wanted)


def _captured_strategy(options: dict) -> dict | None:
    from . import remote_function

    if not remote_function._capture_in_use or remote_function.places_itself(options):
        return None
    from .util.placement_group import capturing_group

    group = capturing_group()
    if group is None:
        return None
    return {"kind": 4, "group": group, "bundle": -1, "capture_child_tasks": True}


def actor_resources(options: dict) -> tuple[dict[str, float], dict[str, float]]:
    """``(held while it lives, needed beyond that to place it)``.

    An actor that names no resource (memory aside) is placed by one CPU and then holds none; one
    that names any holds them all, and one CPU unless ``num_cpus`` says otherwise.
    """
    named = any(
        options.get(name) is not None for name in ("num_cpus", "num_gpus", "accelerator_type")
    )
    named = named or bool(options.get("resources"))
    resources = _options.resource_map(options, 1 if named else 0)
    return resources, ({} if named else {"CPU": 1.0})


def exit_actor() -> None:
    """Ends the actor that runs the calling method, after what it has already started; callers see
    no restart.

    Raises: TypeError outside of an actor. Does not return.
    """
    task = _core.current_task() if state.mode == "worker" else None
    if not task or not any(task.get("actor_id") or b""):
        raise TypeError(
            "exit_actor API is called on a non-actor worker: call it in a method of an actor."
        )
    _core.actor_exit("exit_actor() was called.")
    if _in_coroutine():
        from .exceptions import AsyncioActorExit

        raise AsyncioActorExit()
    raise SystemExit(0)


def _in_coroutine() -> bool:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False
