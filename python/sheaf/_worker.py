"""The Python side of a worker process: what the engine calls back into, and how a worker begins and ends."""

from __future__ import annotations

import _signal as signal  # see _template.py
import _thread
import os
import sys
from _pickle import loads

from . import _core, _state

_EXIT_RUNTIME_ENV = 78  # launchers/worker_spawner.h

_loop = None  # of an async actor
_is_actor = False
_THREADS = "OMP_NUM_THREADS"
_threads: str | None = None  # what this module has put there
_visible_devices: str | None = None  # CUDA_VISIBLE_DEVICES as the driver has it
_as_ray = False


# ---- Called by the engine


def load_function(key: bytes):
    """The function or class with this id, from the cluster's function table."""
    data = _core.kv_get("fn", key, 10.0)
    if data is None:
        from .exceptions import RaySystemError

        raise RaySystemError(f"the cluster has no function {key.hex()}: it was deleted, or never exported")
    found = loads(data)
    if isinstance(found, type):
        global _class
        _class = found
    else:
        _functions[bytes(key)] = found
    return found


# What this process has loaded; names are found when somebody asks, as that means to look at the
# class, which would double what a new actor costs.
_functions: dict = {}
_class: type | None = None  # of its actor


def defined_name(task: dict) -> str | None:
    """Module and name of the function or method that a task of this process runs, None if it is
    not known.
    """
    if task.get("method"):
        return f"{_shown_class(_class)}.{task['method']}" if _class is not None else None
    found = _functions.get(bytes(task.get("function_id") or b""))
    if found is None:
        return None
    module, name = getattr(found, "__module__", ""), getattr(found, "__qualname__", "")
    return f"{module}.{name.rpartition('<locals>.')[2]}"


def _shown_class(cls: type) -> str:
    # The way Ray shows them: where an async class stands, and of others the class alone.
    name = cls.__qualname__ if is_async_class(cls) else cls.__qualname__.rpartition(".")[2]
    return f"{cls.__module__}.{name}"


def load_by_name(text: str):
    """The function or class that ``py:<module>:<qualified name>`` names, for callers in other languages."""
    import functools
    import importlib

    _, module, name = text.split(":", 2)
    found = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    # Behind @remote stands the plain function or class.
    return getattr(found, "_function", None) or getattr(found, "__ray_actor_class__", None) or found


def is_async_class(cls) -> bool:
    """Whether an actor of this class runs an event loop."""
    from ._actor_class import describe

    return isinstance(cls, type) and describe(cls).is_async


def pack_exception(error: BaseException, function_name: str, instance, actor_id) -> bytes:
    """An exception as bytes for the caller."""
    from ._errors import pack_exception as pack

    return pack(error, function_name, _actor_repr(instance), actor_id)


def _actor_repr(instance) -> str | None:
    if instance is None or type(instance).__repr__ is object.__repr__:
        return None
    try:
        return repr(instance)
    except Exception:
        return None


def exit_code(error: SystemExit) -> int:
    """What the process ends with after ``sys.exit(...)`` in user code."""
    code = error.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def prepare_actor(is_async: bool, special: bool) -> None:
    """Before the constructor runs: constructors of async actors may ask for the loop. ``special``: as of a lease that
    is entered.
    """
    global _loop, _is_actor
    _is_actor = True
    if special:
        enter_lease()
    if is_async:
        import asyncio

        from ._loop_selector import new_event_loop

        _loop = new_event_loop()
        asyncio.set_event_loop(_loop)


def enter_lease() -> None:
    """Before the first task of a lease: shows it its GPUs, and places its children where they belong."""
    task = _core.current_task() or {}
    _allow_threads((task.get("resources") or {}).get("CPU", 1))
    gpus = (task.get("devices") or {}).get("GPU")
    if gpus:
        names = [name for name in (_visible_devices or "").split(",") if name]
        shown = [names[i] if i < len(names) else str(i) for i in gpus]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(shown)
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as the node has numbered them
    elif _visible_devices is None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = _visible_devices
    if (task.get("strategy") or {}).get("capture_child_tasks"):
        from .remote_function import start_capture

        start_capture()


def _allow_threads(cpus: float) -> None:
    # As many as it has CPUs, unless the driver or a runtime environment has said how many.
    global _threads
    if _threads is not None and os.environ.get(_THREADS) == _threads:
        os.environ[_THREADS] = _threads = str(max(1, int(cpus)))


def end_actor(instance) -> None:
    """Before an actor that was not killed leaves: what its class does then, if anything."""
    last = getattr(type(instance), "__ray_shutdown__", None)
    if last is None:
        return
    try:
        done = last(instance)
        if _loop is not None and hasattr(done, "__await__"):
            _loop.run_until_complete(done)
    except Exception:
        import traceback

        traceback.print_exc()


def serve_async() -> None:
    """Serves the calls of an async actor until it ends."""
    from ._worker_async import AsyncActor

    task = _core.current_task()
    AsyncActor(_loop, task["max_concurrency"], task["concurrency_groups"]).serve()


def start_pool_thread(group: str) -> None:
    """One more thread for a concurrency group of a threaded actor."""
    import threading

    threading.Thread(
        target=_core._pool_thread, args=(group,), name=f"sheaf-pool-{group or 'default'}", daemon=True
    ).start()


