"""A Sheaf cluster over a lab's hosts: the head on host 0, a further node on each other host."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

SHEAF = [sys.executable, "-m", "sheaf"]
START_S = 30.0


class Cluster:
    """Started by `with`; ends with it. `folder` is the same on every host."""

    def __init__(self, lab, cpus=2, settings: tuple[str, ...] = (), prepare=None, nodes=None):
        """`prepare(lab, host)` runs before a host's first daemon; `nodes` hosts join, else all."""
        self.lab, self.cpus, self.settings = lab, cpus, settings
        self.nodes = lab.hosts if nodes is None else nodes
        for host in range(lab.hosts if prepare else 0):
            prepare(lab, host)
        self.folder = Path(tempfile.mkdtemp(prefix="sheaf-lab-", dir="/var/tmp"))
        self.daemons: dict[int, subprocess.Popen] = {}

    def __enter__(self) -> Cluster:
        try:
            self.head = self.start_node(0, "--head")
            shutil.copy(self._on_host(0, self.head["secret_file"]), self.secret)
            for host in range(1, self.nodes):
                self.join(host)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        for process in self.daemons.values():
            process.terminate()
        for process in self.daemons.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def secret(self) -> str:
        return str(self.folder / "secret")

    def join(self, host: int, *more: str, under: tuple[str, ...] = ()) -> dict:
        words = ["--address", self.head["address"], "--secret-file", self.secret]
        return self.start_node(host, *words, *more, under=under)

    def start_node(
        self, host: int, *words: str, under: tuple[str, ...] = (), listen: bool = True
    ) -> dict:
        """Starts a daemon in the foreground, `under` another command; what it says of itself."""
        command = [*SHEAF, "start", *words, "--block", "--json", "--num-cpus", str(self.cpus)]
        if listen:
            command += ["--listen", self.lab.address(host)]
        for setting in self.settings:
            command += ["--config", setting]
        process = self.lab.start(
            host, [*under, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.daemons[host] = process
        text = ""
        for line in process.stdout:
            text += line
            try:
                return json.loads(text)
            except ValueError:
                continue
        raise RuntimeError(f"host {host}: {process.stderr.read()}")

    def kill_head(self) -> None:
        """kill -9 of its daemon; returns when nothing of it is left on its host."""
        os.kill(self.daemon_pid(0), signal.SIGKILL)
        self.daemons[0].wait(10)
        end = time.monotonic() + 10
        while self.processes(0) and time.monotonic() < end:
            time.sleep(0.01)

    def restart_head(self, *words: str) -> dict:
        self.head = self.start_node(0, "--head", *(words or ("--restart",)), listen=False)
        return self.head

    def pids(self, host: int) -> list[int]:
        """The processes of a host, by their pids in this, the outer, pid namespace."""
        inside = os.stat(f"/proc/{self.lab._first[host].pid}/ns/pid").st_ino
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):  # it may end meanwhile
                if os.stat(f"/proc/{name}/ns/pid").st_ino == inside:
                    found.append(int(name))
        return found

    def daemon_pid(self, host: int) -> int:
        """The daemon's pid in the outer pid namespace."""
        for pid in self.pids(host):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == "sheafd":
                    return pid
        raise RuntimeError(f"no daemon on host {host}")

    def processes(self, host: int) -> list[str]:
        """Command lines of all processes of a host that are Sheaf's."""
        found = []
        for pid in self.pids(host):
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                if "sheaf" in line and state != "Z":
                    found.append(line)
        return found

    def script(self, text: str) -> str:
        """A program's file, with what all of them begin with."""
        path = self.folder / f"program-{time.monotonic_ns()}.py"
        path.write_text(_PRELUDE.format(hosts=self.nodes) + textwrap.dedent(text))
        return str(path)

    def run(self, text: str, host: int = 0, timeout: float = 120.0, few: bool = False) -> str:
        """Runs a program on a host; its output. AssertionError with all it said if it fails."""
        words = [sys.executable, self.script(text)]
        environment = {**self.environment(), **({"FEWER": "1"} if few else {})}
        done = self.lab.run(host, words, timeout=timeout, env=environment)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, text: str, host: int = 0, stdin: bool = False) -> subprocess.Popen:
        words = [sys.executable, self.script(text)]
        return self.lab.start(
            host,
            words,
            env=self.environment(),
            stdin=subprocess.PIPE if stdin else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def environment(self) -> dict:
        return {**os.environ, "SHEAF_ADDRESS": "auto"}

    def _on_host(self, host: int, path: str) -> str:
        return f"/proc/{self.lab._first[host].pid}/root{path}"


_PRELUDE = """
import hashlib, os, socket, sys, time
import numpy
import sheaf
from sheaf.util.scheduling_strategies import NodeAffinitySchedulingStrategy

def wait_for(fact, timeout=30.0):
    end = time.monotonic() + timeout
    while not fact():
        assert time.monotonic() < end, "it did not become true"
        time.sleep(0.01)

def alive():
    return [n for n in sheaf.nodes() if n["Alive"]]

def node_on(host):
    return next(n["NodeID"] for n in alive() if n["NodeManagerHostname"] == f"host{{host}}")

def on(host, soft=False):
    return dict(scheduling_strategy=NodeAffinitySchedulingStrategy(node_on(host), soft=soft))

sheaf.init(log_to_driver=False)
wait_for(lambda: len(alive()) >= {hosts} or os.environ.get("FEWER"))
"""
