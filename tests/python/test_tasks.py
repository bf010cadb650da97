"""Remote functions: arguments, results, errors, retries, nesting, cancellation."""

import functools
import os
import sys
import time

import numpy as np
import pytest
import sheaf
from conftest import wait_until

pytestmark = pytest.mark.usefixtures("cluster")


@sheaf.remote
def echo(*args, **kwargs):
    return args, kwargs


@sheaf.remote
def add(x, y=1):
    return x + y


@sheaf.remote
def sleep_for(seconds, value=None):
    time.sleep(seconds)
    return value


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -1,
        2**40,
        2**100,
        1.5,
        float("inf"),
        "",
        "text \u00e9\U0001f600",
        b"",
        b"bytes",
        (),
        (1, "a", (2,)),
        [],
        [1, [2, [3]]],
        {},
        {"a": {"b": [1]}},
        {1, 2},
        frozenset([1]),
        1 + 2j,
        range(5),
        ...,
        slice(1, 2),
        bytearray(b"x"),
        "x" * 10_000,
        b"y" * 1_000_000,
        list(range(1000)),
    ],
)
def test_values_come_back_as_they_went(value):
    result = sheaf.get(echo.remote(value, key=value))
    assert result == ((value,), {"key": value}) and type(result[0][0]) is type(value)
    assert sheaf.get(sheaf.put(value)) == value


def test_arrays_are_read_only_views():
    array = np.arange(1_000_000, dtype=np.float64).reshape(1000, 1000)
    (again,), _ = sheaf.get(echo.remote(array))
    assert np.array_equal(again, array) and again.dtype == array.dtype and not again.flags.writeable
    small = np.arange(3)
    assert np.array_equal(sheaf.get(sheaf.put(small)), small)


def test_the_same_object_twice_stays_the_same():
    inner = [1]
    result = sheaf.get(sheaf.put([inner, inner]))
    assert result[0] is result[1]


def test_references_as_arguments():
    ref = sheaf.put(5)
    assert sheaf.get(add.remote(ref, add.remote(ref))) == 11
    chain = add.remote(0)
    for _ in range(50):
        chain = add.remote(chain)
    assert sheaf.get(chain) == 51
    assert sheaf.get(add.remote(x=ref, y=ref)) == 10


@pytest.mark.parametrize("made", ["number", "array", "references", "error"])
def test_chains_of_results_that_are_not_made_yet(made):
    """Sent to the maker's worker at once: the runs after the first, when running times are known."""

    @sheaf.remote
    def first(x):
        if made == "error":
            raise KeyError("the first")
        return {"array": np.full(100_000, x), "references": [sheaf.put(x)]}.get(made, x)

    @sheaf.remote(num_returns=2)
    def step(x, n):
        return (x if made == "references" else x + n), n

    for _ in range(5):
        steps = [step.remote(first.remote(1), 1)]
        for n in range(2, 40):
            steps.append(step.remote(steps[-1][0], steps[-1][1]))
            if n == 20 and made != "error":
                assert sheaf.get(steps[-1][1]) == 1
        if made == "error":
            with pytest.raises(KeyError, match="the first"):
                sheaf.get(steps[-1][0])
            continue
        value = sheaf.get(steps[-1][0])
        assert (sheaf.get(value)[0] == 1) if made == "references" else np.all(value == 40)


def test_nested_references_stay_references():
    @sheaf.remote
    def inner_type(refs):
        return [type(ref).__name__ for ref in refs], sum(sheaf.get(refs))

    refs = [sheaf.put(i) for i in range(3)]
    assert sheaf.get(inner_type.remote(refs)) == (["ObjectRef"] * 3, 3)
    again = sheaf.get(echo.remote({"deep": [refs[1]]}))[0][0]["deep"][0]
    assert again == refs[1] and hash(again) == hash(refs[1]) and sheaf.get(again) == 1


def test_returned_references():
    @sheaf.remote
    def makes():
        return [sheaf.put("inner"), add.remote(1)]

    first, second = sheaf.get(makes.remote())
    assert sheaf.get([first, second]) == ["inner", 2]


def test_several_results():
    @sheaf.remote(num_returns=3)
    def three():
        return 1, [2], "3"

    assert sheaf.get(three.remote()) == [1, [2], "3"]
    assert sheaf.get(add.options(num_returns=1).remote(1)) == 2
    assert add.options(num_returns=0).remote(1) is None

    @sheaf.remote
    def counts():
        return tuple(range(3000))

    assert sheaf.get(counts.options(num_returns=3000).remote()) == list(range(3000))


@pytest.mark.parametrize("returned", [1, (1,), (1, 2, 3)])
def test_the_wrong_number_of_results(returned):
    ref, _ = sheaf.remote(num_returns=2)(lambda: returned).remote()
    with pytest.raises((ValueError, TypeError)):
        sheaf.get(ref)


