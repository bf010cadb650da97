"""Who am I: job, node, worker, task and actor of the running code."""

from __future__ import annotations

from . import _core
from ._state import ensure_connected, state
from .ids import ActorID, JobID, NodeID, TaskID, WorkerID, _own_job, binary_of, hex_of

__all__ = ["RuntimeContext", "get_runtime_context"]


class RuntimeContext:
    """Facts about the place where the calling code runs. Get it by `get_runtime_context`."""

    def __init__(self, worker=None):
        self._worker = worker

    @property
    def worker(self):
        """What ``ray._private.worker.global_worker`` is to programs that look at it."""
        from ._private.worker import global_worker

        return self._worker or global_worker

    def get(self) -> dict:
        """Job, node, namespace and, where there are any, task and actor, as ID objects."""
        context = {"job_id": _own_job(), "node_id": _node(), "namespace": self.namespace}
        if self.get_task_id():
            context["task_id"] = TaskID.from_hex(self.get_task_id())
        if self.get_actor_id():
            context["actor_id"] = ActorID.from_hex(self.get_actor_id())
        return context

    @property
    def job_id(self) -> JobID:
        """The job as an ID object. Deprecated."""
        _say_deprecated("get_job_id")
        return _own_job()

    def get_job_id(self) -> str:
        """The job, hexadecimal."""
        return _own_job().hex()

    @property
    def node_id(self) -> NodeID:
        """The node as an ID object. Deprecated."""
        _say_deprecated("get_node_id")
        return _node()

    def get_node_id(self) -> str:
        """The node, hexadecimal."""
        return hex_of(state.session["node_id"])

    def get_worker_id(self) -> str:
        """This process, hexadecimal."""
        return WorkerID.from_process(state.session.get("process", 0)).hex()

    def get_task_id(self) -> str | None:
        """The running task, hexadecimal; None in a driver."""
        task_id = (_task() or {}).get("task_id")
        return hex_of(task_id) if task_id else None

    @property
    def task_id(self) -> TaskID:
        """The running task as an ID object, nil in a driver. Deprecated."""
        _say_deprecated("get_task_id")
        text = self.get_task_id()
        return TaskID.from_hex(text) if text else TaskID.nil()

    def get_task_name(self) -> str | None:
        """Name of the running task; None in a driver."""
        return (_task() or {}).get("name")

    def get_task_function_name(self) -> str | None:
        """Module and name of the running function or method; None in a driver."""
        task = _task()
        if not task:
            return None
        from ._worker import defined_name

        return defined_name(task) or task.get("name")

    def get_actor_id(self) -> str | None:
        """The actor that runs the calling code, hexadecimal; None outside of actors."""
        actor_id = (_task() or {}).get("actor_id")
        text = hex_of(actor_id) if actor_id else ""
        return text if text.strip("0") else None

    @property
    def actor_id(self) -> ActorID:
        """The actor as an ID object, nil outside of actors. Deprecated."""
        _say_deprecated("get_actor_id")
        text = self.get_actor_id()
        return ActorID.from_hex(text) if text else ActorID.nil()

    def get_actor_name(self) -> str | None:
        """The name of the actor that runs the calling code, "" for an unnamed one; None outside of
        actors.
        """
        if self.get_actor_id() is None:
            return None
        return (_task() or {}).get("actor_name", "")

    @property
    def current_actor(self):
        """A handle to the actor that runs the calling code; RuntimeError outside of actors."""
        actor_id = self.get_actor_id()
        if actor_id is None:
            raise RuntimeError("This method is only available in an actor.")
        from .actor import handle_from_blob

        blob = (_task() or {})["actor_handle"]
        return handle_from_blob(bytes.fromhex(actor_id), blob, weak=True)

    @property
    def namespace(self) -> str:
        """The namespace in which this job's named actors live."""
        return state.namespace

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether the actor that runs the calling code has been restarted."""
        _only_in_worker()
        return bool((_task() or {}).get("actor_incarnation", 0))

    def is_canceled(self) -> bool:
        """Whether the running task has been asked to stop (`sheaf.cancel`). RuntimeError in async
        actors, whose calls are told by asyncio.CancelledError.
        """
        from . import _worker

        if _worker._loop is not None:
            raise RuntimeError(
                "This method is not supported in an async actor. A cancelled call gets "
                "asyncio.CancelledError there."
            )
        return bool((_task() or {}).get("cancelled", False))

    def get_placement_group_id(self) -> str | None:
        """The placement group that the running code is placed in, hexadecimal; None outside of
        groups.
        """
        group = ((_task() or {}).get("strategy") or {}).get("group")
        text = hex_of(group) if group else ""
        return text if text.strip("0") else None

    @property
    def current_placement_group_id(self):
        """The placement group as an ID object, or None. Deprecated."""
        from .ids import PlacementGroupID

        _say_deprecated("get_placement_group_id")
        text = self.get_placement_group_id()
        return PlacementGroupID.from_hex(text) if text else None

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether tasks submitted here run in the same placement group."""
        return bool(((_task() or {}).get("strategy") or {}).get("capture_child_tasks", False))

    def get_assigned_resources(self) -> dict[str, float]:
        """Resources that the running task or actor holds; AssertionError in a driver."""
        _only_in_worker()
        return {
            name: float(amount) for name, amount in ((_task() or {}).get("resources") or {}).items()
        }

    get_resource_ids = get_assigned_resources

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """Numbers of the devices held, by kind."""
        from ._api import get_gpu_ids

        return {"GPU": [str(index) for index in get_gpu_ids()]}

    def get_runtime_env_string(self) -> str:
        """The runtime environment in force, as JSON."""
        from ._runtime_env import canonical, inherited

        return canonical(inherited()) or "{}"

    @property
    def runtime_env(self):
        """The runtime environment in force."""
        import json
        from .runtime_env import RuntimeEnv

        return RuntimeEnv(_validate=False, **json.loads(self.get_runtime_env_string()))

    def get_node_labels(self) -> dict[str, str]:
        """The labels of this node."""
        from ._api import nodes

        here = self.get_node_id()
        return next((node["Labels"] for node in nodes() if node["NodeID"] == here), {})

    @property
    def gcs_address(self) -> str:
        """The address to join this cluster by."""
        return state.session.get("session_dir", "")

    def get_session_name(self) -> str:
        """Name of the cluster's session."""
        import os

        return os.path.basename(state.session.get("session_dir", ""))

    def get_temp_dir(self) -> str:
        """The directory that the cluster's session lives in."""
        import os

        return os.path.dirname(state.session.get("session_dir", ""))


def get_runtime_context() -> RuntimeContext:
    """The context of the calling code; joins or starts a cluster first when there is none.

    Example::

        print(sheaf.get_runtime_context().get_node_id())
    """
    ensure_connected()
    return RuntimeContext()


def _task() -> dict | None:
    ensure_connected()
    return _core.current_task() if state.mode == "worker" else None


def _only_in_worker() -> None:
    ensure_connected()
    assert state.mode == "worker", (
        f"This method is only available in a worker, not in a {state.mode}."
    )


def _node() -> NodeID:
    return NodeID(binary_of(state.session["node_id"]))


def _say_deprecated(instead: str) -> None:
    import warnings

    from .util.annotations import RayDeprecationWarning

    warnings.warn(f"Use {instead}() instead.", RayDeprecationWarning, stacklevel=3)
