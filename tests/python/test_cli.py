"""The command line."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import sheaf
from conftest import marked_processes, wait_until


def run(*arguments, timeout=60, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "sheaf", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
    )


def test_without_a_cluster_it_says_so(no_cluster):
    for command in (
        ["status"],
        ["list", "nodes"],
        ["summary"],
        ["logs"],
        ["memory"],
        ["timeline"],
        ["stop"],
    ):
        done = run(*command)
        assert (
            done.returncode == 1 and "cluster" in done.stderr and "Traceback" not in done.stderr
        ), (command, done)


def test_wrong_usage(no_cluster):
    for command in (
        ["start"],
        ["start", "--head", "--num-cpus", "many"],
        ["start", "--head", "--num-cpus", "-1"],
        ["start", "--head", "--resources", "gold"],
        ["start", "--head", "--config", "nothing"],
        ["start", "--address", "x"],
        ["start", "--head", "--address", "10.0.0.1:1"],
        ["list", "dreams"],
        ["list"],
        ["no-such"],
        ["status", "--bogus"],
        ["run"],
        ["run", "no such file.py"],
    ):
        done = run(*command)
        assert done.returncode == 2 and done.stdout == "", (command, done)
        assert len(done.stderr.splitlines()) == 1, (command, done)
    done = run()
    assert done.returncode == 2 and "Usage" in done.stdout + done.stderr


def test_every_command_has_help():
    for command in ("start", "stop", "status", "list", "summary", "logs", "timeline", "memory", "run"):
        done = run(command, "--help")
        assert done.returncode == 0 and "Usage" in done.stdout and done.stderr == "", done


def test_version_and_help():
    assert run("version").stdout.startswith(f"sheaf {sheaf.__version__}")
    text = run("--help").stdout
    for command in (
        "start",
        "stop",
        "status",
        "list",
        "logs",
        "timeline",
        "memory",
        "run",
        "microbenchmark",
        "doctor",
    ):
        assert command in text


@pytest.fixture(scope="module")
def started():
    sheaf.shutdown()
    done = run(
        "start",
        "--head",
        "--num-cpus",
        "2",
        "--resources",
        '{"gold": 1}',
        "--labels",
        "zone=z",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    yield json.loads(done.stdout)
    run("stop")
    wait_until(lambda: not marked_processes(), what="the end of all processes")


def test_a_started_cluster_is_found_used_and_left_running(started):
    code = textwrap.dedent("""
        import sheaf
        sheaf.init("auto", namespace="n")
        print(sheaf.get(sheaf.remote(lambda: 5).remote()))
        @sheaf.remote
        class Kept:
            def get(self): return 1
        sheaf.get(Kept.options(name="kept", lifetime="detached").remote().get.remote())
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "5", done.stderr
    status = json.loads(run("status", "--json").stdout)
    assert status["cluster_resources"]["CPU"] == 2.0 and status["cluster_resources"]["gold"] == 1.0
    assert "gold" in run("status").stdout
    assert run("status", "--address", started["session_dir"]).returncode == 0
    actors = json.loads(run("list", "actors", "--json", "--filter", "state=ALIVE").stdout)
    assert [row["name"] for row in actors] == ["kept"]
    assert "kept" in run("list", "actors").stdout
    for what in (
        "nodes",
        "tasks",
        "objects",
        "workers",
        "jobs",
        "placement-groups",
        "runtime-envs",
        "cluster-events",
    ):
        done = run("list", what)
        assert done.returncode == 0, done.stderr
        assert isinstance(json.loads(run("list", what, "--json").stdout), list)
    for what in ("tasks", "actors", "objects"):
        assert run("summary", what).returncode == 0
    assert "sheafd" in run("logs").stdout
    assert run("memory").returncode == 0


def test_timeline_is_written(started, tmp_path):
    done = run("timeline", "-o", str(tmp_path / "t.json"))
    assert done.returncode == 0 and isinstance(json.loads((tmp_path / "t.json").read_text()), list)


def test_json_is_json_everywhere(started):
    for command in (["status"], ["memory"], ["summary", "actors"], ["list", "tasks", "--limit", "1"]):
        done = run(*command, "--json")
        assert done.returncode == 0, done
        json.loads(done.stdout)
    assert run("list", "actors", "--filter", "state").returncode == 2


def test_a_script_runs_in_a_started_cluster(started, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import ray, sys\n"
        "ray.init()\n"
        "assert ray.cluster_resources()['gold'] == 1\n"
        "total = ray.remote(lambda numbers: sum(numbers))\n"
        "print(ray.get(total.remote([int(text) for text in sys.argv[1:]])))\n"
        "sys.exit(7)\n"
    )
    done = run("run", "--as-ray", "--address", started["session_dir"], str(script), "3", "4")
    assert done.returncode == 7 and done.stdout.strip() == "7", done
    jobs = json.loads(run("list", "jobs", "--json").stdout)
    assert any(str(script) in row["entrypoint"] for row in jobs)


def test_the_log_of_an_actor_can_be_read(started):
    code = textwrap.dedent("""
        import sheaf
        sheaf.init("auto", namespace="logs", log_to_driver=False)
        @sheaf.remote
        class Speaker:
            def speak(self):
                print("said by the actor", flush=True)
        speaker = Speaker.options(name="speaker", lifetime="detached").remote()
        sheaf.get(speaker.speak.remote())
        print(speaker._actor_id.hex())
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    actor_id = done.stdout.strip()
    assert actor_id, done.stderr
    shown = wait_until(
        lambda: "said by" in (text := run("logs", "--actor-id", actor_id).stdout) and text,
        what="the actor's log",
    )
    assert "said by the actor" in shown
    assert "said by" not in run("logs", "--actor-id", actor_id, "--err").stdout


def test_stop_ends_its_own_cluster_only(started):
    sheaf.shutdown()
    with sheaf.init("local", num_cpus=1):
        second = json.loads(run("start", "--head", "--num-cpus", "1", "--json").stdout)
        done = run("stop", "--address", second["session_dir"])
        assert done.returncode == 0 and second["session_dir"] in done.stdout
        assert not os.path.exists(os.path.join(second["session_dir"], "sheafd.sock"))
        assert sheaf.get(sheaf.remote(lambda: 1).remote()) == 1
    assert json.loads(run("status", "--json").stdout)["session_dir"] == started["session_dir"]


def test_doctor(no_cluster):
    done = run("doctor", "--json", timeout=100)
    findings = json.loads(done.stdout)
    assert done.returncode == 0 and {row["check"] for row in findings} >= {
        "python",
        "sheafd",
        "cpus",
        "memory",
    }, done.stdout