def test_wrong_arguments_fail_at_the_call():
    with pytest.raises(TypeError, match="missing a required argument: 'x'"):
        add.remote()
    with pytest.raises(TypeError, match="too many positional"):
        add.remote(1, 2, 3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        add.remote(1, z=3)


def test_ten_thousand_arguments():
    assert len(sheaf.get(echo.remote(*range(10_000)))[0]) == 10_000
    refs = [sheaf.put(i) for i in range(2000)]
    assert sheaf.get(echo.remote(*refs))[0] == tuple(range(2000))


def test_many_tasks():
    assert sum(sheaf.get([add.remote(i) for i in range(20_000)])) == sum(range(20_000)) + 20_000


def test_closures_globals_and_partials_travel():
    base = 10

    def helper(x):
        return x + base

    @sheaf.remote
    def uses(x):
        return helper(x) + os.getpid() * 0

    assert sheaf.get(uses.remote(1)) == 11
    assert sheaf.get(echo.remote(functools.partial(helper, 5)))[0][0]() == 15


def test_functions_that_call_themselves():
    @sheaf.remote
    def factorial(n):
        return 1 if n <= 1 else n * sheaf.get(factorial.remote(n - 1))

    assert sheaf.get(factorial.remote(6), timeout=60) == 720


def test_nested_gets_deeper_than_the_cpus():
    @sheaf.remote
    def down(n):
        return 0 if n == 0 else 1 + sheaf.get(down.remote(n - 1))

    assert sheaf.get(down.remote(12), timeout=60) == 12


def test_remote_functions_and_their_options_can_be_passed():
    @sheaf.remote
    def call(f):
        return sheaf.get(f.remote(3))

    assert sheaf.get(call.remote(add)) == 4
    assert sheaf.get(call.remote(add.options(num_cpus=0.5))) == 4


def test_errors_keep_type_message_and_traceback():
    @sheaf.remote
    def broken(key):
        raise KeyError(key)

    with pytest.raises(KeyError) as info:
        sheaf.get(broken.remote("the key"))
    assert isinstance(info.value, sheaf.exceptions.RayTaskError)
    assert "the key" in str(info.value) and "raise KeyError(key)" in str(info.value)
    with pytest.raises(sheaf.exceptions.RayTaskError):
        sheaf.get(broken.remote(1))
    with pytest.raises(KeyError):
        sheaf.get([add.remote(1), broken.remote(2), add.remote(3)])


def test_errors_pass_through_dependent_tasks():
    @sheaf.remote
    def broken():
        raise ZeroDivisionError("once")

    with pytest.raises(ZeroDivisionError, match="once"):
        sheaf.get(add.remote(add.remote(broken.remote())))

    @sheaf.remote
    def asks():
        return sheaf.get(broken.remote())

    with pytest.raises(ZeroDivisionError, match="once"):
        sheaf.get(asks.remote())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
def test_exception_groups_and_causes():
    @sheaf.remote
    def group():
        raise ExceptionGroup("g", [ValueError(1), KeyError(2)])  # noqa: F821

    @sheaf.remote
    def caused():
        raise ValueError("effect") from KeyError("cause")

    with pytest.raises(ExceptionGroup) as info:  # noqa: F821
        sheaf.get(group.remote())
    assert len(info.value.exceptions) == 2
    with pytest.raises(ValueError) as info:
        sheaf.get(caused.remote())
    assert isinstance(info.value.__cause__, KeyError)


def test_infinite_recursion():
    @sheaf.remote
    def deep():
        def again():
            return again()

        return again()

    with pytest.raises(RecursionError):
        sheaf.get(deep.remote())
    assert sheaf.get(add.remote(1)) == 2


def test_what_cannot_be_pickled_is_named():
    import threading

    lock = threading.Lock()

    class Holder:
        def __init__(self):
            self.fine, self.hidden_lock = 1, threading.Lock()

    @sheaf.remote
    def captures():
        return lock

    @sheaf.remote
    def returns():
        return Holder()

    with pytest.raises(TypeError, match="captures(.|\n)*lock"):
        captures.remote()
    with pytest.raises(TypeError, match="hidden_lock"):
        add.remote(Holder())
    with pytest.raises(TypeError, match="hidden_lock"):
        sheaf.put(Holder())
    with pytest.raises(TypeError, match="hidden_lock|lock"):
        sheaf.get(returns.remote())
    assert sheaf.get(add.remote(1)) == 2


def test_retries_after_exceptions(tmp_path):
    @sheaf.remote
    def flaky(path, error, until=3):
        with open(path, "a") as file:
            file.write("x")
        if os.path.getsize(path) < until:
            raise error("again")
        return os.path.getsize(path)

    assert (
        sheaf.get(flaky.options(retry_exceptions=True).remote(str(tmp_path / "a"), ValueError)) == 3
    )
    only = flaky.options(retry_exceptions=[KeyError])
    with pytest.raises(ValueError):
        sheaf.get(only.remote(str(tmp_path / "b"), ValueError))
    assert os.path.getsize(tmp_path / "b") == 1
    with pytest.raises(KeyError):
        sheaf.get(only.options(max_retries=1).remote(str(tmp_path / "c"), KeyError, 5))
    assert os.path.getsize(tmp_path / "c") == 2


def test_crashes_are_retried_then_reported(tmp_path):
    @sheaf.remote
    def dies(path, how, until):
        with open(path, "a") as file:
            file.write("x")
        if os.path.getsize(path) < until:
            how()
        return os.path.getsize(path)

    def kill():
        os.kill(os.getpid(), 9)

    def segfault():
        import ctypes

        ctypes.string_at(0)

    for index, how in enumerate(
        (kill, segfault, functools.partial(os._exit, 1), functools.partial(sys.exit, 3))
    ):
        path = str(tmp_path / str(index))
        assert sheaf.get(dies.remote(path, how, 2), timeout=60) == 2
    with pytest.raises(sheaf.exceptions.WorkerCrashedError):
        sheaf.get(dies.options(max_retries=0).remote(str(tmp_path / "z"), kill, 2), timeout=60)
    assert sheaf.get(add.remote(1)) == 2


def test_max_calls_replaces_the_worker():
    @sheaf.remote(max_calls=1)
    def pid():
        return os.getpid()

    assert len({sheaf.get(pid.remote()) for _ in range(3)}) == 3


def test_cancelling():
    @sheaf.remote
    def blocks():
        time.sleep(100)

    running = blocks.remote()
    waiting = [blocks.options(num_cpus=4).remote() for _ in range(2)]
    time.sleep(0.5)
    for ref in (waiting[1], running):
        sheaf.cancel(ref)
        with pytest.raises(sheaf.exceptions.TaskCancelledError):
            sheaf.get(ref, timeout=20)
    sheaf.cancel(waiting[0], force=True)
    with pytest.raises((sheaf.exceptions.TaskCancelledError, sheaf.exceptions.WorkerCrashedError)):
        sheaf.get(waiting[0], timeout=20)
    done = add.remote(1)
    assert sheaf.get(done) == 2
    sheaf.cancel(done)
    assert sheaf.get(done) == 2
    with pytest.raises(TypeError, match="object refs"):
        sheaf.cancel(3)


def test_cancelling_reaches_children(tmp_path):
    marker = str(tmp_path / "child")

    @sheaf.remote
    def child():
        open(marker, "w").close()
        time.sleep(100)

    @sheaf.remote
    def parent():
        return sheaf.get(child.remote())

    ref = parent.remote()
    wait_until(lambda: os.path.exists(marker), what="the child's start")
    sheaf.cancel(ref, recursive=True)
    with pytest.raises(sheaf.exceptions.TaskCancelledError):
        sheaf.get(ref, timeout=20)
    wait_until(lambda: sheaf.available_resources().get("CPU") == 4.0, 20, "the child's end")


def test_workers_see_the_drivers_world(monkeypatch, tmp_path):
    @sheaf.remote
    def world():
        return os.getcwd(), sys.path, os.environ.get("PATH"), os.environ.get("SHEAF_TMPDIR")

    cwd, path, variable, other = sheaf.get(world.remote())
    assert (
        cwd == os.getcwd()
        and variable == os.environ["PATH"]
        and other == os.environ["SHEAF_TMPDIR"]
    )
    assert [p for p in sys.path if p and os.path.exists(p)][0] in path


def test_old_style_calls():
    assert sheaf.get(add._remote(args=[1], kwargs={"y": 5}, num_cpus=0.5)) == 6
    assert add.__name__ == "add" and repr(add).startswith("<sheaf.RemoteFunction")


def test_names_are_seen_by_the_state_api():
    from sheaf.util.state import list_tasks

    sheaf.get(add.options(name="a name of its own").remote(1))
    wait_until(
        lambda: list_tasks(filters=[("name", "=", "a name of its own")]), what="the task's row"
    )


def test_cancel_by_another_process_leaves_a_finished_task_alone():
    @sheaf.remote
    def cancel(references):
        sheaf.cancel(references[0])
        return True

    reference = add.remote(1, 2)
    assert sheaf.get(reference) == 3
    assert sheaf.get(cancel.remote([reference])) is True
    assert sheaf.get(reference) == 3
    sheaf.cancel(reference)
