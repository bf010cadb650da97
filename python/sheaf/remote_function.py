"""Remote functions: what ``@remote`` makes of a function."""

from __future__ import annotations

import weakref

from . import _core, _options
from ._state import ensure_connected, state

_DEFAULT_MAX_RETRIES = 3

# Objects whose `remote` attribute is the engine's own bound call; they go the slow way once tasks
# of this process are to be captured by a placement group.
_fast_functions: "weakref.WeakSet[RemoteFunction]" = weakref.WeakSet()
_capture_in_use = False


class RemoteFunction:
    """A function that runs in a worker when called as ``f.remote(...)``.

    Made by `sheaf.remote`, never directly. ``f.options(...)`` gives the same function with other
    options; the original function stands in ``f._function``.
    """

    def __init__(self, function, options: dict):
        _options.check_task(options)
        _options.check_generator(options, function)
        self._function = function
        self._options = options
        self._function_name = (
            f"{function.__module__}.{getattr(function, '__qualname__', repr(function))}"
        )
        self._generation = -1
        self._function_id = b""
        self._bound = None
        self.__doc__ = getattr(function, "__doc__", None)

    def __call__(self, *args, **kwargs):
        raise TypeError(
            "Remote functions cannot be called directly. Instead of running "
            f"'{self._function_name}()', try '{self._function_name}.remote()'."
        )

    def __getattr__(self, name):
        # `remote` becomes an instance attribute at the first call: the engine's own bound call,
        # found without a Python frame in between.
        if name == "remote":
            return self._first_remote
        if (
            name in ("__name__", "__qualname__", "__wrapped__", "__module__")
            and "_function" in self.__dict__
        ):
            return getattr(self._function, name) if name != "__wrapped__" else self._function
        raise AttributeError(f"'RemoteFunction' object has no attribute '{name}'")

    def _first_remote(self, *args, **kwargs):
        return self._bind()(*args, **kwargs)

    def _bind(self):
        """The call for the present connection; exports the function when this connection has not
        seen it.
        """
        ensure_connected()
        if state.local_mode:
            from ._local_mode import LocalTask

            return LocalTask(self._function, self._options).remote
        if self._bound is None or self._generation != state.generation:
            if self._generation != state.generation:
                self._function_id = export_function(self._function, self._function_name)
            self._bound = make_bound_task(
                self._function_id, self._function, self._function_name, self._options
            )
            self._generation = state.generation
            if not needs_python(self._options):
                self.remote = self._bound.remote
                _fast_functions.add(self)
                return self.remote
        return lambda *args, **kwargs: self._remote(args, kwargs)

    def _remote(self, args=(), kwargs=None, **options):
        """Calls with options given at the call; the slow way of
        ``f.options(**options).remote(*args, **kwargs)``.
        """
        if options:
            return self.options(**options).remote(*args, **(kwargs or {}))
        if state.local_mode:
            return self._bind()(*args, **(kwargs or {}))
        if self._bound is None or self._generation != state.generation:
            self._bind()
        bound = self._bound
        if _capture_in_use and not places_itself(self._options):
            bound = captured_bound(self) or bound
        return bound.remote(*args, **(kwargs or {}))

    def options(self, **changes) -> "RemoteFunction":
        """The same function with other options.

        Args: as for `sheaf.remote`, except ``max_calls``.
        Raises: ValueError or TypeError that names the option.

        Example::

            ref = f.options(num_cpus=2, name="heavy").remote(1)
        """
        _options.check_task(changes, in_options=True)
        _options.check_generator(changes, self._function)
        other = RemoteFunction.__new__(RemoteFunction)
        other.__dict__.update(
            _function=self._function,
            _options=_options.merge(self._options, changes),
            _function_name=self._function_name,
            _generation=self._generation,
            _function_id=self._function_id,
            _bound=None,
            __doc__=self.__doc__,
        )
        if self._generation == state.generation and self._function_id:
            other._bound = make_bound_task(
                self._function_id, self._function, self._function_name, other._options
            )
            if not needs_python(other._options):
                other.remote = other._bound.remote
                _fast_functions.add(other)
        return other

    def bind(self, *args, **kwargs):
        """The call with these arguments as a node of a graph, to be executed later (`sheaf.dag`)."""
        from .dag import FunctionNode

        return FunctionNode(self, args, kwargs)

    def __reduce__(self):
        return _rebuild_function, (self._function, self._options)

    def __repr__(self):
        return f"<sheaf.RemoteFunction {self._function_name}>"


