"""`pip install` into a clean environment, outside the tree: Python, command line, C++."""

from __future__ import annotations

import re
import shutil

import pytest
from conftest import ROOT, run

FIVE_LINES = """
import sheaf
@sheaf.remote
def square(x):
    return x * x
print(sheaf.get([square.remote(i) for i in range(4)]))
"""


def test_five_line_example_runs(outside, clean_env, tmp_path):
    script = tmp_path / "five.py"
    script.write_text(FIVE_LINES)
    result = run([outside / "env/bin/python", script], env=clean_env, cwd=tmp_path)
    assert result.stdout == "[0, 1, 4, 9]\n"


def test_command_line_is_installed(outside, clean_env, tmp_path):
    result = run([outside / "env/bin/sheaf", "version"], env=clean_env, cwd=tmp_path)
    assert "0.1.0" in result.stdout
    run([outside / "env/bin/python", "-m", "sheaf", "version"], env=clean_env, cwd=tmp_path)


def test_package_has_stubs_headers_library_and_daemon(outside):
    package = next((outside / "env").glob("lib/python*/site-packages/sheaf"))
    for name in (
        "py.typed",
        "_core.pyi",
        "bin/sheafd",
        "lib/libsheaf.so",
        "lib/cmake/Sheaf/SheafConfig.cmake",
        "include/sheaf/sheaf.h",
        "include/sheaf/core/status.h",
    ):
        assert (package / name).exists(), name
    assert not list(package.rglob("*.cc"))


def test_nothing_in_the_package_points_into_the_checkout(outside):
    package = next((outside / "env").glob("lib/python*/site-packages/sheaf"))
    for path in package.rglob("*.cmake"):
        assert str(ROOT) not in path.read_text(), path
    if shutil.which("readelf") is None:
        pytest.skip("no readelf")
    for path in [package / "bin/sheafd", package / "lib/libsheaf.so", *package.glob("_core*.so")]:
        dynamic = run(["readelf", "-d", path]).stdout
        assert str(ROOT) not in dynamic, path


def test_cpp_program_builds_against_the_package_and_runs(outside, clean_env, tmp_path):
    package = next((outside / "env").glob("lib/python*/site-packages/sheaf"))
    source = tmp_path / "source"
    shutil.copytree(ROOT / "examples/cpp", source)
    build = tmp_path / "build"
    run(
        ["cmake", "-S", source, "-B", build, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={package}"],
        env=clean_env,
    )
    run(["cmake", "--build", build], env=clean_env)
    program = build / "square"
    result = run([program], env=clean_env, cwd=tmp_path)
    assert "0 1 4 9" in result.stdout
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "docs/cpp.md").read_text(), re.S | re.M)
    expected = next(text for language, text in blocks if not language)
    assert run([build / "tour"], env=clean_env, cwd=tmp_path).stdout == expected
    python = outside / "env/bin/python"
    result = run([build / "call_python", source, python], env=clean_env, cwd=tmp_path)
    assert result.stdout.splitlines() == ["'to be' of 18", "1.414", "thorn", "ValueError: no words"]
    library = build / "libtext_tasks.so"
    result = run([python, source / "text_tools.py", library], env=clean_env, cwd=tmp_path)
    assert result.stdout.splitlines() == ["{'a': 2, 'is': 1, 'rose': 2} 3", "True True"]


def test_the_page_shows_the_programs_that_run():
    page = (ROOT / "docs/cpp.md").read_text()
    for name in ("tour.cc", "call_python.cc"):
        assert f"```cpp\n{(ROOT / 'examples/cpp' / name).read_text()}```" in page, name
