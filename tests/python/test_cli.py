"""The command line."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap

import numpy
import pytest
import sheaf
from conftest import marked_processes, wait_until
from sheaf.util.scheduling_strategies import NodeAffinitySchedulingStrategy


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
        ["metrics"],
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
        "topology",
    ):
        done = run("list", what)
        assert done.returncode == 0, done.stderr
        assert isinstance(json.loads(run("list", what, "--json").stdout), list)
    for what in ("tasks", "actors", "objects"):
        assert run("summary", what).returncode == 0
    assert "sheafd" in run("logs").stdout
    assert run("memory").returncode == 0


def test_programs_for_ray_join_a_started_cluster(started, tmp_path):
    script = tmp_path / "program.py"
    script.write_text("import ray; print(ray.init().address_info['session_dir'])")
    done = run("run", "--as-ray", str(script))
    assert done.stdout.strip() == started["session_dir"], done.stderr
    own = "import sheaf; print(sheaf.init().address_info['session_dir'])"
    script.write_text(own)
    assert run("run", str(script)).stdout.strip() != started["session_dir"]
    script.write_text(own.replace("sheaf", "ray").replace("init()", "init(num_cpus=1)"))
    assert run("run", "--as-ray", str(script)).stdout.strip() != started["session_dir"]


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


@pytest.fixture
def two_nodes_over_ipv6(no_cluster, tmp_path):
    """The head's description and the other node's; they know each other by [::1]."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")

    def start(*arguments):
        done = run("start", *arguments, "--num-cpus", "1", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    head = start("--head", "--listen", "[::1]:0")
    try:
        yield head, start("--address", head["address"])
    finally:
        sheaf.shutdown()
        run("stop", "--all")
        wait_until(lambda: not marked_processes(), what="the end of all processes")


def test_nodes_meet_over_ipv6_and_are_seen_together(two_nodes_over_ipv6, tmp_path):
    head, other = two_nodes_over_ipv6
    assert head["address"].startswith("[::1]:") and other["address"].startswith("[::1]:")
    sheaf.init(address=head["session_dir"], log_to_driver=False)
    wait_until(lambda: len(sheaf.nodes()) == 2, what="both nodes")
    assert {node["NodeManagerAddress"] for node in sheaf.nodes()} == {"::1"}

    @sheaf.remote
    def double(array):
        return array * 2, sheaf.get_runtime_context().get_node_id()

    def on(node):
        return double.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))

    ids = [head["node_id"], other["node_id"]]
    large = sheaf.put(numpy.ones(1 << 20))  # goes there, and its double comes back
    found = sheaf.get([on(node).remote(large) for node in ids])
    assert [node for _, node in found] == ids
    assert all(array.sum() == 2 << 20 for array, _ in found)

    def tracks():
        assert run("timeline", "--daemons", "-o", str(tmp_path / "t.json")).returncode == 0
        events = json.loads((tmp_path / "t.json").read_text())
        ran = {event["pid"] for event in events if event["name"] == "double"}
        named = [event for event in events if event["name"] == "process_name"]
        return events if len(ran) == len(named) == 2 else None

    events = wait_until(tracks, what="the events of both nodes")
    when = [event["ts"] for event in events if "ts" in event]
    assert max(when) - min(when) < 600e6, "daemons and tasks have the same clock"

    lines = run("metrics").stdout.splitlines()
    for name in ("sheaf_workers", "sheaf_resources_total"):
        rows = [number for number, line in enumerate(lines) if line.startswith(name + "{")]
        assert rows == list(range(rows[0], rows[0] + len(rows))), "a family stands together"
        assert {node for node in ids for row in rows if f'node_id="{node}"' in lines[row]} == set(ids)
    helps = [line for line in lines if line.startswith("# HELP")]
    assert len(helps) == len({line.split()[2] for line in helps})

    # A node whose head is away shows what it knows, if not the nodes' addresses.
    sheaf.shutdown()
    os.kill(head["pid"], signal.SIGKILL)
    done = run("timeline", "-o", str(tmp_path / "t.json"), "--address", other["session_dir"])
    assert done.returncode == 0, done
    events = json.loads((tmp_path / "t.json").read_text())
    assert [event["pid"] for event in events if event["name"] == "double"] == [
        f"node {other['node_id'][:8]}"
    ]
    shutil.rmtree(head["session_dir"])


def test_doctor(no_cluster):
    done = run("doctor", "--json", timeout=100)
    findings = json.loads(done.stdout)
    assert done.returncode == 0 and {row["check"] for row in findings} >= {
        "python",
        "sheafd",
        "cpus",
        "memory",
    }, done.stdout
