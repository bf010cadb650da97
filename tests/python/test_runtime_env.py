"""Runtime environments for real: variables, directories, modules, packages, hooks, failures."""

import os
import subprocess
import sys
import textwrap
import zipfile

import pytest
import sheaf


@sheaf.remote
def environ(name):
    return os.environ.get(name)


@pytest.fixture(scope="module")
def wheel_dir(tmp_path_factory):
    """A package index in a directory: one pure-Python wheel, made by hand."""
    folder = tmp_path_factory.mktemp("index")
    with zipfile.ZipFile(folder / "sheaf_test_pkg-1.2-py3-none-any.whl", "w") as wheel:
        info = "sheaf_test_pkg-1.2.dist-info"
        wheel.writestr("sheaf_test_pkg.py", "VALUE = 'from the wheel'\n")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: sheaf-test-pkg\nVersion: 1.2\n"
        )
        wheel.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(
            f"{info}/RECORD",
            f"sheaf_test_pkg.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n",
        )
    return folder


def test_variables(cluster):
    assert sheaf.get(environ.remote("SHEAF_TEST_X")) is None
    with_x = environ.options(
        runtime_env={"env_vars": {"SHEAF_TEST_X": "1", "SHEAF_TEST_PATH": "/a:${PATH}"}}
    )
    assert sheaf.get(with_x.remote("SHEAF_TEST_X"), timeout=60) == "1"
    assert sheaf.get(with_x.remote("SHEAF_TEST_PATH")) == "/a:" + os.environ["PATH"]
    assert sheaf.get(environ.remote("SHEAF_TEST_X")) is None


def test_children_inherit_and_merge(cluster):
    @sheaf.remote
    def parent():
        child = environ.options(runtime_env={"env_vars": {"SHEAF_B": "child"}})
        return sheaf.get(
            [environ.remote("SHEAF_A"), child.remote("SHEAF_A"), child.remote("SHEAF_B")]
        )

    env = {"env_vars": {"SHEAF_A": "a", "SHEAF_B": "b"}}
    assert sheaf.get(parent.options(runtime_env=env).remote(), timeout=60) == ["a", "a", "child"]


def test_an_actor_has_its_own(cluster):
    @sheaf.remote
    class Reader:
        def get(self):
            return os.environ.get("SHEAF_TEST_Y"), sheaf.get_runtime_context().runtime_env[
                "env_vars"
            ]

    reader = Reader.options(runtime_env={"env_vars": {"SHEAF_TEST_Y": "y"}}).remote()
    assert sheaf.get(reader.get.remote(), timeout=60) == ("y", {"SHEAF_TEST_Y": "y"})


def test_modules_and_directories(cluster, tmp_path):
    (tmp_path / "mod_of_test").mkdir()
    (tmp_path / "mod_of_test" / "__init__.py").write_text("VALUE = 5\n")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "data.txt").write_text("data")
    (tmp_path / "work" / "beside.py").write_text("VALUE = 6\n")

    @sheaf.remote
    def read():
        import beside
        import mod_of_test

        return mod_of_test.VALUE, beside.VALUE, open("data.txt").read()

    env = {"py_modules": [str(tmp_path / "mod_of_test")], "working_dir": str(tmp_path / "work")}
    assert sheaf.get(read.options(runtime_env=env).remote(), timeout=60) == (5, 6, "data")


def test_packages_from_a_directory(cluster, wheel_dir):
    @sheaf.remote
    def value():
        import sheaf_test_pkg

        return sheaf_test_pkg.VALUE

    env = {
        "pip": {
            "packages": ["sheaf-test-pkg"],
            "pip_install_options": ["--no-index", "--find-links", str(wheel_dir)],
        }
    }
    assert sheaf.get(value.options(runtime_env=env).remote(), timeout=110) == "from the wheel"
    with pytest.raises(ModuleNotFoundError):
        sheaf.get(value.remote())
    wheel = {"py_modules": [str(next(wheel_dir.glob("*.whl")))]}
    assert sheaf.get(value.options(runtime_env=wheel).remote(), timeout=60) == "from the wheel"


def test_failures_are_told(cluster, tmp_path):
    missing = {
        "pip": {
            "packages": ["no-such-package-of-sheaf"],
            "pip_install_options": ["--no-index", "--find-links", str(tmp_path)],
        }
    }
    with pytest.raises(sheaf.exceptions.RuntimeEnvSetupError, match="no-such-package-of-sheaf"):
        sheaf.get(environ.options(runtime_env=missing).remote("x"), timeout=110)

    def broken_hook():
        raise RuntimeError("the hook is broken")

    with pytest.raises(sheaf.exceptions.RuntimeEnvSetupError, match="the hook is broken"):
        sheaf.get(
            environ.options(runtime_env={"worker_process_setup_hook": broken_hook}).remote("x"),
            timeout=60,
        )
    with pytest.raises(ValueError, match="not a directory"):
        environ.options(runtime_env={"working_dir": str(tmp_path / "none")}).remote("x")
    assert sheaf.get(environ.remote("HOME")) == os.environ.get("HOME")


def test_hooks_run_first(cluster):
    def hook():
        os.environ["SHEAF_TEST_HOOK"] = "ran"

    assert (
        sheaf.get(
            environ.options(runtime_env={"worker_process_setup_hook": hook}).remote(
                "SHEAF_TEST_HOOK"
            ),
            timeout=60,
        )
        == "ran"
    )


def test_the_jobs_environment(no_cluster, tmp_path):
    (tmp_path / "here.py").write_text("VALUE = 'here'\n")
    sheaf.init(
        num_cpus=2, runtime_env={"working_dir": str(tmp_path), "env_vars": {"SHEAF_JOB": "job"}}
    )

    @sheaf.remote
    def both():
        import here

        return here.VALUE, os.environ["SHEAF_JOB"]

    assert sheaf.get(both.remote(), timeout=60) == ("here", "job")
    more = both.options(runtime_env={"env_vars": {"SHEAF_MORE": "1"}})
    assert sheaf.get(more.remote(), timeout=60) == ("here", "job")


def test_modules_beside_the_script_are_found(no_cluster, tmp_path):
    (tmp_path / "helper_of_script.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "script.py").write_text(
        textwrap.dedent("""
        import sheaf, helper_of_script
        sheaf.init(num_cpus=1)
        print(sheaf.get(sheaf.remote(helper_of_script.double).remote(21)))
    """)
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
    )
    assert done.stdout.strip() == "42", done.stderr


def test_another_interpreter_is_refused():
    assert sheaf.runtime_env.RuntimeEnv(py_executable=sys.executable)
    with pytest.raises(ValueError, match="py_executable"):
        sheaf.runtime_env.RuntimeEnv(py_executable="uv run")
