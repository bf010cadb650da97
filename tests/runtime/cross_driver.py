"""A Python driver of C++ functions and actors; run by cross_test. The exit status tells.

Argument: the C++ library of these tests.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time

import sheaf
from sheaf import exceptions
from sheaf.cross_language import cpp_actor_class, cpp_function

LIBRARY = sys.argv[1]


def function(name):
    return cpp_function(name, library=LIBRARY)


def call(name, *args):
    return sheaf.get(function(name).remote(*args), timeout=60)


def raises(kind, words, action):
    try:
        got = action()
    except kind as error:
        assert all(word in str(error) for word in words), f"{error!r} lacks one of {words}"
        return error
    raise AssertionError(f"no {kind.__name__} but {got!r}")


def check_values():
    assert call("add", 3, -5) == -2
    assert call("add", 2**62, 2**62 - 1) == 2**63 - 1
    assert call("repeat", "hé", 2) == "héhé"
    assert call("nothing") is None
    assert call("cross_check", b"\0\1\2", True, 2, "t") == "3 true 2.000000 t"
    assert call("sum", [1, 2, 3]) == 6 and call("sum", (4, 5)) == 9 and call("sum", []) == 0
    assert call("ramp", 4) == [0.0, 1.0, 2.0, 3.0]
    assert call("ramp", 30_000)[-1] == 29_999.0
    assert call("total", [0.5] * 30_000) == 15_000.0
    for value in (
        None,
        True,
        False,
        0,
        -1,
        2**63,
        2**64 - 1,
        1.5,
        math.inf,
        "",
        "text",
        b"",
        b"\xff\0",
        [],
        {},
        [1, [2.0, ["three", None]]],
        (1, "two"),
        {"a": [1, {"b": None}], 3: b"x", "t": (1,)},
        "x" * 100_000,
        [list(range(50)) for _ in range(50)],
    ):
        back = call("same_value", value)
        expected = list(value) if isinstance(value, tuple) else value
        if isinstance(value, dict) and "t" in value:
            expected = {**value, "t": [1]}
        assert back == expected and type(back) is type(expected), (value, back)
    assert call("word_counts", "b a b") == {"a": 1, "b": 2}
    assert call("maybe", None) is None and call("maybe", 4) == 5
    assert call("group_by_length", ["a", "bb", "c"]) == {1: ["a", "c"], 2: ["bb"]}


def check_references():
    add = function("add")
    assert sheaf.get(add.remote(add.remote(1, 2), sheaf.put(4)), timeout=60) == 7
    assert sheaf.get(function("add").remote(sheaf.put(40), 2), timeout=60) == 42
    refs = [add.remote(i, i) for i in range(5)]
    assert call("sum_of_refs", refs) == 20
    made = call("make_refs", 4)
    assert sheaf.get(made, timeout=60) == [0, 1, 4, 3]
    assert sheaf.get(sheaf.remote(lambda x: x + 1).remote(add.remote(1, 1)), timeout=60) == 3


def task_error(words, action):
    error = raises(exceptions.CrossLanguageError, words, action)
    assert isinstance(error, exceptions.RayError)


def check_errors():
    task_error(["std::invalid_argument", "the reason"], lambda: call("fail", "the reason"))
    task_error(["no std::exception"], lambda: call("fail_oddly"))
    task_error(["expected an integer"], lambda: call("add", "one", 2))
    task_error(["takes 2 arguments, but 1"], lambda: call("add", 1))
    task_error(["does not fit"], lambda: call("add", 2**63, 0))
    task_error(["registers no function"], lambda: call("no_such_function"))
    raises(TypeError, ["plain data"], lambda: call("add", object(), 1))
    raises(TypeError, ["plain data"], lambda: call("sum", {1, 2}))
    broken = cpp_function("f", library="/nonexistent.so")
    raises(exceptions.RayError, ["nonexistent.so"], lambda: sheaf.get(broken.remote(), timeout=60))
    raises(ValueError, ["SHEAF_CPP_LIBRARY"], lambda: cpp_function("f"))
    dying = function("die").options(max_retries=0)
    ref = dying.remote(int(signal.SIGSEGV))
    raises(exceptions.WorkerCrashedError, [], lambda: sheaf.get(ref, timeout=60))
    assert call("add", 1, 1) == 2


def check_actors():
    counter_class = cpp_actor_class("testlib::Counter", "Counter", library=LIBRARY)
    counter = counter_class.remote(10)
    assert sheaf.get(counter.add.remote(5), timeout=60) == 15
    assert sheaf.get([counter.log.remote(i) for i in range(3)], timeout=60)[-1] == [0, 1, 2]

    def value_of(method, *args):
        return sheaf.get(method.remote(*args), timeout=60)

    task_error(["std::out_of_range", "far"], lambda: value_of(counter.fail, "far"))
    task_error(["registers no method"], lambda: value_of(counter.nope))
    named = counter_class.options(name="cpp-counter", max_restarts=1).remote(1)
    pid = sheaf.get(named.pid.remote(), timeout=60)
    again = sheaf.get_actor("cpp-counter")
    assert sheaf.get(again.add.remote(1), timeout=60) == 2
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while True:  # restarted: its state is new
        try:
            assert sheaf.get(again.get.remote(), timeout=30) == 1
            break
        except exceptions.RayActorError:
            assert time.monotonic() < deadline

    @sheaf.remote
    def uses(handle):
        return sheaf.get(handle.add.remote(100), timeout=60)

    assert sheaf.get(uses.remote(named), timeout=60) == 101
    sheaf.kill(named)
    raises(exceptions.RayActorError, [], lambda: value_of(again.get))
    broken = cpp_actor_class("testlib::Broken", library=LIBRARY).remote()
    raises(exceptions.RayActorError, ["cannot be made"], lambda: value_of(broken.get))
    wrong = counter_class.remote("text")
    raises(exceptions.RayActorError, ["expected an integer"], lambda: value_of(wrong.get))


def check_both_at_once():
    """C++ tasks of a Python driver that call Python in turn."""
    assert call("call_python_add", 20, 22) == 42


if __name__ == "__main__":
    sheaf.init(num_cpus=2, log_to_driver=False)
    for check in (check_values, check_references, check_errors, check_actors, check_both_at_once):
        check()
        print(check.__name__, "passed", flush=True)
    sheaf.shutdown()