# ---- Life of a worker


def _on_interrupt(signum, frame):
    # Sent by the engine when the running task is cancelled. It may come late: then there is nothing to interrupt.
    if not _core._main_task_cancelled():
        return
    if frame is not None and _loses_exceptions(frame.f_code):
        _thread.start_new_thread(_interrupt_again, (_thread.get_ident(),))
        return
    raise KeyboardInterrupt


def _loses_exceptions(code) -> bool:
    # Finalisers and callbacks of weak references: the interpreter prints what they raise, and goes on.
    if code.co_name in ("cb", "remove", "_remove"):
        return code.co_filename.startswith("<frozen importlib") or "weakref" in code.co_filename
    return code.co_name == "__del__"


def _interrupt_again(thread: int) -> None:
    import time

    time.sleep(0.002)
    signal.pthread_kill(thread, signal.SIGINT)


def enter_job(request: dict) -> None:
    """Makes this process look like the driver's: environment, import paths, directory, runtime
    environment.

    Raises RuntimeEnvSetupError.
    """
    take_on(request["job"])
    enter_prepared_job(request)


def take_on(job: dict) -> None:
    """The job's environment variables and import paths. The template does this before it forks:
    what is the same for all workers of a job is done once.
    """
    keep = {name: os.environ[name] for name in _OWN_VARIABLES if name in os.environ}
    if job.get("env"):
        os.environ.clear()
        os.environ.update(job["env"])
        os.environ.update(keep)
        # A task has one CPU: numeric libraries that start a thread per core in every worker fight
        # for the cores.
        global _threads
        _threads = None if _THREADS in os.environ else "1"
        os.environ.setdefault(_THREADS, "1")
    if job.get("sys_path"):
        sys.path[:] = _merged_path(job["sys_path"])
    _note_environment()


def enter_prepared_job(request: dict) -> None:
    """The rest of enter_job: what is a worker's own."""
    job = request["job"]
    try:
        os.chdir(job.get("cwd") or "/")
    except OSError:
        pass
    if request.get("runtime_env") or job.get("runtime_env"):
        from ._runtime_env_worker import apply_in_worker

        apply_in_worker(request.get("runtime_env", ""), job, request.get("session_dir"))
        _note_environment()


def _note_environment() -> None:
    # Once a job, not in each worker.
    global _visible_devices, _as_ray
    _visible_devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    _as_ray = os.environ.get("SHEAF_AS_RAY") == "1"


_OWN_VARIABLES = ("SHEAF_TESTING_FAULTS",)


_own_path: list | None = None  # of this interpreter, before any job's


def _merged_path(driver_path: list) -> list:
    """The driver's import path, and behind it what only this interpreter has (its own sheaf, for
    one).
    """
    return [*driver_path, *(path for path in own_path() if path not in driver_path)]


def own_path() -> list:
    """The import path that this process had before it wore any job's."""
    global _own_path
    if _own_path is None:
        _own_path = list(sys.path)
    return list(_own_path)


_prepared = False


def prepare() -> None:
    """What does not depend on the job. A template has done it before it forks, as a new worker pays
    for each page that it is the first to touch.
    """
    global _prepared
    if not _prepared:
        from . import _worker_output

        _prepared = True
        signal.signal(signal.SIGINT, _on_interrupt)
        _worker_output.install()


def run(request: dict) -> int:
    """Connects, serves, and returns the exit code."""
    if not _prepared:
        prepare()
    if _as_ray:
        from . import as_ray  # noqa: F401  "import ray" means sheaf, as in the driver
    _core.connect(request["socket"], "worker", request["token"])
    if request.get("directory") is None:
        job, own = request["job"], request.get("runtime_env") or ""
        environment = _parsed(own or job.get("runtime_env"))
        _state.become_worker(job.get("name_space", ""), job.get("id"), environment, own)
    try:
        code = _core.worker_main()
        _finish_submitted()
        return code
    finally:
        _core.shutdown()


def _finish_submitted() -> None:
    """Waits for tasks that this process has submitted, after the last call that max_calls permits:
    their results come to it.
    """
    if not _is_actor:
        _core._await_submitted()


def _parsed(runtime_env) -> dict:
    if not runtime_env:
        return {}
    import json

    return json.loads(runtime_env)


def leave(code: int) -> None:
    """Ends the process: exit handlers of user code run, modules are not torn down."""
    import atexit

    try:
        atexit._run_exitfuncs()
    except BaseException:
        pass
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):
            pass
    os._exit(code)


def _read_request() -> dict:
    import json

    with open(3, "rb", closefd=True) as file:
        file.seek(0)
        return json.loads(file.read().decode("utf-8", "surrogatepass"))


def main() -> None:
    """A worker that was started without a template process: its request is in the file on descriptor 3."""
    code = 1
    try:
        request = _read_request()
        try:
            enter_job(request)
        except BaseException as error:
            print(f"the runtime environment cannot be set up: {error}", file=sys.stderr)
            code = _EXIT_RUNTIME_ENV
        else:
            code = run(request)
    except SystemExit as error:
        code = exit_code(error)
    except BaseException:
        import traceback

        traceback.print_exc()
    leave(code)


if __name__ == "__main__":
    from sheaf import _worker  # one copy of this module, whatever it was started as

    _worker.main()
