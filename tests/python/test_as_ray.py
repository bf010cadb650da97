"""Programs written for Ray."""

import os
import subprocess
import sys
import textwrap

import pytest
import ray_names
import sheaf

PROGRAM = """
import sys
import ray
import ray.util
import ray.util.state
import ray.util.placement_group
import ray.util.scheduling_strategies
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayTaskError
from ray.util.placement_group import placement_group
from ray.util.queue import Queue
from ray.util import ActorPool
import ray.cloudpickle as pickle

assert sys.argv[1:] == ["one", "--two"], sys.argv

ray.init(num_cpus=2)

@ray.remote
def inside(x):
    import ray as again
    import ray.util.queue
    return isinstance(x, int), again.get(again.put(x)), sorted(m for m in sys.modules if m == "ray")

@ray.remote
class Actor:
    def fail(self):
        raise KeyError("k")

assert ray.get(inside.remote(5)) == (True, 5, ["ray"])
a = Actor.remote()
assert isinstance(a, ActorHandle)
try:
    ray.get(a.fail.remote())
except RayTaskError as e:
    assert isinstance(e, KeyError)
assert ray.util.placement_group is placement_group and callable(placement_group)
group = ray.util.placement_group([{"CPU": 1}])
assert ray.get(group.ready()) == group
import sheaf
assert ray is sheaf and ray.util.queue is sheaf.util.queue
print("done", ray.__name__)
"""


def test_a_program_for_ray_runs_unchanged(no_cluster, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sheaf",
            "run",
            "--as-ray",
            str(tmp_path / "program.py"),
            "one",
            "--two",
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0 and "done sheaf" in done.stdout, done.stdout + done.stderr


def test_the_import_alone_is_enough(no_cluster):
    code = """
    import sheaf.as_ray
    import ray
    ray.init(num_cpus=1)
    @ray.remote
    def f():
        import ray.util.queue
        return ray.__name__
    print(ray.get(f.remote()))
    try:
        import ray.no_such_thing
    except ModuleNotFoundError as e:
        print(e.name)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["sheaf", "ray.no_such_thing"], done.stderr


def test_the_exit_status_is_the_scripts(no_cluster, tmp_path):
    (tmp_path / "exits.py").write_text("import sys; sys.exit(7)")
    assert (
        subprocess.run(
            [sys.executable, "-m", "sheaf", "run", str(tmp_path / "exits.py")], timeout=60
        ).returncode
        == 7
    )
    done = subprocess.run(
        [sys.executable, "-m", "sheaf", "run", str(tmp_path / "none.py")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "none.py" in done.stderr


@pytest.mark.parametrize("module, name, parameters", ray_names.rows())
def test_every_name_of_rays_core_is_here(module, name, parameters):
    if (module, name) not in ray_names.LEFT_OUT:
        assert ray_names.missing_parameters(module, name, parameters) == []


def test_top_level_is_complete():
    for name in sheaf.__all__:
        if name not in ("_config", "data"):
            getattr(sheaf, name)
