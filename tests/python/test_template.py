"""The template process, spoken to as the node daemon does."""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

JOB = {
    "id": 1,
    "name_space": "",
    "cwd": "/",
    "sys_path": [],
    "env": {},
    "runtime_env": "",
    "python": sys.executable,
}


class Template:
    """A template process and the daemon's end of its channel."""

    def __init__(self, preload: str = ""):
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(30)
        environment = {**os.environ, "SHEAF_WORKERS_PRELOAD": preload}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
            )
        assert self.line() == ["ready"]

    def line(self) -> list[str]:
        return self.channel.recv(65536).decode().split(" ", 3)

    def take_job(self) -> None:
        self.channel.send(json.dumps({"cmd": "job", "job": JOB}).encode())

    def ask(self, token: int, fds: list[int], path: str = "/nowhere") -> None:
        request = {"cmd": "fork", "token": token, "socket": path, "session_dir": "/"}
        request.update(runtime_env="", language="python")
        text = json.dumps(request, separators=(",", ":")).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        self.channel.sendmsg([text], rights)


_START = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.execv(sys.executable, [sys.executable, "-m", "sheaf._template"])
"""


@pytest.fixture
def start():
    started = []

    def begin(**options):
        started.append(Template(**options))
        return started[-1]

    yield begin
    for template in started:
        template.channel.close()
        template.process.kill()
        template.process.wait()


@pytest.fixture
def start_with(start, tmp_path, monkeypatch):
    """Starts a template that preloads a module of `tmp_path`."""
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    return lambda module: start(preload=module)


def test_requests_that_come_together_get_a_worker_each(start):
    template = start()
    # Stopped, so that all requests lie there when it looks.
    os.kill(template.process.pid, signal.SIGSTOP)
    template.take_job()
    pipes = {token: (os.pipe(), os.pipe()) for token in range(1, 6)}
    for token, (out, err) in pipes.items():
        template.ask(token, [out[1], err[1]])
        os.close(out[1])
        os.close(err[1])
    os.kill(template.process.pid, signal.SIGCONT)
    pids, ended = {}, {}
    while len(ended) < 5:
        verb, first, second, *_ = template.line()
        assert verb in ("forked", "exit")
        if verb == "forked":
            pids[int(first)] = int(second)
        else:
            ended[int(first)] = int(second)
    assert sorted(pids) == [1, 2, 3, 4, 5] and set(pids.values()) == set(ended)
    for out, err in pipes.values():
        # Nobody serves at that socket: each says so, on its own standard error, and ends there.
        with open(err[0], "rb") as errors, open(out[0], "rb") as output:
            assert b"/nowhere" in errors.read() and output.read() == b""
    assert all(os.waitstatus_to_exitcode(status) == 1 for status in ended.values())


def test_what_is_no_request_is_answered_and_the_end_of_the_channel_ends_it(start):
    template = start()
    template.channel.send(b'{"cmd": "fork", "token": 7}')  # not as the contract has it
    assert template.line()[:3] == ["failed", "7", "other"]
    template.channel.send(b"nonsense")
    assert template.line()[:3] == ["failed", "0", "other"]
    template.channel.close()
    assert template.process.wait(10) == 0


def test_a_template_with_threads_does_not_fork(start_with, tmp_path):
    (tmp_path / "starts_a_thread.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    template = start_with("starts_a_thread")
    template.take_job()
    out, into = os.pipe()
    template.ask(3, [into, into])
    os.close(into)
    assert template.line()[:3] == ["failed", "3", "unsafe"]
    with open(out, "rb") as output:
        assert output.read() == b"", "nobody has kept its end"


def test_many_forks(start):
    """The template's pages are made large ones on the way; what workers find there is the same."""
    template = start()
    template.take_job()
    ended = 0
    for token in range(1, 101):
        out, into = os.pipe()
        template.ask(token, [into, into])
        os.close(into)
        with open(out, "rb") as output:
            assert b"/nowhere" in output.read()
    while ended < 100:
        ended += template.line()[0] == "exit"


def worker_output(template: Template, token: int) -> bytes:
    """What a worker that finds no daemon wrote on its standard output."""
    (out, into), errors = os.pipe(), os.open(os.devnull, os.O_WRONLY)
    template.ask(token, [into, errors])
    os.close(into)
    os.close(errors)
    assert template.line()[:2] == ["forked", str(token)]
    with open(out, "rb") as output:
        text = output.read()
    assert template.line()[0] == "exit"
    return text


def test_functions_that_modules_want_to_run_after_a_fork_run_in_workers(start_with, tmp_path):
    (tmp_path / "has_hooks.py").write_text(
        "import os, random\n"
        "os.register_at_fork(after_in_child=lambda: os.write(1, random.randbytes(8)))\n"
    )
    template = start_with("has_hooks")
    template.take_job()
    first, second = worker_output(template, 1), worker_output(template, 2)
    assert len(first) == len(second) == 8 and first != second, "random is seeded anew, too"


def test_a_request_with_other_fields_is_read_anew(start, tmp_path):
    template = start()
    template.take_job()
    for token, path in enumerate(["/nowhere", "/nowhere", "/elsewhere"], 1):
        out, into = os.pipe()
        template.ask(token, [into, into], path)
        os.close(into)
        with open(out, "rb") as output:
            assert path.encode() in output.read()
        assert {template.line()[0], template.line()[0]} == {"forked", "exit"}


def test_what_is_allocated_behind_filled_gaps_lies_together():
    program = (
        "from sheaf import _core; _core._fill_heap_gaps()\n"
        "made = [object() for _ in range(20)]\n"
        "print(max(map(id, made)) - min(map(id, made)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(done.stdout) <= 4096


def test_workers_die_with_their_template(start):
    template = start()
    template.take_job()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path = f"/tmp/sheaf-test-{os.getpid()}.sock"
    listener.bind(path)
    try:
        listener.listen()
        request = {"cmd": "fork", "token": 9, "socket": path, "session_dir": "/"}
        request.update(runtime_env="", language="python")
        template.channel.send(json.dumps(request, separators=(",", ":")).encode())
        pid = int(template.line()[2])
        listener.settimeout(30)
        connection, _ = listener.accept()
        assert connection.recv(65536), "its greeting: it waits for the answer"
        template.process.kill()
        deadline = time.monotonic() + 10
        connection.settimeout(10)
        assert connection.recv(1) == b""
        while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] in "ZX":
                    break
            time.sleep(0.005)
        assert time.monotonic() < deadline
    finally:
        listener.close()
        os.unlink(path)
