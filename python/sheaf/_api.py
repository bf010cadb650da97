"""The calls at the top of the package that are not on the hot path, and the decorator."""

from __future__ import annotations

from . import _core, _options
from ._state import ensure_connected, state
from .actor import ActorClass, ActorHandle, lookup
from .remote_function import RemoteFunction

_DECORATOR_TEXT = (
    "The @remote decorator must be applied either with no arguments and no parentheses, for "
    "example '@remote', or "
    "with keyword arguments only, for example '@remote(num_returns=2, "
    'resources={"CustomResource": 1})\'.'
)


def remote(*args, **kwargs):
    """Makes a function a remote function, or a class an actor class.

    Used bare (``@remote``) or with options (``@remote(num_cpus=2)``).

    Args for both (keywords only):
        num_cpus: CPUs needed; default 1 for tasks; actors need 1 to be placed and hold none, unless
            given.
        num_gpus: GPUs needed; fractions below 1 share a device.
        resources: amounts of custom resources, e.g. ``{"licence": 1}``.
        memory: bytes of memory reserved for it.
        accelerator_type: kind of accelerator that the node must have.
        label_selector: conditions on the node's labels: "v", "!v", "in(a,b)", "!in(a,b)".
        scheduling_strategy: "DEFAULT", "SPREAD" or an object of `sheaf.util.scheduling_strategies`.
        runtime_env: environment of its workers (`sheaf.runtime_env.RuntimeEnv`).
        name: what people see; for an actor, also what `get_actor` finds.
    Args for functions:
        num_returns: number of results, or "streaming" for a generator of references.
        max_calls: calls after which a worker is replaced, 0 for never.
        max_retries: runs again after a crash of the worker; default 3, -1 without limit.
        retry_exceptions: True, or the exception types after which it is run again.
    Args for classes:
        max_restarts: restarts after a crash; default 0, -1 without limit.
        max_task_retries: runs of a call again after a crash of the actor.
        max_concurrency: calls at a time: threads, or coroutines of an async actor (default 1000).
        concurrency_groups: ``{name: size}`` of separate limits, see `method`.
        max_pending_calls: unanswered calls of a caller, -1 without limit.
        lifetime: "detached" for an actor that outlives its job.
        namespace, get_if_exists: where its name lives, and whether an actor of that name is taken
            instead.
        allow_out_of_order_execution: whether a call may overtake one that waits for its arguments.

    Raises: ValueError or TypeError that names a wrong option.

    Example::

        @sheaf.remote
        def square(x):
            return x * x

        assert sheaf.get([square.remote(i) for i in range(4)]) == [0, 1, 4, 9]
    """
    if len(args) == 1 and not kwargs and callable(args[0]):
        return _make_remote(args[0], {})
    if args or not kwargs:
        raise AssertionError(_DECORATOR_TEXT)
    unknown = [
        name for name in kwargs if name not in _options.TASK_KEYWORDS + _options.ACTOR_KEYWORDS
    ]
    if unknown:
        what = "remote functions" if unknown[0] not in _options.ACTOR_KEYWORDS else "actors"
        raise ValueError(f"Invalid option keyword {unknown[0]} for {what}.")
    _check_decorator_options(kwargs)
    return lambda target: _make_remote(target, kwargs)


def _check_decorator_options(options: dict) -> None:
    # Whether it will decorate a function or a class is not known yet: wrong values are wrong for
    # both.
    for name in options:
        checker = _options.check_task if name in _options.TASK_KEYWORDS else _options.check_actor
        if name not in ("get_if_exists",):
            checker({name: options[name]})


def _make_remote(target, options: dict):
    if isinstance(target, type):
        return ActorClass._from_class(target, options)
    import inspect

    if inspect.isfunction(target) or type(target).__name__ == "cython_function_or_method":
        return RemoteFunction(target, options)
    raise TypeError("The @remote decorator must be applied to either a function or a class.")


def cancel(ray_waitable, *, force: bool = False, recursive: bool = True) -> None:
    """Cancels the task that makes an object; a finished task is left alone.

    Args:
        ray_waitable: the ObjectRef or ObjectRefGenerator of the task.
        force: kill the worker instead of interrupting the task; not for actor methods (ValueError).
        recursive: cancel the tasks that it has submitted, too.

    `get` on the reference then raises TaskCancelledError. Any process that has the reference may
    cancel its task; where another one submitted it, that one is asked to, which takes a moment.
    Raises: TypeError for anything else than a reference.
    """
    if not isinstance(ray_waitable, (_core.ObjectRef, _core.ObjectRefGenerator)):
        raise TypeError(
            "cancel() only supported for object refs. For actors, try kill(). Got: "
            f"{type(ray_waitable)}."
        )
    _core.cancel(ray_waitable, force, recursive)


