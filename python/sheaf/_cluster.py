"""Joining and leaving a cluster: `init`, `shutdown` and what they return."""

from __future__ import annotations

import atexit
import os
import sys

from . import _core, _daemon
from ._state import state

_FLUSH_TIMEOUT_S = 0.5
_NODE_ARGUMENTS = ("num_cpus", "num_gpus", "resources", "labels", "object_store_memory")
_CLUSTER_ARGUMENTS = (*_NODE_ARGUMENTS, "_system_config")
# Private parameters that programs written for Ray pass; they have no meaning here.
_IGNORED_PRIVATE = {
    "_enable_object_reconstruction",
    "_redis_max_memory",
    "_plasma_directory",
    "_node_ip_address",
    "_driver_object_store_memory",
    "_memory",
    "_redis_username",
    "_redis_password",
    "_temp_dir",
    "_metrics_export_port",
    "_tracing_startup_hook",
    "_node_name",
    "_object_spilling_directory",
    "_labels",
    "_cluster_id",
    "_skip_env_hook",
    "_fake_cluster",
    "_raylet_ip_address",
    "_global_gc",
}


class SheafContext(dict):
    """What `init` returns: facts about the connection. Usable in a ``with`` block, which ends the
    connection.

    Attributes: ``address_info`` (a dict), ``dashboard_url`` (""), ``python_version``, ``version``.
    """

    def __init__(self, address_info: dict):
        super().__init__(address_info)
        self.address_info = dict(address_info)
        self.dashboard_url = ""
        self.python_version = "{}.{}.{}".format(*sys.version_info[:3])
        from ._version import __version__

        self.version = __version__
        self.ray_version = __version__
        self.ray_commit = ""

    def disconnect(self) -> None:
        """Ends the connection; the same as `sheaf.shutdown`."""
        shutdown()

    def __enter__(self) -> "SheafContext":
        return self

    def __exit__(self, *_) -> None:
        shutdown()

    def __repr__(self) -> str:
        session_dir = self.address_info.get("session_dir")
        return f"SheafContext(session_dir={session_dir!r}, version={self.version!r})"


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: dict | None = None,
    labels: dict | None = None,
    object_store_memory: int | None = None,
    local_mode: bool = False,
    ignore_reinit_error: bool = False,
    include_dashboard: bool | None = None,
    dashboard_host: str = "127.0.0.1",
    dashboard_port: int | None = None,
    job_config=None,
    configure_logging: bool = True,
    logging_level="info",
    logging_format: str | None = None,
    logging_config=None,
    log_to_driver: bool | None = None,
    namespace: str | None = None,
    runtime_env=None,
    enable_resource_isolation: bool = False,
    cgroup_path: str | None = None,
    system_reserved_cpu: float | None = None,
    system_reserved_memory: int | None = None,
    proxy_server_url: str | None = None,
    **kwargs,
) -> SheafContext:
    """Joins a cluster, or starts one on this machine that ends with this process.

    Args:
        address: None (what SHEAF_ADDRESS or RAY_ADDRESS says, else a new cluster; as `ray`, by
            `sheaf.as_ray`, first the newest one of ``sheaf start`` here, unless the arguments say
            what a node shall have), "local" (a new cluster), "auto" (the newest one of this user
            on this machine), or a session directory
            or its socket.
        num_cpus: CPUs that tasks may use; default: those that this process may run on.
        num_gpus: GPUs that tasks may use; default: those that are visible.
        resources: further resources by name, in units.
        labels: labels of the node, for label selectors.
        object_store_memory: size of the object store in bytes.
        local_mode: run tasks and actors in this process, each call before ``remote()`` returns: for
            debuggers.
        ignore_reinit_error: whether a second call is permitted (it changes nothing).
        log_to_driver: whether the output of workers is shown here; default True.
        namespace: where this job's named actors live; default: one of its own.
        runtime_env: environment of all workers of this job (`sheaf.runtime_env.RuntimeEnv`).
        _system_config: settings of the cluster by name; an unknown name is an error.
        logging_level: least severity that the engine itself reports ("debug", "info", "warning",
            "error").

    The other parameters are accepted because programs written for Ray pass them; they change
    nothing.

    Raises: RuntimeError when called twice or when the daemon cannot start, ConnectionError when
    nobody serves at ``address``, ValueError or TypeError for wrong arguments.

    Example::

        with sheaf.init(num_cpus=2):
            print(sheaf.cluster_resources())
    """
    return _init(dict(locals()))


