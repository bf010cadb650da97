"""Constants and names of types of the state API, for programs that import them."""

from __future__ import annotations

import dataclasses
import enum

from .api import DEFAULT_LIMIT
from .rows import Row

DEFAULT_RPC_TIMEOUT = 30
DEFAULT_LOG_LIMIT = 1000
RAY_MAX_LIMIT_FROM_API_SERVER = RAY_MAX_LIMIT_FROM_DATA_SOURCE = 10_000

StateSchema = ActorState = PlacementGroupState = NodeState = JobState = WorkerState = Row
TaskState = ObjectState = RuntimeEnvState = ClusterEventState = Row


class StateResource(enum.Enum):
    """Kinds of rows, for `StateApiClient.list` and ``get``."""

    ACTORS = "actors"
    JOBS = "jobs"
    PLACEMENT_GROUPS = "placement_groups"
    NODES = "nodes"
    WORKERS = "workers"
    TASKS = "tasks"
    OBJECTS = "objects"
    RUNTIME_ENVS = "runtime_envs"
    CLUSTER_EVENTS = "cluster_events"


class SummaryResource(enum.Enum):
    """Kinds of summaries, for `StateApiClient.summary`."""

    ACTORS = "actors"
    TASKS = "tasks"
    OBJECTS = "objects"


@dataclasses.dataclass
class ListApiOptions:
    """What a list is restricted to."""

    limit: int = DEFAULT_LIMIT
    timeout: int = DEFAULT_RPC_TIMEOUT
    detail: bool = False
    filters: list | None = None
    exclude_driver: bool = True
    server_timeout_multiplier: float = 0.8


@dataclasses.dataclass
class GetApiOptions:
    """How long to wait for a row."""

    timeout: int = DEFAULT_RPC_TIMEOUT


@dataclasses.dataclass
class SummaryApiOptions:
    """How long to wait for a summary."""

    timeout: int = DEFAULT_RPC_TIMEOUT
    filters: list | None = None
    summary_by: str | None = None
