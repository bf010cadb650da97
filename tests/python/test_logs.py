"""What workers print reaches the driver's terminal."""

import subprocess
import sys
import textwrap

import pytest


def run(code: str, **environment) -> subprocess.CompletedProcess:
    import os

    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


PRINTS = """
import sys, sheaf
sheaf.init(num_cpus=2{more})
@sheaf.remote
def speak(i):
    print("out", i)
    print("err", i, file=sys.stderr)
@sheaf.remote
class Talker:
    def talk(self): print("from an actor")
sheaf.get(speak.remote(7))
t = Talker.remote()
sheaf.get(t.talk.remote())
"""


def test_output_is_prefixed_and_kept_apart(no_cluster):
    done = run(PRINTS.format(more=""))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("(speak pid=") and line.endswith("out 7") for line in lines), (
        done.stdout
    )
    assert any("Talker" in line and line.endswith("from an actor") for line in lines), done.stdout
    assert any(
        line.startswith("(speak pid=") and line.endswith("err 7")
        for line in done.stderr.splitlines()
    )
    assert "err 7" not in done.stdout and "\033[" not in done.stdout


def test_output_can_be_turned_off(no_cluster):
    done = run(PRINTS.format(more=", log_to_driver=False"))
    assert "out 7" not in done.stdout and "err 7" not in done.stderr


def test_a_last_line_is_not_lost(no_cluster):
    code = """
    import sheaf
    sheaf.init(num_cpus=1)
    @sheaf.remote
    def last(): print("the last words")
    sheaf.get(last.remote())
    sheaf.shutdown()
    """
    for _ in range(3):
        assert "the last words" in run(code).stdout


def test_floods_are_folded(no_cluster):
    code = """
    import sheaf
    sheaf.init(num_cpus=2)
    @sheaf.remote(num_cpus=0)
    class Many:
        def say(self): print("all say this")
    many = [Many.remote() for _ in range(5)]
    sheaf.get([m.say.remote() for m in many])
    """
    done = run(code)
    assert done.stdout.count("all say this") == 2 and "[repeated 4x across workers]" in done.stdout
    assert run(code, SHEAF_DEDUP_LOGS="0").stdout.count("all say this") == 5


@pytest.mark.parametrize("colour, expected", [("1", True), ("0", False)])
def test_colours_can_be_chosen(no_cluster, colour, expected):
    assert ("\033[" in run(PRINTS.format(more=""), SHEAF_COLOR=colour).stdout) is expected