def _init(given: dict) -> SheafContext:
    if state.mode is not None:
        if given["ignore_reinit_error"] or state.mode == "worker":
            return state.context or SheafContext(_address_info())
        raise RuntimeError(
            "Maybe you called init twice by accident? Pass 'ignore_reinit_error=True' or call "
            "'shutdown()' first."
        )
    asked = given["kwargs"].get("_system_config")
    config = _system_config(given["kwargs"])
    level = _log_level(given["logging_level"])
    if level != "info":
        config.setdefault("log.level", level)
    amounts = [given[name] for name in _NODE_ARGUMENTS]
    namespace, runtime_env = given["namespace"], given["runtime_env"]
    _check_arguments(*amounts, namespace, runtime_env)
    where = _resolve(given["address"])
    if where is None and given["address"] is None and not any(a is not None for a in amounts):
        where = _started_cluster()
    with state.lock:
        if where is None:
            _start_embedded(node_arguments(*amounts, config))
        else:
            _refuse_node_arguments(*amounts, asked)
            _connect(where, "driver")
        shown = given["log_to_driver"]
        if shown is None:
            shown = os.environ.get("RAY_LOG_TO_DRIVER", "1").lower() not in ("0", "false")
        _register(namespace, runtime_env, bool(shown), given["job_config"])
        state.local_mode = bool(given["local_mode"])
    atexit.register(shutdown)
    return state.context


def auto_init() -> None:
    """Joins or starts a cluster because the API was used without `init`."""
    with state.lock:
        if state.mode is None:
            if (
                os.environ.get("SHEAF_WORKER_PROCESS")
                or os.environ.get("RAY_ENABLE_AUTO_CONNECT") == "0"
            ):
                raise RuntimeError(
                    "sheaf is not initialised in this process; call sheaf.init() first."
                )
            init()


def connect_tool(address: str | None = None) -> None:
    """Connects the command line: no job, no workers. Raises ConnectionError when nothing runs."""
    if state.mode is None:
        where = _resolve(address or "auto")
        _connect(where, "tool")
        state.namespace = ""


def shutdown(_exiting_interpreter: bool = False, wait_for_processes: bool = True) -> None:
    """Leaves the cluster; ends it when `init` started it. Does nothing when not connected.

    Args:
        wait_for_processes: whether to return only when the daemon of an own cluster is gone.
    """
    if state.mode is None or state.pid != os.getpid():
        return
    if state.mode == "worker":
        return
    with state.lock:
        daemon, state.daemon = state.daemon, None
        if daemon is None or not daemon.wait(0):
            _flush_before_leaving()
        state.mode = None
        asynchronous = sys.modules.get("sheaf._async")
        if asynchronous is not None:
            asynchronous.forget_connection()
        if state.local_mode:
            from . import _local_mode

            state.local_mode = False
            _local_mode.end()
        state.generation += 1
        from . import remote_function

        remote_function.forget_connection()
        try:
            _core.shutdown()
        finally:
            state.session, state.context, state.runtime_env = {}, None, {}
            state.job_id = 0
            if daemon is not None:
                if wait_for_processes:
                    daemon.stop()
                else:
                    daemon.stop(0.0)
            from . import _logs

            _logs.stop()


def is_initialized() -> bool:
    """Whether this process is connected to a cluster."""
    return state.mode is not None


def node_arguments(
    num_cpus=None, num_gpus=None, resources=None, labels=None, object_store_memory=None, config=None
) -> list[str]:
    """The daemon's command line for a node with these amounts."""
    arguments = []
    if num_cpus is not None:
        arguments += ["--num-cpus", f"{num_cpus:g}"]
    if num_gpus is not None:
        arguments += ["--num-gpus", f"{num_gpus:g}"]
    if object_store_memory is not None:
        arguments += ["--object-store-memory", str(int(object_store_memory))]
    if resources:
        arguments += ["--resources", _object_text(resources)]
    if labels:
        arguments += ["--labels", _object_text(labels)]
    for name, value in (config or {}).items():
        arguments += ["--config", f"{name}={_config_text(value)}"]
    return arguments


def _object_text(values: dict) -> str:
    # JSON of numbers or texts; its module takes longer to import than the daemon to start.
    try:
        from _json import encode_basestring_ascii as quote
    except ImportError:
        import json

        return json.dumps(values)
    shown = (quote(v) if isinstance(v, str) else repr(float(v)) for v in values.values())
    return "{" + ", ".join(f"{quote(k)}: {v}" for k, v in zip(values, shown)) + "}"


