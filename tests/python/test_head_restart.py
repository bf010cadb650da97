"""A head that is killed with -9 and started again: what it had acknowledged is there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from conftest import wait_until

SHEAF = [sys.executable, "-m", "sheaf"]


class Head:
    """A cluster started by the command line in a directory of the test's."""

    def __init__(self, directory):
        self.directory = str(directory / "session")
        self.description: dict = {}

    def start(self) -> None:
        done = subprocess.run(
            [*SHEAF, "start", "--head", "--num-cpus", "2", "--json"]
            + ["--session-dir", self.directory],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        self.description = json.loads(done.stdout)

    def kill(self) -> None:
        pid = int(self.description["pid"])
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), what="the daemon's end")

    def stop(self) -> None:
        command = [*SHEAF, "stop", "--address", self.directory]
        subprocess.run(command, capture_output=True, timeout=60)

    def run(self, script: str) -> dict:
        """Runs a driver in a process of its own; gives the JSON that it prints last."""
        text = "import json, os, sheaf\nsheaf.init(address=%r, namespace='test')\n" % self.directory
        done = subprocess.run(
            [sys.executable, "-c", text + textwrap.dedent(script)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def head(tmp_path):
    head = Head(tmp_path)
    yield head
    head.stop()


FIRST = """
    @sheaf.remote(num_cpus=0.5, max_restarts=-1)
    class Counter:
        def __init__(self, start):
            self.value = start
        def add(self):
            self.value += 1
            return self.value
        def pid(self):
            return os.getpid()

    @sheaf.remote
    class Mortal:
        def pid(self):
            return os.getpid()

    kept = Counter.options(name="kept", lifetime="detached").remote(40)
    lost = Mortal.options(name="lost", lifetime="detached").remote()
    group = sheaf.util.placement_group([{"CPU": 0.25}], name="group", lifetime="detached")
    sheaf.get(group.ready())
    sheaf.get([kept.add.remote() for _ in range(5)])
    print(json.dumps({"pid": sheaf.get(kept.pid.remote()), "lost": sheaf.get(lost.pid.remote())}))
"""

SECOND = """
    kept = sheaf.get_actor("kept")
    answer = {"value": sheaf.get(kept.add.remote(), timeout=30), "pid": sheaf.get(kept.pid.remote())}
    try:
        sheaf.get_actor("lost")
        answer["lost"] = "found"
    except ValueError:
        answer["lost"] = "gone"
    group = sheaf.util.get_placement_group("group")
    answer["group"] = sheaf.get(group.ready(), timeout=30) is not None
    try:
        kept2 = sheaf.remote(type("Other", (), {})).options(name="kept", lifetime="detached").remote()
        answer["name"] = "free"
    except ValueError:
        answer["name"] = "taken"
    print(json.dumps(answer))
"""


def test_detached_actors_and_groups_outlive_their_head(head):
    """Restartable ones run again under their names; one that may not restart is gone, and its
    processes with it."""
    head.start()
    first = head.run(FIRST)
    pids = {first["pid"], first["lost"]}
    for life in range(3):
        head.kill()
        wait_until(
            lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids),
            what="the workers' end",
        )
        head.start()
        answer = head.run(SECOND)
        assert answer == {
            "value": 41,  # constructed anew: its state was the process's own
            "pid": answer["pid"],
            "lost": "gone",
            "group": True,
            "name": "taken",
        }, life
        assert answer["pid"] not in pids
        pids = {answer["pid"]}


def test_a_driver_whose_head_is_killed_gets_an_error_and_can_join_again(head):
    head.start()
    answer = head.run(
        f"""
        import signal, subprocess, sys, time

        @sheaf.remote
        def slow():
            time.sleep(60)

        ref = slow.remote()
        started = time.monotonic()
        os.kill({head.description["pid"]}, signal.SIGKILL)
        try:
            sheaf.get(ref, timeout=30)
            answer = dict(error="none")
        except sheaf.exceptions.RayError as error:
            answer = dict(error=type(error).__name__)
        except ConnectionError as error:
            answer = dict(error=type(error).__name__)
        answer["seconds"] = time.monotonic() - started
        sheaf.shutdown()
        command = [sys.executable, "-m", "sheaf", "start", "--head", "--num-cpus", "2", "--json"]
        subprocess.run(command + ["--session-dir", {head.directory!r}], check=True,
                       stdout=subprocess.DEVNULL)
        sheaf.init(address={head.directory!r})
        answer["again"] = sheaf.get(sheaf.remote(lambda: 7).remote(), timeout=30)
        sheaf.shutdown()
        print(json.dumps(answer))
        """
    )
    assert answer["error"] != "none" and answer["again"] == 7
    assert answer["seconds"] < 25  # of the 30 that get() would have waited


def test_a_dead_heads_journal_is_not_swept_away_by_the_next_cluster(head):
    head.start()
    head.run(FIRST)
    head.kill()
    embedded = "import sheaf; sheaf.init(num_cpus=1); sheaf.shutdown()"
    subprocess.run([sys.executable, "-c", embedded], check=True, timeout=60)
    head.start()
    assert head.run(SECOND)["value"] == 41
