"""Clusters of several nodes on this machine, put together and taken apart by a program: for tests
of what a library does when nodes come and go.

Example::

    from sheaf.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    worker = cluster.add_node(num_cpus=1, resources={"licence": 1})
    sheaf.init(address=cluster.address)
    cluster.remove_node(worker, allow_graceful=False)    # kill -9
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import time

from . import _daemon
from ._cluster import node_arguments

__all__ = ["Cluster", "ClusterNode", "cluster_not_supported"]

cluster_not_supported = not sys.platform.startswith("linux")

_DEFAULT_CPUS = 1
_DEFAULT_STORE_BYTES = 150 << 20


class ClusterNode:
    """One node: a daemon with workers and an object store of its own.

    Attributes: ``node_id`` (also ``unique_id``; hexadecimal), ``address`` ("HOST:PORT" for other
    nodes), ``pid`` of its daemon, ``node_ip_address``.
    """

    node_ip_address = "127.0.0.1"

    def __init__(self, arguments: list[str]):
        self._daemon = _daemon.Daemon(arguments)
        self.description = self._daemon.ready()
        self.pid = self._daemon.pid
        self.node_id = self.unique_id = str(self.description.get("node_id", ""))
        self.address = self.description.get("address", "")

    def get_session_dir_path(self) -> str:
        """The directory of this node's session."""
        return self._daemon.session_dir

    def get_logs_dir_path(self) -> str:
        """Where the output of its workers is."""
        return os.path.join(self._daemon.session_dir, "logs")

    def is_alive(self) -> bool:
        """Whether its daemon runs."""
        return not self._daemon.wait(0)

    def kill_all_processes(self, check_alive: bool = True, allow_graceful: bool = False) -> None:
        """Ends the node; not ``allow_graceful``: as a machine that loses its power."""
        if not allow_graceful and self.is_alive():
            os.kill(self.pid, signal.SIGKILL)
        self._daemon.stop()
        shutil.rmtree(self._daemon.session_dir, ignore_errors=True)

    def __repr__(self) -> str:
        return f"<ClusterNode {self.node_id} pid={self.pid}>"


class Cluster:
    """Nodes on this machine, all of which end with this process.

    Args:
        initialize_head: whether a first node is started now.
        connect: whether this process joins it.
        head_node_args: arguments of `add_node` for it.
        shutdown_at_exit: accepted; the nodes never outlive this process.
    """

    def __init__(
        self,
        initialize_head: bool = False,
        connect: bool = False,
        head_node_args: dict | None = None,
        shutdown_at_exit: bool = True,
    ):
        self.head_node: ClusterNode | None = None
        self.worker_nodes: list[ClusterNode] = []
        self.connected = False
        if connect and not initialize_head:
            raise RuntimeError("Cannot connect to uninitialized cluster.")
        if initialize_head:
            self.add_node(**(head_node_args or {}))
            if connect:
                self.connect()
        atexit.register(self.shutdown)

    @property
    def address(self) -> str | None:
        """What `sheaf.init` takes to join the cluster at its head; None without a head."""
        return self.head_node.get_session_dir_path() if self.head_node else None

    gcs_address = address

    def connect(self, namespace: str | None = None) -> None:
        """Joins the cluster from this process."""
        from . import init

        init(address=self.address, namespace=namespace, ignore_reinit_error=True)
        self.connected = True

    def add_node(self, wait: bool = True, **node_args) -> ClusterNode:
        """Starts a node, the head first.

        Args:
            wait: return when this process, if it has joined, sees the node among `sheaf.nodes`.
            num_cpus, num_gpus, memory, object_store_memory, resources, labels: what it has, as for
                `sheaf.init`; default one CPU and 150 MB.
            _system_config: settings by name. Further arguments, which programs written for Ray
                pass, change nothing.
        """
        given = dict(node_args)
        resources = _as_dict(given.get("resources"))
        if "CPU" in resources or "GPU" in resources:
            raise AssertionError("Give num_cpus and num_gpus instead of CPU and GPU in resources.")
        if given.get("memory"):
            resources["memory"] = given["memory"]
        config = given.get("_system_config") or {}
        arguments = ["--listen", "127.0.0.1", "--exit-with-pid", str(os.getpid())]
        cpus = given.get("num_cpus")
        arguments += node_arguments(
            num_cpus=_DEFAULT_CPUS if cpus is None else cpus,
            num_gpus=given.get("num_gpus") or 0,
            resources=resources,
            labels=given.get("labels"),
            object_store_memory=given.get("object_store_memory") or _DEFAULT_STORE_BYTES,
            config={name: value for name, value in config.items() if "." in name},
        )
        if self.head_node is None:
            self.head_node = ClusterNode(arguments)
            return self.head_node
        head = self.head_node.description
        join = ["--join", head["address"], "--secret-file", head["secret_file"]]
        node = ClusterNode(join + arguments)
        self.worker_nodes.append(node)
        if wait:
            self._wait(lambda: node.node_id in self._alive(), 30.0, "the new node is not seen")
        return node

    def remove_node(self, node: ClusterNode, allow_graceful: bool = True) -> None:
        """Ends a node, and waits until this process, if it has joined, sees that.

        ``allow_graceful``: False for kill -9.
        """
        if node is not self.head_node and node not in self.worker_nodes:
            raise ValueError(f"{node} is not a node of this cluster.")
        if node is self.head_node:
            from . import shutdown

            shutdown()
        node.kill_all_processes(allow_graceful=allow_graceful)
        if node is self.head_node:
            self.head_node = None
        else:
            self.worker_nodes.remove(node)
            self._wait(lambda: node.node_id not in self._alive(), 30.0, "the node still is seen")

    def wait_for_nodes(self, timeout: float = 30.0) -> None:
        """Waits until this process, if it has joined, sees all nodes; TimeoutError if it does
        not.
        """
        count = len(self.list_all_nodes())
        self._wait(lambda: len(self._alive()) == count, timeout, f"there are not {count} nodes")

    def list_all_nodes(self) -> list[ClusterNode]:
        """The nodes, the head first."""
        return ([self.head_node] if self.head_node else []) + self.worker_nodes

    def remaining_processes_alive(self) -> bool:
        """Whether all daemons run."""
        return all(node.is_alive() for node in self.list_all_nodes())

    def shutdown(self) -> None:
        """Ends all nodes, the head last."""
        atexit.unregister(self.shutdown)
        for node in reversed(self.list_all_nodes()):
            node.kill_all_processes(allow_graceful=True)
        self.head_node, self.worker_nodes = None, []

    def _alive(self) -> set[str]:
        from . import nodes

        return {row["NodeID"] for row in nodes() if row["Alive"]}

    def _wait(self, fact, timeout: float, what: str) -> None:
        from ._state import state

        if state.session.get("session_dir") != self.address:
            return  # this process has not joined: nobody to ask
        end = time.monotonic() + timeout
        while not fact():
            if time.monotonic() > end:
                raise TimeoutError(f"After {timeout:g} s {what}.")
            time.sleep(0.02)


def _as_dict(resources) -> dict:
    if isinstance(resources, str):
        import json

        resources = json.loads(resources)
    return dict(resources or {})