def kill(actor: ActorHandle, *, no_restart: bool = True) -> None:
    """Kills an actor at once; calls that it has not finished raise RayActorError.

    Args:
        actor: its handle; anything else raises ValueError.
        no_restart: False: it is restarted if its ``max_restarts`` permits.
    """
    if not isinstance(actor, ActorHandle):
        raise ValueError(
            f"kill() only supported for actors. For tasks, try cancel(). Got: {type(actor)}."
        )
    if actor._hold.generation != state.generation:
        from .exceptions import ActorHandleNotFoundError

        raise ActorHandleNotFoundError(
            "ActorHandle objects are not valid across Ray sessions: this one was made before the "
            "last shutdown()."
        )
    if state.local_mode:
        from ._local_mode import kill as kill_here

        return kill_here(actor._hold.binary)
    _core.kill_actor(actor._hold.binary, no_restart)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """Handle of a named actor. It does not keep the actor: one that is not detached ends with the
    last handle that its creator has, or has passed on.

    Args:
        name: its name.
        namespace: where it was made; default: the namespace of this job.

    Raises: ValueError when there is none, TypeError for a name that is no str.
    """
    if not name:
        raise ValueError("Please supply a non-empty value to get_actor")
    if not isinstance(name, str):
        raise TypeError(f"The name of an actor is a str, not {type(name)}")
    if namespace is not None:
        from ._cluster import check_namespace

        check_namespace(namespace)
    ensure_connected()
    found = lookup(name, namespace or state.namespace)
    if found is None:
        raise ValueError(
            f"Failed to look up actor with name '{name}'. You may have named an actor that was not "
            "created or has died, or its namespace is another one."
        )
    return found


def nodes() -> list[dict]:
    """The nodes of the cluster, one dict each: NodeID, Alive, NodeManagerHostname, Resources,
    Labels, ...
    """
    rows, _ = query("nodes")
    return [_node_row(row) for row in rows]


def _node_row(row: dict) -> dict:
    alive = row.get("state", "ALIVE") == "ALIVE"
    name = row.get("node_name") or row.get("hostname") or ""
    return {
        "NodeID": row.get("node_id", ""),
        "Alive": alive,
        "alive": alive,
        "NodeManagerAddress": row.get("node_ip") or "127.0.0.1",
        "NodeManagerHostname": row.get("hostname") or name,
        "NodeManagerPort": 0,
        "ObjectManagerPort": 0,
        "ObjectStoreSocketName": row.get("socket", ""),
        "RayletSocketName": row.get("socket", ""),
        "MetricsExportPort": -1,
        "NodeName": name,
        "Resources": row.get("resources_total", {}) if alive else {},
        "Labels": row.get("labels", {}),
    }


def cluster_resources() -> dict[str, float]:
    """Total amount of each resource of the cluster; CPUs and GPUs in units, memory in bytes."""
    return _amounts("cluster_resources")


def available_resources() -> dict[str, float]:
    """Amount of each resource that is free now; a resource that is wholly in use is absent."""
    return {name: amount for name, amount in _amounts("available_resources").items() if amount > 0}


def _amounts(what: str) -> dict[str, float]:
    rows, _ = query(what)
    return {name: float(amount) for name, amount in rows.items()}


def query(what: str, filters: dict | None = None, limit: int = 10000):
    """``(parsed JSON, truncated)`` of one question to the cluster's state."""
    import json

    ensure_connected()
    text, truncated = _core.state_query(what, filters or {}, limit)
    return json.loads(text), truncated


def get_gpu_ids() -> list:
    """Numbers of the GPUs that the running task or actor holds; in a driver, those of
    CUDA_VISIBLE_DEVICES.
    """
    import os

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [part.strip() for part in visible.split(",") if part.strip()] if visible else None
    if state.mode == "worker":
        task = _core.current_task() or {}
        indices = list((task.get("devices") or {}).get("GPU", ()))
        if names and len(names) == len(indices):
            return [int(name) if name.isdigit() else name for name in names]
        return indices
    return [int(name) if name.isdigit() else name for name in names or ()]


def timeline(filename: str | None = None):
    """What ran where and when, as events for chrome://tracing or Perfetto.

    Args:
        filename: JSON file to write; None: the events are returned as a list of dicts (times in
            microseconds).
    """
    from ._timeline import events

    ensure_connected()
    found = events()
    if filename is None:
        return found
    import json

    with open(filename, "w", encoding="utf-8") as file:
        json.dump(found, file)
    return None


def java_function(class_name: str, function_name: str):
    """Java is not supported: raises NotImplementedError."""
    raise NotImplementedError("Functions in Java are not supported; Python and C++ are.")


def java_actor_class(class_name: str):
    """Java is not supported: raises NotImplementedError."""
    raise NotImplementedError("Actors in Java are not supported; Python and C++ are.")
