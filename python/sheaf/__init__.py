"""Sheaf: tasks, actors and shared objects across the cores and GPUs of a machine or a
supercomputer.

The names follow Ray's. Five lines::

    import sheaf

    @sheaf.remote
    def square(x):
        return x * x

    print(sheaf.get([square.remote(i) for i in range(4)]))   # [0, 1, 4, 9]
"""

from __future__ import annotations

from . import _core
from ._api import (
    available_resources,
    cancel,
    cluster_resources,
    get_actor,
    get_gpu_ids,
    java_actor_class,
    java_function,
    kill,
    nodes,
    remote,
    timeline,
)
from ._calls import get, put, wait
from ._cluster import init, is_initialized, shutdown
from ._core import ObjectRef, ObjectRefGenerator
from ._version import __version__
from .actor import method
from .ids import (
    ActorClassID,
    ActorID,
    ClusterID,
    FunctionID,
    JobID,
    NodeID,
    PlacementGroupID,
    TaskID,
    UniqueID,
    WorkerID,
)

ObjectID = ObjectRef
SCRIPT_MODE, WORKER_MODE, LOCAL_MODE = 0, 1, 2

__all__ = [
    "ActorClassID",
    "ActorID",
    "ClientBuilder",
    "ClusterID",
    "DynamicObjectRefGenerator",
    "FunctionID",
    "JobID",
    "LOCAL_MODE",
    "Language",
    "LoggingConfig",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "SCRIPT_MODE",
    "TaskID",
    "UniqueID",
    "WORKER_MODE",
    "WorkerID",
    "__version__",
    "_config",
    "actor",
    "available_resources",
    "cancel",
    "client",
    "cluster_resources",
    "cpp_function",
    "cpp_actor_class",
    "exceptions",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "java_actor_class",
    "java_function",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "runtime_context",
    "runtime_env",
    "shutdown",
    "timeline",
    "util",
    "wait",
]

# Names that cost time to import are found when they are first asked for.
_LAZY = {
    "ClientBuilder": "._client",
    "client": "._client",
    "DynamicObjectRefGenerator": "._generators",
    "Language": "._cross_language",
    "cpp_function": "._cross_language",
    "cpp_actor_class": "._cross_language",
    "LoggingConfig": "._logging_config",
    "get_runtime_context": ".runtime_context",
    "_config": "._private.config",
}
_LAZY_MODULES = {
    "actor",
    "cross_language",
    "dag",
    "data",
    "exceptions",
    "experimental",
    "job_config",
    "remote_function",
    "runtime_context",
    "runtime_env",
    "serialization",
    "serve",
    "train",
    "tune",
    "types",
    "util",
    "_private",
    "as_ray",
    "client_builder",
    "cluster_utils",
    "job_submission",
    "autoscaler",
    "state",
    "workflow",
    "widgets",
}


def __getattr__(name: str):
    import importlib

    if name == "cloudpickle":
        return importlib.import_module("cloudpickle")
    home = _LAZY.get(name)
    if home is not None:
        value = getattr(importlib.import_module(home, __name__), name)
        globals()[name] = value
        return value
    if name in _LAZY_MODULES:
        try:
            return importlib.import_module(f".{name}", __name__)
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__():
    return sorted(set(globals()) | set(__all__))
