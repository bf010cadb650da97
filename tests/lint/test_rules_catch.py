"""A rule that cannot fail is none: each is shown what it must catch and what it must let pass."""

import rules


def test_includes():
    assert rules.check_includes("core/a.cc", '#include "transport/lane.h"\n')
    assert rules.check_includes("gpu/a.h", '#include "transport/lane.h"\n')
    assert rules.check_includes("launchers/a.cc", '#include "python/x.h"\n')
    fine = '#include "gpu/device.h"\n#include "objstore/b.h"\n#include <map>\n'
    assert not rules.check_includes("objstore/a.cc", fine)


def test_python_imports():
    assert rules.check_python_imports("x.py", "import numpy\n", {"os"})
    guarded = "try:\n    from rich.table import Table\nexcept ImportError:\n    pass\n"
    assert rules.check_python_imports("x.py", guarded, {"os"})
    fine = "import os.path\nfrom . import y\ndef f():\n    import numpy\n"
    assert not rules.check_python_imports("x.py", fine, {"os"})
    typing_only = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import numpy\n"
    assert not rules.check_python_imports("x.py", typing_only, {"typing"})


def test_cpp_functions():
    body = "  f();\n" * 80
    text = "namespace a {\nstruct S {\n  int g() { return 1; }\n};\nvoid long_one(int x) {\n"
    text += body + "}\n}\n"
    assert rules.cpp_functions(text) == [(3, 1), (5, 82)]
    assert rules.cpp_functions("void f() {\n  auto s = \"}{\";  // }\n  char c = '{';\n}\n") == [
        (1, 4)
    ]
    assert rules.cpp_functions("int x = {1};\nenum class E { kA };\n") == []
    assert rules.cpp_functions("A::A(int x)\n    : x_(x) {\n  g();\n}\n") == [(1, 4)]
    assert rules.cpp_functions("void f() {\n  auto g = [&](int y) {\n    h();\n  };\n}\n") == [
        (1, 5)
    ]


def test_python_functions():
    assert rules.python_functions("def f():\n    x = 1\n    return x\n") == [(1, 3)]


def test_purity():
    for line in (
        "auto t = Clock::now();",
        "std::mutex m;",
        "#include <thread>",
        "int r = rand();",
        "time(nullptr)",
    ):
        assert rules.check_purity("scheduler/a.cc", line), line
    for line in ("Time now;", "// std::thread is not used", "handle(event, now);", "runtime(x);"):
        assert not rules.check_purity("scheduler/a.cc", line), line


def test_words():
    assert rules.check_words("a.cc", "// TO" + "DO: later")
    assert rules.check_words("a.py", "open('/ro" + "ot/x')")
    assert not rules.check_words("a.cc", "// what is to do: nothing, see framework/work/x")


def test_header():
    assert rules.check_header("a.h", "#pragma once\n")
    assert rules.check_header("a.h", "// A.\n")
    assert not rules.check_header("a.h", "// A.\n#pragma once\n")


def test_names():
    for bad in ("LaneRegion.h", "lane-region.cc", "x.cpp"):
        assert not rules.FILE_NAME.match(bad), bad
    for good in ("lane_region.h", "__init__.py", "_core.pyi", "sha256.cc"):
        assert rules.FILE_NAME.match(good), good
