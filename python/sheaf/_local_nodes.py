"""A cluster of several nodes on this machine, for one program: ``sheaf run -n N SCRIPT``.

Each node is a daemon with an object store, workers and CPUs of its own; they talk over the loopback
interface as they would over a network.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

from . import _daemon
from ._cluster import node_arguments


class LocalNodes:
    """``count`` nodes, the head first. Use in a ``with`` block; they end with it, or with this
    process.

    Raises RuntimeError when one of them cannot start; nothing is left running then.
    """

    def __init__(self, count: int, num_cpus: float | None = None):
        if num_cpus is None:
            num_cpus = max(1, len(os.sched_getaffinity(0)) // count)
        self._daemons: list[_daemon.Daemon] = []
        common = ["--listen", "127.0.0.1", "--exit-with-pid", str(os.getpid())]
        # A node whose daemon ends is noticed at once; its silence on this machine means that the
        # machine is busy.
        # The program ends with its head: there is nothing to wait for.
        config = {"cluster.lease": "30s", "cluster.head_timeout": "0s"}
        common += node_arguments(num_cpus=num_cpus, config=config)
        try:
            head = self._start(common)
            description = head.ready()
            self.session_dir = head.session_dir
            self.address = description["address"]
            join = ["--join", self.address, "--secret-file", description["secret_file"], *common]
            for daemon in [self._start(join) for _ in range(count - 1)]:
                daemon.ready()
        except BaseException:
            self.stop()
            raise

    def _start(self, arguments: list[str]) -> _daemon.Daemon:
        daemon = _daemon.Daemon(arguments)
        self._daemons.append(daemon)
        return daemon

    @property
    def pids(self) -> list[int]:
        """Process ids of the daemons, the head's first."""
        return [daemon.pid for daemon in self._daemons]

    def stop(self) -> None:
        """Ends all of them, the head last."""
        while self._daemons:
            daemon = self._daemons.pop()
            daemon.stop()
            if daemon.session_dir:  # of one that was killed
                shutil.rmtree(daemon.session_dir, ignore_errors=True)

    def __enter__(self) -> "LocalNodes":
        return self

    def __exit__(self, *_) -> None:
        self.stop()


def run_on_nodes(count: int, num_cpus: float | None, command: list[str]) -> int:
    """Runs a command with such a cluster as its SHEAF_ADDRESS; its exit status, 128 + N after
    signal N.
    """
    with LocalNodes(count, num_cpus) as nodes:
        environment = {**os.environ, "SHEAF_ADDRESS": nodes.session_dir}
        program = subprocess.Popen(command, env=environment)
        while True:
            try:
                status = program.wait()
                break
            except KeyboardInterrupt:  # the program has it too, and decides
                signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout.flush()
    return 128 - status if status < 0 else status
