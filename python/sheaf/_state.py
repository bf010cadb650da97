"""What this process knows about its connection. One record per process; the fork of a user's
process resets it.
"""

from __future__ import annotations

import os
import threading

from . import _core


class ProcessState:
    """Owned by the main thread while connecting; read by everybody afterwards."""

    def __init__(self):
        self.pid = os.getpid()
        self.mode: str | None = None  # None, "driver", "worker" or "tool"
        self._session: dict | None = None
        self.namespace = ""
        self.job_id = 0
        self.runtime_env: dict = {}  # in force here
        self.own_runtime_env = ""  # its text where it is not just the job's
        self.context = None  # what init() returned
        self.local_mode = False  # tasks and actors run in this process, one after the other
        self.daemon = None  # _daemon.Daemon that this process started
        self.generation = 0  # grows with every connection: caches of ids are tagged with it
        self.lock = threading.RLock()

    @property
    def session(self) -> dict:
        """What the daemon's Welcome said. A worker's is looked at when somebody asks."""
        if self._session is None:
            self._session = _core.session() if self.mode == "worker" else {}
        return self._session

    @session.setter
    def session(self, value: dict | None) -> None:
        self._session = value


state = ProcessState()


def _forget_after_fork() -> None:
    """The engine of the parent is unusable in a child: start from nothing, as if never
    connected.
    """
    generation = state.generation + 1
    state.__init__()
    state.generation = generation


os.register_at_fork(after_in_child=_forget_after_fork)


def connected() -> bool:
    """Whether this process is connected to a cluster."""
    return state.mode is not None


def in_worker() -> bool:
    """Whether this process is a worker."""
    return state.mode == "worker"


def ensure_connected() -> ProcessState:
    """The state of this process; starts or joins a cluster first when there is none (Ray's
    automatic init).
    """
    if state.mode is None:
        from . import _cluster

        _cluster.auto_init()
    return state


def become_worker(
    namespace: str = "",
    job_id: int | None = None,
    runtime_env: dict | None = None,
    own_runtime_env: str = "",
) -> None:
    """Called by a worker after it has connected: from now on the public API works here. For those
    without an environment of their own their template has done it.

    ``runtime_env`` is in force here; ``own_runtime_env`` is its text unless it is just the job's.
    """
    state.mode = "worker"
    state.namespace = namespace
    state.job_id = state.session.get("job", 0) if job_id is None else job_id
    state.runtime_env = runtime_env or {}
    state.own_runtime_env = own_runtime_env
    state.generation += 1
