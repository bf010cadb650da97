"""``ray._private.worker.global_worker`` and relatives, as far as programs outside of Ray look at
them.
"""

from __future__ import annotations

from .. import get, init, is_initialized, put, shutdown, wait  # noqa: F401  importable from here
from .._state import state

SCRIPT_MODE, WORKER_MODE, LOCAL_MODE = 0, 1, 2


class _Worker:
    """What ``global_worker`` offers."""

    @property
    def connected(self) -> bool:
        """Whether this process is connected."""
        return state.mode is not None

    @property
    def mode(self):
        """SCRIPT_MODE, WORKER_MODE or None."""
        return {"driver": SCRIPT_MODE, "worker": WORKER_MODE}.get(state.mode)

    @property
    def namespace(self) -> str:
        """The job's namespace."""
        return state.namespace

    @property
    def current_job_id(self):
        """The job."""
        from ..ids import JobID

        return JobID.from_int(state.job_id)

    @property
    def node_ip_address(self) -> str:
        """This machine's address."""
        return "127.0.0.1"

    def check_connected(self) -> None:
        """RuntimeError unless this process is connected."""
        if state.mode is None:
            raise RuntimeError("This process is not connected: call init() first.")


global_worker = _Worker()


def get_global_worker() -> _Worker:
    """The one worker object of this process."""
    return global_worker
