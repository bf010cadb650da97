"""Processes killed with -9 under a workload whose every value is known: nothing wrong, nothing hung, nothing left.

The number of kills is printed and asserted. The seed is printed first; SHEAF_TEST_CHAOS_SEED replays it.
"""
from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import sheaf
from sheaf.util.state import list_workers

SEED = int(os.environ.get("SHEAF_TEST_CHAOS_SEED", "20261121"))


def make_digest():
    """A function that travels by value: a killed worker's successor must not import this module first."""

    def digest(*parts: bytes) -> bytes:
        """What a task computes: a keyed hash of its inputs, stretched to the size its first byte asks for."""
        h = hashlib.blake2b(b"|".join(parts), digest_size=32).digest()
        return h * (1 + 8 * h[0])  # 32 bytes to 64 KB: inline values, slab objects

    digest.__module__ = "__main__"
    return digest


class Killer:
    """Kills random workers of this cluster until stopped. Workers are found by the state API, by pid."""

    def __init__(self, seed: int, pause: float) -> None:
        self._random = random.Random(seed)
        self._pause = pause
        self._stop = threading.Event()
        self.kills = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._random.uniform(0.2, 1.8) * self._pause):
            pids = [int(w["pid"]) for w in list_workers() if w.get("is_alive", True) and w.get("worker_type") != "DRIVER"]
            pids = [p for p in pids if p > 1 and p != os.getpid()]
            if not pids:
                continue
            try:
                os.kill(self._random.choice(pids), signal.SIGKILL)
                self.kills += 1
            except ProcessLookupError:
                pass


@pytest.fixture
def cluster():
    sheaf.shutdown()
    sheaf.init(num_cpus=4)
    yield
    sheaf.shutdown()


def test_tasks_survive_a_hundred_worker_kills(cluster):
    print(f"chaos seed {SEED}")
    rng = random.Random(SEED)
    digest = make_digest()

    @sheaf.remote(max_retries=-1)
    def node(*parts):
        time.sleep(0.002)
        return digest(*parts)

    checked = 0
    started = time.monotonic()
    with Killer(SEED + 1, pause=0.08) as killer:
        while killer.kills < 100:
            assert time.monotonic() - started < 150, f"only {killer.kills} kills in 150 s"
            expected: list[bytes] = [b"root"]
            refs: list = [sheaf.put(b"root")]
            for i in range(60):
                picks = [rng.randrange(len(refs)) for _ in range(rng.randint(1, 3))]
                tag = str(i).encode()
                refs.append(node.remote(tag, *(refs[p] for p in picks)))
                expected.append(digest(tag, *(expected[p] for p in picks)))
            assert sheaf.get(refs, timeout=60) == expected
            checked += len(refs)
    print(f"{killer.kills} workers killed, {checked} values checked, 0 wrong")


def test_actor_calls_survive_kills_of_their_process(cluster):
    digest = make_digest()

    @sheaf.remote(max_restarts=-1, max_task_retries=-1)
    class Echo:
        def pid(self):
            return os.getpid()

        def echo(self, value):
            return digest(value)

    actor = Echo.remote()
    kills = 0
    for round_number in range(25):
        pid = sheaf.get(actor.pid.remote(), timeout=30)
        values = [f"{round_number}-{i}".encode() for i in range(200)]
        refs = [actor.echo.remote(v) for v in values]
        os.kill(pid, signal.SIGKILL)
        kills += 1
        assert sheaf.get(refs, timeout=30) == [digest(v) for v in values]
    assert kills == 25


DRIVER = """
    import sys, time
    import sheaf
    sheaf.init(num_cpus=2)
    @sheaf.remote
    def nap(i):
        time.sleep(0.01)
        return i
    @sheaf.remote
    class Held:
        def ping(self):
            return "pong"
    actor = Held.remote()
    assert sheaf.get(actor.ping.remote()) == "pong"
    from sheaf._core import session
    from sheaf.util.state import list_workers
    pids = [int(w["pid"]) for w in list_workers()]
    print("session", session()["session_dir"], flush=True)
    print("pids", *pids, flush=True)
    try:
        n = 0
        while True:
            assert sheaf.get([nap.remote(i) for i in range(20)]) == list(range(20))
            n += 1
    except sheaf.exceptions.RayError as error:
        print("error", type(error).__name__, flush=True)
        sys.exit(7)
"""


def start_driver() -> tuple[subprocess.Popen, str, list[int]]:
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(DRIVER)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    session_dir = process.stdout.readline().split()[1]
    pids = [int(p) for p in process.stdout.readline().split()[1:]]
    return process, session_dir, pids


def daemon_of(session_dir: str) -> int:
    import json

    with open(os.path.join(session_dir, "cluster.json"), encoding="utf-8") as file:
        return int(json.load(file)["pid"])


def gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(fact, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.02)


@pytest.mark.parametrize("attempt", range(6))
def test_daemon_killed_driver_gets_an_error_and_nothing_stays(attempt):
    process, session_dir, pids = start_driver()
    daemon = daemon_of(session_dir)
    time.sleep(random.Random(SEED + attempt).uniform(0.0, 0.5))
    os.kill(daemon, signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 7, out
    assert "error" in out
    wait_until(lambda: all(gone(p) for p in pids + [daemon]), 20, "workers of a dead daemon end")


@pytest.mark.parametrize("attempt", range(6))
def test_driver_killed_cluster_is_gone(attempt):
    process, session_dir, pids = start_driver()
    daemon = daemon_of(session_dir)
    time.sleep(random.Random(SEED + attempt).uniform(0.0, 0.5))
    process.kill()
    process.wait()
    process.stdout.close()
    wait_until(lambda: all(gone(p) for p in pids + [daemon]), 20, "the cluster of a dead driver ends")
    wait_until(lambda: not os.path.exists(session_dir), 20, "its session directory goes")
