"""Several returns: what a generator has yielded before it fails is kept."""

from __future__ import annotations

import pytest

import sheaf

pytestmark = pytest.mark.usefixtures("cluster")


@sheaf.remote
def numbers(n, fails=False, size=1):
    for i in range(n):
        yield bytes([i]) * size
    if fails:
        raise KeyError("after the last")


@sheaf.remote
class Yields:
    def numbers(self, n, fails=False, size=1):
        for i in range(n):
            yield bytes([i]) * size
        if fails:
            raise KeyError("after the last")


def outcomes(refs):
    found = []
    for ref in refs:
        try:
            found.append(sheaf.get(ref, timeout=20)[:1])
        except Exception as error:
            found.append(type(error.cause))
    return found


@pytest.fixture(params=["task", "actor"])
def method(request):
    if request.param == "task":
        return numbers
    request.node.actor = Yields.remote()
    return request.node.actor.numbers


@pytest.mark.parametrize("size", [1, 50_000, 300_000])
def test_values_before_an_error_are_kept(method, size):
    three = method.options(num_returns=3)
    assert outcomes(three.remote(3, False, size)) == [b"\0", b"\1", b"\2"]
    assert outcomes(three.remote(1, True, size)) == [b"\0", KeyError, KeyError]
    assert outcomes(three.remote(0, True, size)) == [KeyError] * 3
    assert outcomes(three.remote(2, False, size)) == [b"\0", b"\1", ValueError]
    # All values are there: what comes after them changes nothing.
    assert outcomes(three.remote(3, True, size)) == [b"\0", b"\1", b"\2"]
    assert outcomes(three.remote(5, True, size)) == [b"\0", b"\1", b"\2"]


def test_one_result_of_a_generator_is_what_it_yields(cluster):
    @sheaf.remote(num_returns=1)
    def only(n):
        yield from range(n)

    assert sheaf.get(only.remote(1)) == 0
    with pytest.raises(ValueError, match="returned 0 objects"):
        sheaf.get(only.remote(0))


@pytest.mark.parametrize("size", [1, 50_000])
def test_the_error_of_a_dynamic_generator_is_its_last_item(method, size):
    dynamic = method.options(num_returns="dynamic")
    assert outcomes(sheaf.get(dynamic.remote(2, False, size))) == [b"\0", b"\1"]
    assert outcomes(sheaf.get(dynamic.remote(2, True, size))) == [b"\0", b"\1", KeyError]
    assert outcomes(sheaf.get(dynamic.remote(0, True, size))) == [KeyError]


def test_an_error_passes_to_tasks_that_need_the_value():
    first, second, third = numbers.options(num_returns=3).remote(1, True)

    @sheaf.remote
    def length(x):
        return len(x)

    assert sheaf.get(length.remote(first)) == 1
    for ref in (second, third):
        with pytest.raises(KeyError):
            sheaf.get(length.remote(ref))


def test_a_failed_generator_is_run_again_where_its_options_say_so(tmp_path):
    @sheaf.remote(max_retries=2, retry_exceptions=True)
    def uncertain(name, fails):
        with open(tmp_path / name, "a") as file:
            file.write("x")
        runs = (tmp_path / name).stat().st_size
        yield bytes([runs])
        if runs <= fails:
            raise KeyError("again")
        yield b"end"

    assert outcomes(uncertain.options(num_returns=2).remote("a", 2)) == [b"\3", b"e"]
    assert outcomes(uncertain.options(num_returns=2).remote("b", 9)) == [b"\3", KeyError]
    assert outcomes(sheaf.get(uncertain.options(num_returns="dynamic").remote("c", 9))) == [
        b"\3",
        KeyError,
    ]


def test_sequences_must_have_the_right_length():
    @sheaf.remote(num_returns=3)
    def several(n):
        return [b"x"] * n

    assert outcomes(several.remote(3)) == [b"x"] * 3
    assert outcomes(several.remote(2)) == [ValueError] * 3
    assert outcomes(several.remote(4)) == [ValueError] * 3
