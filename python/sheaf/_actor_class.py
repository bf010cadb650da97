"""What the engine and the handles need to know about an actor class, found once by looking at the
class.
"""

from __future__ import annotations

from ._state import state

_BLOB_MAGIC = b"PYAH\x02"


class MethodRow:
    """One method: its options from `sheaf.method`, its parameters, whether it is a generator or
    async.
    """

    __slots__ = ("options", "parameters", "is_generator", "is_async")

    def __init__(self, options: dict, parameters: tuple | None, is_generator: bool, is_async: bool):
        self.options = options
        self.parameters = parameters
        self.is_generator = is_generator
        self.is_async = is_async

    def as_tuple(self) -> tuple:
        """What the constructor takes."""
        return self.options, self.parameters, self.is_generator, self.is_async


class ClassDescription:
    """Methods and fixed options of an actor, as handles carry them."""

    def __init__(
        self,
        class_name: str,
        methods: dict[str, MethodRow],
        init_check=None,
        max_task_retries: int = 0,
        max_pending_calls: int = -1,
        open_methods: bool = False,
        groups: tuple[str, ...] = (),
        out_of_order: bool = False,
    ):
        self.class_name = class_name
        self.methods = methods
        self.init_check = init_check
        self.is_async = any(row.is_async for row in methods.values())
        self.max_task_retries = max_task_retries
        self.max_pending_calls = max_pending_calls
        self.groups = groups  # concurrency groups beside the default one
        self.out_of_order = out_of_order  # calls may overtake one that waits for its arguments
        self.open_methods = open_methods  # an actor in another language: any name may be a method

    def any_method(self, name: str) -> bool:
        """Whether a name outside of the table may be called."""
        return self.open_methods and not name.startswith("_")

    def to_blob(self, **fixed) -> bytes:
        """The bytes that handles carry and that the cluster keeps for named actors.

        ``fixed``: max_task_retries, max_pending_calls, groups, out_of_order.
        """
        key = tuple(sorted(fixed.items()))
        blobs = self.__dict__.setdefault("_blobs", {})
        if key not in blobs:
            import cloudpickle

            rows = {name: row.as_tuple() for name, row in self.methods.items()}
            data = (self.class_name, rows, fixed)
            blobs[key] = _BLOB_MAGIC + cloudpickle.dumps(data, protocol=5)
        return blobs[key]

    @staticmethod
    def from_blob(blob: bytes) -> "ClassDescription":
        """The description in a handle; a handle of another language permits any method name."""
        known = _descriptions_by_blob.get(blob)
        if known is not None:
            return known
        if blob.startswith(_BLOB_MAGIC):
            import pickle

            class_name, rows, fixed = pickle.loads(blob[len(_BLOB_MAGIC) :])
            description = ClassDescription(
                class_name, {name: MethodRow(*row) for name, row in rows.items()}, **fixed
            )
        else:
            description = ClassDescription(
                blob.decode("utf-8", "replace").removeprefix("cpp:") or "Actor",
                {},
                open_methods=True,
            )
        if len(_descriptions_by_blob) > 1000:
            _descriptions_by_blob.clear()
        _descriptions_by_blob[blob] = description
        return description


_descriptions_by_blob: dict[bytes, ClassDescription] = {}
_descriptions: dict[type, ClassDescription] = {}
_exported: dict[type, tuple[int, bytes]] = {}  # class -> (generation of the connection, id)


def describe(user_class: type) -> ClassDescription:
    """The description of a class, found once."""
    description = _descriptions.get(user_class)
    if description is None:
        description = _look_at(user_class)
        _descriptions[user_class] = description
    return description


def _look_at(user_class: type) -> ClassDescription:
    from ._signature import check_from_table, is_async, is_generator, parameter_table

    methods = {}
    names = dict.fromkeys(name for cls in reversed(user_class.__mro__) for name in vars(cls))
    for name in (*names, "__ray_call__", "__ray_ready__", "__ray_terminate__"):
        owner = next((cls for cls in user_class.__mro__ if name in vars(cls)), None)
        raw = vars(owner)[name] if owner is not None else _BUILTIN_METHODS.get(name)
        if owner is object or name in ("__new__", "__init_subclass__", "__class_getitem__"):
            continue
        function = raw.__func__ if isinstance(raw, (staticmethod, classmethod)) else raw
        if isinstance(function, type) or not _is_function(function):
            continue
        options = getattr(function, "__sheaf_method__", {})
        methods[name] = MethodRow(
            options,
            parameter_table(function, skip_first=not isinstance(raw, staticmethod)),
            is_generator(function),
            is_async(function),
        )
    init = methods.get("__init__")
    table = init.parameters if init is not None else ()
    return ClassDescription(user_class.__name__, methods, check_from_table(table))


def _is_function(value) -> bool:
    kind = type(value).__name__
    return kind in (
        "function",
        "builtin_function_or_method",
        "method_descriptor",
        "cython_function_or_method",
        "partialmethod",
    ) or (callable(value) and hasattr(value, "__wrapped__"))


def ray_call(self, fn, *args, **kwargs):
    """Runs ``fn(actor, *args, **kwargs)`` inside the actor."""
    return fn(self, *args, **kwargs)


def ray_ready(self):
    """True, once the actor's constructor has run."""
    return True


def ray_terminate(self):
    """Ends the actor after the calls before this one."""
    from .actor import exit_actor

    exit_actor()


_BUILTIN_METHODS = {
    "__ray_call__": ray_call,
    "__ray_ready__": ray_ready,
    "__ray_terminate__": ray_terminate,
}


def export_class(user_class: type) -> bytes:
    """Stores the class with the cluster and returns its 16-byte id."""
    known = _exported.get(user_class)
    if known is not None and known[0] == state.generation:
        return known[1]
    from ._export import export

    class_id = export(instance_class(user_class), "actor class", user_class.__qualname__)
    _exported[user_class] = (state.generation, class_id)
    return class_id


def instance_class(user_class: type) -> type:
    """The class that workers instantiate: the user's, plus the calls that every actor answers."""
    members = {
        **_BUILTIN_METHODS,
        "__module__": user_class.__module__,
        "__qualname__": user_class.__qualname__,
        "__doc__": user_class.__doc__,
        "__sheaf_user_class__": user_class,
    }
    members = {
        k: v for k, v in members.items() if k not in _BUILTIN_METHODS or not hasattr(user_class, k)
    }
    from ._signature import is_async

    if is_async(user_class.__init__):
        members["__init__"] = _run_constructor
    return type(user_class)(user_class.__name__, (user_class,), members)


def _run_constructor(self, *args, **kwargs):
    # The first thing that the actor's event loop runs, before any call.
    from . import _worker

    coroutine = self.__sheaf_user_class__.__init__(self, *args, **kwargs)
    _worker._loop.run_until_complete(coroutine)