def _config_text(value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _system_config(kwargs: dict) -> dict:
    config = kwargs.pop("_system_config", None) or {}
    unknown = [name for name in kwargs if name not in _IGNORED_PRIVATE]
    if unknown:
        raise RuntimeError(f"Unknown keyword argument(s): {', '.join(sorted(unknown))}")
    if not isinstance(config, dict):
        raise TypeError(f"The _system_config must be a dict, but got {type(config)}")
    # Our settings have a dot in their names; Ray's have none and mean nothing here.
    foreign = [name for name in config if "." not in name]
    if foreign:
        _warn(f"ignored settings of Ray in _system_config: {', '.join(sorted(foreign))}")
    return {name: value for name, value in config.items() if "." in name}


def _log_level(level) -> str:
    if not isinstance(level, str):
        steps = ((40, "error"), (30, "warning"), (20, "info"))
        return next((name for least, name in steps if level >= least), "debug")
    level = level.lower()
    known = {"debug": "debug", "info": "info", "warning": "warning", "warn": "warning"}
    return known.get(level, "error")


def _check_arguments(
    num_cpus, num_gpus, resources, labels, object_store_memory, namespace, runtime_env
) -> None:
    for name, value in (
        ("num_cpus", num_cpus),
        ("num_gpus", num_gpus),
        ("object_store_memory", object_store_memory),
    ):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(
                f"The argument '{name}' of init() must be a number, but got {type(value)}"
            )
        if value < 0:
            raise ValueError(f"The argument '{name}' of init() cannot be negative, but is {value}")
    if resources is not None:
        if not isinstance(resources, dict):
            raise TypeError(
                f"The argument 'resources' of init() must be a dict, but got {type(resources)}"
            )
        from ._options import _resources

        _resources("resources", resources)
    if labels is not None:
        if not isinstance(labels, dict):
            raise TypeError(
                f"The argument 'labels' of init() must be a dict, but got {type(labels)}"
            )
        from ._labels import check_labels

        check_labels(labels)
    if namespace is not None:
        check_namespace(namespace)
    if runtime_env is not None and not isinstance(runtime_env, dict):
        raise TypeError(
            f"The argument 'runtime_env' of init() must be a dict, but got {type(runtime_env)}"
        )


def check_namespace(namespace) -> None:
    """TypeError or ValueError unless ``namespace`` is a non-empty str."""
    if not isinstance(namespace, str):
        raise TypeError(f"namespace must be None or a string, but got {type(namespace)}")
    if not namespace:
        raise ValueError('"" is not a valid namespace. Pass None to not specify a namespace.')


def _refuse_node_arguments(*amounts) -> None:
    given = dict(zip(_CLUSTER_ARGUMENTS, amounts))
    named = [name for name, value in given.items() if value not in (None, {})]
    if named:
        raise ValueError(
            f"When connecting to an existing cluster, {', '.join(named)} must not be provided: its "
            "nodes have them."
        )


def _resolve(address: str | None) -> str | None:
    """The socket to connect to, or None to start a cluster of our own."""
    if address is None:
        address = os.environ.get("SHEAF_ADDRESS") or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        return None
    if address in ("auto", "session"):
        clusters = _daemon.live_clusters()
        if not clusters:
            raise ConnectionError(
                "Could not find any running cluster of this user on this machine: start one by "
                "'sheaf start --head', "
                "or call init() without an address."
            )
        return clusters[0]["socket"]
    for prefix in ("sheaf://", "ray://"):
        address = address.removeprefix(prefix)
    if os.path.isdir(address):
        address = os.path.join(address, "sheafd.sock")
    if not os.path.exists(address):
        raise ConnectionError(
            f"No cluster serves at {address!r}: an address is 'local', 'auto', a session directory "
            "or its socket."
        )
    return address


def _started_cluster() -> str | None:
    """The socket of the newest cluster that `sheaf start` has started here. Programs that were
    written for Ray and name no address mean that one.
    """
    if os.environ.get("SHEAF_AS_RAY") != "1":
        return None
    started = (c for c in _daemon.live_clusters() if not c.get("embedded"))
    return next((cluster["socket"] for cluster in started), None)


def _start_embedded(arguments: list[str]) -> None:
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    warm = ["--python", sys.executable, "--python-path", home]
    state.daemon = _daemon.Daemon(["--embedded", *warm, *arguments])
    try:
        import cloudpickle  # noqa: F401  needed by the first export; read while the daemon starts

        _connect(state.daemon.ready()["socket"], "driver")
    except BaseException:
        daemon, state.daemon = state.daemon, None
        daemon.stop(0.5)
        raise


def _connect(socket_path: str, kind: str) -> None:
    try:
        session = _core.connect(socket_path, kind)
    except (OSError, RuntimeError):
        raise
    except Exception as error:
        raise ConnectionError(f"The cluster at {socket_path} cannot be joined: {error}") from error
    state.session = session
    state.session["socket"] = socket_path
    state.mode = kind
    state.pid = os.getpid()
    state.generation += 1


def _register(namespace, runtime_env, log_to_driver: bool, job_config) -> None:
    try:
        from . import _logs

        prepared, metadata = {}, {}
        if job_config is not None:
            namespace = namespace or getattr(job_config, "ray_namespace", None)
            runtime_env = runtime_env or getattr(job_config, "runtime_env", None)
            metadata = dict(getattr(job_config, "metadata", None) or {})
        if runtime_env is None:
            runtime_env = _runtime_env_from_environment()
        if runtime_env:
            from . import _runtime_env

            prepared = _runtime_env.prepare(runtime_env)
            state.runtime_env = prepared
        if log_to_driver:
            _logs.start()
        job = describe_job(namespace, prepared, metadata, log_to_driver)
        reply = _core.register_job(job)
        state.job_id = reply["job"]
        state.namespace = reply.get("name_space") or job["name_space"]
        state.context = SheafContext(_address_info())
    except BaseException:
        shutdown()
        raise


def _runtime_env_from_environment():
    text = os.environ.get("SHEAF_JOB_RUNTIME_ENV")
    if not text:
        return None
    import json

    return json.loads(text)


def describe_job(namespace, runtime_env: dict, metadata: dict, log_to_driver: bool) -> dict:
    """What workers are told about this driver: its directory, import paths, variables and
    environment.
    """
    if runtime_env or metadata:
        import json
        from ._runtime_env import canonical

        env_text, meta_text = canonical(runtime_env), json.dumps(metadata)
    else:
        env_text, meta_text = "", "{}"
    try:
        cwd = os.getcwd()
    except FileNotFoundError:
        cwd = "/"
    return {
        "name_space": namespace or _anonymous_namespace(),
        "entrypoint": " ".join(getattr(sys, "orig_argv", sys.argv)),
        "cwd": cwd,
        "sys_path": [os.path.abspath(path) if path else cwd for path in sys.path],
        "env": dict(os.environ),
        "runtime_env": env_text,
        "metadata": meta_text,
        "log_to_driver": log_to_driver,
        "python": sys.executable,
    }


def _anonymous_namespace() -> str:
    digits = os.urandom(16).hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _address_info() -> dict:
    from .ids import hex_of

    session = state.session
    address = session.get("socket", "")
    return {
        "node_ip_address": "127.0.0.1",
        "redis_address": None,
        "object_store_address": address,
        "raylet_socket_name": address,
        "webui_url": "",
        "session_dir": session.get("session_dir", ""),
        "metrics_export_port": -1,
        "gcs_address": address,
        "address": session.get("session_dir", ""),
        "dashboard_agent_listen_port": -1,
        "node_id": hex_of(session.get("node_id", "")),
    }


def _flush_before_leaving() -> None:
    # In a thread of its own: a daemon that is stopped or overloaded must not keep the program.
    import threading

    flusher = threading.Thread(target=_flush, name="sheaf-flush", daemon=True)
    try:
        flusher.start()
    except RuntimeError:  # the interpreter is ending: no new threads
        _flush()
        return
    flusher.join(_FLUSH_TIMEOUT_S)


def _flush() -> None:
    try:
        metrics = sys.modules.get("sheaf.util.metrics")
        if metrics is not None:
            metrics.flush()
        if sys.modules.get("sheaf._logs") is not None:
            # The daemon empties the workers' pipes first: what they have printed comes ahead of
            # its answer.
            _core.state_query("logs", {"name": ""}, 1)
    except Exception:  # the daemon is gone
        pass


def _warn(text: str) -> None:
    print(f"sheaf: warning: {text}", file=sys.stderr)
