"""Engines as processes: one that serves, and lives from start to end."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
import time
import uuid
from typing import Any

from sheaf._perf import environments

ENGINE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "engine.py")
ANSWER_SECONDS_MAX = 300.0


class EngineError(RuntimeError):
    """The engine's process ended or did not answer."""


def _environment(name: str, python: str) -> dict[str, str]:
    dropped = () if name == "sheaf" else ("PYTHONPATH", "LD_LIBRARY_PATH")
    kept = {k: v for k, v in os.environ.items() if k not in dropped}
    kept["SHEAF_BENCH_MARK"] = uuid.uuid4().hex
    if name != "sheaf":
        # Parsl starts its helpers by their names.
        kept["PATH"] = os.pathsep.join([os.path.dirname(python), kept.get("PATH", os.defpath)])
        # Worker processes of peers import peer_apis and task_graph by name.
        kept["PYTHONPATH"] = os.path.dirname(ENGINE)
    return kept


class Served:
    """A child that answers each line of JSON (or of text) with one."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,
        )
        self._buffer = b""

    def read_line(self, seconds: float = ANSWER_SECONDS_MAX) -> str:
        assert self._process.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = end - time.monotonic()
            fd = self._process.stdout.fileno()
            ready, _, _ = select.select([fd], [], [], max(0.0, left))
            chunk = os.read(fd, 65536) if ready else b""
            if not chunk:
                why = "ended" if ready else f"gave no answer in {seconds:.0f} s"
                text = self._last_words()
                self.kill()
                raise EngineError(f"{self.name} {why}{text}")
            self._buffer += chunk
        text, _, self._buffer = self._buffer.partition(b"\n")
        return text.decode()

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = [text for text in self._errors.read().decode(errors="replace").split("\n") if text]
        return ": " + lines[-1][:300] if lines else ""

    def write_line(self, text: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise EngineError(f"{self.name} ended{self._last_words()}") from None

    def end(self, seconds: float = 30.0) -> None:
        """Closes its input and waits; kills its session when it stays."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            pass
        self.kill()

    def kill(self) -> None:
        """Ends whatever is left of the session; harmless when all is gone."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()


class Engine(Served):
    """A serving engine. Raises EngineError when it does not come up."""

    def __init__(self, name: str, python: str) -> None:
        workers = os.cpu_count() or 2
        command = environments.command(name, python, ENGINE, workers)
        super().__init__(name, command, _environment(name, python))
        head = json.loads(self.read_line())
        self.python = python
        self.version: str = head["version"]
        self.start_seconds: float = head["ready_seconds"]

    def ask(self, **request: Any) -> dict:
        self.write_line(json.dumps(request))
        return json.loads(self.read_line())

    def close(self) -> float:
        """Shuts the engine down; returns how long its shutdown() took, in seconds."""
        # Said, not left to the end of the input: mpirun does not pass that on.
        self.write_line(json.dumps({"do": "end"}))
        seconds = json.loads(self.read_line(60))["shutdown_seconds"]
        self.end()
        return seconds


def live(name: str, python: str, kind: str, options: dict) -> dict[str, float]:
    """One life of an engine (life.py), in a process of its own. Raises EngineError."""
    workers = max(os.cpu_count() or 2, options.get("workers", 0))
    command = environments.command(name, python, ENGINE, workers)
    command += ["--life", kind, json.dumps(options)]
    child = Served(name, command, _environment(name, python))
    answer = json.loads(child.read_line(120))
    child.end()
    return answer