def _rebuild_function(function, options):
    return RemoteFunction(function, options)


def export_function(function, name: str) -> bytes:
    """Stores the function with the cluster and returns its 16-byte id."""
    from ._export import export

    return export(function, "function", name)


def needs_python(options: dict) -> bool:
    """Whether each call must look at its surroundings before it is submitted."""
    return _capture_in_use and not places_itself(options)


def places_itself(options: dict) -> bool:
    """Whether the options say where to run, so that a surrounding placement group does not
    matter.
    """
    return (
        options.get("scheduling_strategy") is not None
        or options.get("placement_group", "default") != "default"
    )


def start_capture() -> None:
    """From now on tasks of this process may belong to the placement group of the task that submits
    them.
    """
    global _capture_in_use
    if _capture_in_use:
        return
    _capture_in_use = True
    for function in list(_fast_functions):
        if not places_itself(function._options):
            function.__dict__.pop("remote", None)


def captured_bound(function: RemoteFunction):
    """The call placed inside the placement group that captures the children of the running task, or
    None.
    """
    from .util.placement_group import capturing_group

    group = capturing_group()
    if group is None:
        return None
    cache = function.__dict__.setdefault("_captured", {})
    key = (state.generation, group)
    if key not in cache:
        cache.clear()
        cache[key] = _placed_in(function, group)
    return cache[key]


def _placed_in(function: RemoteFunction, group: bytes):
    from .util.placement_group import PlacementGroup
    from .util.scheduling_strategies import PlacementGroupSchedulingStrategy

    placed = dict(function._options)
    placed["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
        PlacementGroup.from_binary(group), placement_group_capture_child_tasks=True
    )
    return make_bound_task(
        function._function_id, function._function, function._function_name, placed
    )


def make_bound_task(function_id: bytes, function, name: str, options: dict):
    """The engine's call for one function with one set of options."""
    from ._signature import argument_check, is_generator

    # Of a function inside of another one, its own name: what people look for in `ps` and lists.
    shown = getattr(function, "__qualname__", name).rpartition("<locals>.")[2]
    engine = engine_options(options, shown, is_generator(function), argument_check(function))
    return _core.BoundTask(function_id, engine)


def engine_options(options: dict, name: str, is_generator: bool, check) -> dict:
    """Checked options of a task in the engine's form; ``check`` is what `argument_check` gives."""
    from ._runtime_env import prepare_json
    from .util.scheduling_strategies import strategy_dict

    num_returns = options.get("num_returns")
    if num_returns is None:
        num_returns = "streaming" if is_generator else 1
    max_retries = options.get("max_retries")
    retry = options.get("retry_exceptions", False)
    resources = _options.resource_map(options, 1)
    max_calls = options.get("max_calls")
    if max_calls is None and options.get("num_gpus"):
        max_calls = 1  # libraries keep device memory for as long as their process lives
    return {
        "resources": resources,
        "strategy": strategy_dict(options, resources, name),
        "runtime_env": prepare_json(options.get("runtime_env")),
        "language": "python",
        "num_returns": num_returns,
        "max_retries": _DEFAULT_MAX_RETRIES if max_retries is None else max_retries,
        "retry_exceptions": retry if isinstance(retry, bool) else list(retry),
        "max_calls": max_calls or 0,
        "name": options.get("name") or name,
        "generator_backpressure": _backpressure(options.get("_generator_backpressure_num_objects")),
        "enable_task_events": options.get("enable_task_events", True),
        "signature": check,
    }


def _backpressure(value) -> int:
    return value if value and value > 0 else 0


def forget_connection() -> None:
    """The engine's bound calls belong to a connection that has ended: the next call looks anew."""
    for function in list(_fast_functions):
        function.__dict__.pop("remote", None)
        function._bound = None
    _fast_functions.clear()
