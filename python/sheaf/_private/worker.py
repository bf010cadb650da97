"""``ray._private.worker.global_worker`` and relatives, as far as programs outside of Ray look at
them.
"""

from __future__ import annotations

from .. import get, init, is_initialized, put, shutdown, wait  # noqa: F401  importable from here
from .._state import state

SCRIPT_MODE, WORKER_MODE, LOCAL_MODE = 0, 1, 2


class _Node:
    """What ``global_worker.node`` offers."""

    node_ip_address = "127.0.0.1"

    @property
    def unique_id(self) -> str:
        """The node, hexadecimal."""
        from ..ids import hex_of

        return hex_of(state.session["node_id"])

    node_id = unique_id

    @property
    def address_info(self) -> dict:
        """What `init` returned."""
        return state.context.address_info if state.context else {}

    def get_session_dir_path(self) -> str:
        """The directory of the cluster's session."""
        return state.session["session_dir"]


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

        return JobID.from_int(state.job_id) if state.mode is not None else JobID.nil()

    @property
    def node_ip_address(self) -> str:
        """This machine's address."""
        return "127.0.0.1"

    @property
    def node(self) -> "_Node":
        """This node."""
        return _Node()

    def check_connected(self) -> None:
        """RuntimeError unless this process is connected."""
        if state.mode is None:
            raise RuntimeError("This process is not connected: call init() first.")


global_worker = _Worker()


def get_global_worker() -> _Worker:
    """The one worker object of this process."""
    return global_worker
