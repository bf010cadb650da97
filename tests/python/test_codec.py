"""Values on their way: what goes in comes out, by put, as argument and as result, small and large."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import gc
import math
import pickle
import subprocess
import sys

import cloudpickle
import numpy as np
import pytest

import sheaf
from sheaf import _core
from sheaf.util import register_serializer, deregister_serializer

pytestmark = pytest.mark.usefixtures("cluster")

INLINE = 8 * 1024


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: int
    y: list


Pair = collections.namedtuple("Pair", "a b")


class MyInt(int):
    pass


class MyStr(str):
    pass


def nested(depth):
    value = (1,)
    for _ in range(depth):
        value = (value,)
    return value


VALUES = [
    None, True, False, 0, 1, -1, 127, 128, -128, -129, 2**31, -(2**63), 2**63 - 1, 2**63, -(2**63) - 1, 10**100,
    0.0, -0.0, 1.5, math.inf, -math.inf, 5e-324, b"", b"\0\xff", b"x" * INLINE, b"y" * (INLINE + 1), b"z" * 3_000_000,
    "", "ascii", "\0", "żółć 中文 🙂", "\ud800 lone", "s" * (INLINE + 1), (), (1,), (1, "a", b"b", None, 2.5),
    nested(3), nested(8), nested(30), ((), ((),)), (b"q" * 20_000, 1), [], [1, 2, 3], {"a": [1, {"b": (2,)}]},
    {1: 2, None: 3}, {1, 2}, frozenset({1, 2}), bytearray(b"abc"), bytearray(100_000), 1 + 2j, range(5), slice(1, 2),
    Ellipsis, NotImplemented, Colour.RED, Point(1, [2]), Pair(1, "b"), MyInt(7), MyStr("sub"),
    decimal.Decimal("1.10"), datetime.datetime(2026, 1, 2, 3), collections.OrderedDict(a=1), collections.deque([1]),
    list(range(100_000)), {i: str(i) for i in range(5_000)}, int, Point, len, math.sqrt,
    # Flat lists and dicts, and what makes them less flat.
    {}, [None, True, 2**63 - 1, -0.5, "t", b"t"], {f"key {i}": i / 2 for i in range(1000)}, {"k": "v" * 64},
    {2.5: True, b"b": None, 2**70: 1, "": False}, ["v" * 65], [1, 2**70], {"k" * 65: 1}, {(1,): 2}, {"k": (1,)},
    ["\ud800"], [MyInt(1)], {MyStr("k"): 1}, [float(i) for i in range(3000)], ["ab" * 30] * 40_000, [[1], [2]],
]


@sheaf.remote
def echo(value):
    return value


@sheaf.remote
def echo_pair(a, *, b):
    return a, b


def same(a, b):
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_values_come_back(value):
    assert same(sheaf.get(sheaf.put(value)), value)
    assert same(sheaf.get(echo.remote(value)), value)
    a, b = sheaf.get(echo_pair.remote([value], b=value))
    assert same(a, [value]) and same(b, value)


def test_nan_and_sharing():
    assert math.isnan(sheaf.get(sheaf.put(math.nan)))
    inner = [1]
    out = sheaf.get(sheaf.put({"a": inner, "b": inner}))
    assert out["a"] is out["b"]
    loop = []
    loop.append(loop)
    out = sheaf.get(sheaf.put(loop))
    assert out[0] is out


def test_containers_inside_others_keep_their_identity():
    inner = [1.5, 2.5]
    for value in ([inner, inner], (inner, inner), {"a": inner, "b": inner}):
        back = sheaf.get(echo.remote(value))
        a, b = back.values() if isinstance(back, dict) else back
        assert a == inner and a is b


def test_flat_containers_keep_order_and_kinds():
    value = {key: key for key in (3, "c", 1.0, b"a", None, True, -(2**63))}  # 1.0 and True are one key
    back = sheaf.get(sheaf.put(value))
    assert list(map(repr, back.items())) == list(map(repr, value.items()))
    nan = sheaf.get(sheaf.put({math.nan: 1, math.inf: 2}))
    assert [math.isnan(key) for key in nan] == [True, False]
    text = "again"
    assert sheaf.get(sheaf.put([text] * 300_000)) == [text] * 300_000  # pickled: it comes again too often


def test_each_get_gives_a_value_of_its_own():
    ref = sheaf.put([1])
    sheaf.get(ref).append(2)
    assert sheaf.get(ref) == [1]


ARRAYS = [
    np.arange(0), np.arange(10), np.arange(3000.0), np.zeros((100, 1000)), np.asfortranarray(np.arange(600_000.0).reshape(600, 1000)),
    np.arange(1000)[::3], np.array(5), np.array(["a", "bb"]), np.array([{"a": 1}, None], dtype=object),
    np.zeros(4, dtype=[("x", "i4"), ("y", "f8")]), np.arange(200_000).reshape(400, 500).T,
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}-{a.shape}".replace(" ", ""))
def test_arrays_come_back(array):
    for out in (sheaf.get(sheaf.put(array)), sheaf.get(echo.remote(array)), sheaf.get(echo.remote([array]))[0]):
        assert out.dtype == array.dtype and out.shape == array.shape
        assert (out == array).all()


def test_large_arrays_are_read_only_views_that_outlive_their_reference():
    array = np.arange(1_000_000.0)
    ref = sheaf.put(array)
    views = [sheaf.get(ref) for _ in range(3)]
    assert all(not v.flags.writeable and not v.flags.owndata for v in views)
    assert np.shares_memory(views[0], views[1])
    assert views[0].__array_interface__["data"][0] % 64 == 0
    with pytest.raises(ValueError):
        views[0][0] = 1
    del ref
    gc.collect()
    others = [sheaf.put(np.full(1_000_000, i)) for i in range(20)]
    assert (views[2] == array).all()
    del others
    copy = sheaf.get(sheaf.put({"part": views[0][10:20], "whole": views[1]}))
    del views
    assert (copy["part"] == array[10:20]).all() and (copy["whole"] == array).all()


def test_small_arrays_are_read_only_too():
    out = sheaf.get(sheaf.put(np.arange(10)))
    assert not out.flags.writeable


@sheaf.remote
class Keeper:
    def __init__(self):
        self.kept = []

    def keep(self, array):
        self.kept.append(array)

    def total(self):
        return float(sum(a.sum() for a in self.kept))


def test_a_view_that_an_actor_keeps_stays_valid():
    keeper = Keeper.remote()
    total = 0.0
    for i in range(10):
        ref = sheaf.put(np.full(200_000, float(i)))
        sheaf.get(keeper.keep.remote(ref))
        del ref
        total += 200_000.0 * i
    junk = [sheaf.put(np.full(200_000, -1.0)) for _ in range(20)]
    assert sheaf.get(keeper.total.remote()) == total
    del junk


# ---- References


def test_references_at_the_top_are_values_and_nested_ones_stay_references():
    ref = sheaf.put(41)

    @sheaf.remote
    def look(value, box, *, key):
        assert isinstance(box[0], sheaf.ObjectRef) and isinstance(box[1]["r"], sheaf.ObjectRef)
        return value + sheaf.get(box[0]) + sheaf.get(box[1]["r"]) + key

    assert sheaf.get(look.remote(ref, [ref, {"r": ref}], key=ref)) == 164


@pytest.mark.parametrize("n", [1, 3, 1000])
@pytest.mark.parametrize("make", [list, tuple, lambda refs: {"x": refs}, lambda refs: [Point(0, refs)]])
def test_references_inside_values(n, make):
    refs = [sheaf.put(i) for i in range(n)]
    stored = sheaf.put(make(refs))
    task = echo.remote(make(refs))
    via_put = sheaf.put([task])
    expected = [sheaf.get(r) for r in refs]
    del refs
    gc.collect()

    def values(box):
        if isinstance(box, dict):
            box = box["x"]
        elif isinstance(box[0], Point):
            box = box[0].y
        return sheaf.get(list(box))

    assert values(sheaf.get(stored)) == expected
    assert values(sheaf.get(task)) == expected
    assert values(sheaf.get(sheaf.get(via_put)[0])) == expected


def test_references_with_a_large_array_beside_them():
    ref = sheaf.put("inner")
    box = sheaf.put({"ref": ref, "data": np.arange(100_000)})
    del ref
    out = sheaf.get(box)
    assert sheaf.get(out["ref"]) == "inner" and out["data"][-1] == 99_999
    assert out["data"].__array_interface__["data"][0] % 64 == 0


@sheaf.remote
def make_refs(n, size):
    return [sheaf.put(b"v" * size) for _ in range(n)], sheaf.put(n)


@pytest.mark.parametrize("size", [10, 100_000])
def test_references_that_a_task_returns_outlive_it(size):
    refs, count = sheaf.get(make_refs.remote(20, size))
    assert sheaf.get(count) == 20
    assert sheaf.get(refs) == [b"v" * size] * 20


def test_references_pickled_by_the_user():
    ref = sheaf.put("out of band")
    for dumps in (pickle.dumps, cloudpickle.dumps):
        assert pickle.loads(dumps(ref)) == ref

    @sheaf.remote
    def read(data):
        return sheaf.get(pickle.loads(data))

    data = pickle.dumps(ref)
    del ref
    gc.collect()
    assert sheaf.get(read.remote(data)) == "out of band"


def test_references_captured_by_a_function():
    ref = sheaf.put(5)
    pending = echo.remote(6)

    @sheaf.remote
    def closure():
        return sheaf.get(ref) + sheaf.get(pending)

    assert sheaf.get(closure.remote()) == 11
    assert sheaf.get(echo.remote(lambda: sheaf.get(ref)))() == 5


def test_pickling_may_call_the_engine():
    class Busy:
        def __init__(self, n):
            self.n = n

        def __reduce__(self):
            assert sheaf.get(echo.remote(self.n)) == self.n
            return int, (sheaf.get(sheaf.put(self.n)),)

    assert sheaf.get(echo.remote([Busy(3), Busy(4)])) == [3, 4]
    assert sheaf.get(sheaf.put((Busy(1), sheaf.put(2))))[0] == 1


def test_submitting_from_destructors_while_values_are_encoded():
    seen = []

    class Trash:
        def __init__(self):
            self.cycle = self

        def __del__(self):
            seen.append(echo.remote(len(seen)))

    for _ in range(300):
        Trash()
        sheaf.put([[{}] for _ in range(50)])
    gc.collect()
    assert sheaf.get(seen) == list(range(len(seen))) and len(seen) == 300


# ---- Functions, classes, errors


def test_functions_and_classes_go_by_value():
    k = 10

    def add(x):
        return x + k

    class Local:
        factor = 3

        def times(self, x):
            return self.factor * x

    f, cls, instance, lam = sheaf.get(echo.remote((add, Local, Local(), lambda x: x * k)))
    assert f(1) == 11 and cls().times(2) == 6 and instance.times(3) == 9 and lam(2) == 20


def test_unserializable_values_are_named():
    import threading

    class Holder:
        def __init__(self):
            self.fine = 1
            self.the_lock = threading.Lock()

    for call in (sheaf.put, echo.remote, lambda v: echo.remote([1, {"k": v}])):
        with pytest.raises(TypeError, match="the_lock"):
            call(Holder())
    with pytest.raises(TypeError):
        sheaf.put(x for x in range(3))
    assert sheaf.get(echo.remote(1)) == 1


def test_an_unserializable_result_is_an_error():
    @sheaf.remote
    def bad():
        import threading
        return threading.Lock()

    with pytest.raises(sheaf.exceptions.RayTaskError, match="lock"):
        sheaf.get(bad.remote())


def test_a_value_that_cannot_be_read_here():
    class Mine:
        def __reduce__(self):
            return _explode, ()

    ref = sheaf.put(Mine())
    with pytest.raises(sheaf.exceptions.RaySystemError, match="cannot be read") as error:
        sheaf.get(ref)
    assert isinstance(error.value.__cause__, ZeroDivisionError)
    with pytest.raises(sheaf.exceptions.RayTaskError):
        sheaf.get(echo.remote(Mine()))


def _explode():
    raise ZeroDivisionError("while reading")


def test_custom_serializers():
    class Handle:
        def __init__(self, n):
            self.n = n

        def __reduce__(self):
            raise TypeError("not by pickle")

    register_serializer(Handle, serializer=lambda h: h.n, deserializer=Handle)
    try:
        assert sheaf.get(sheaf.put(Handle(3))).n == 3
        assert [h.n for h in sheaf.get(sheaf.put([Handle(1), Handle(2)]))] == [1, 2]
    finally:
        deregister_serializer(Handle)
    with pytest.raises(TypeError):
        sheaf.put(Handle(3))


def test_wrong_arguments_of_the_calls():
    with pytest.raises(TypeError, match="not allowed"):
        sheaf.put(sheaf.put(1))
    with pytest.raises(ValueError, match="Invalid type of object refs"):
        sheaf.get(1)
    with pytest.raises(TypeError, match="Attempting to call `get` on the value"):
        sheaf.get([sheaf.put(1), 1])
    with pytest.raises(TypeError):
        sheaf.wait(sheaf.put(1))
    with pytest.raises(ValueError, match="unique"):
        sheaf.wait([sheaf.put(1)] * 2)
    assert sheaf.get([]) == []


def test_object_ref_type():
    ref = sheaf.put(1)
    assert repr(ref) == f"ObjectRef({ref.hex()})" and len(ref.hex()) == 32
    assert ref.binary().hex() == ref.hex() and len(ref.binary()) == 16
    assert sheaf.ObjectRef(ref.binary()) == ref and sheaf.ObjectRef.from_hex(ref.hex()) == ref
    assert hash(sheaf.ObjectRef(ref.binary())) == hash(ref) and len({ref, sheaf.ObjectRef(ref.binary())}) == 1
    assert ref != sheaf.put(1) and ref != 1 and not ref.is_nil()
    assert sheaf.ObjectRef.nil().is_nil() and sheaf.ObjectRef.nil() == sheaf.ObjectRef(bytes(16))
    assert sheaf.ObjectRef.nil().hex() == "0" * 32
    for bad in (b"short", b"x" * 17):
        with pytest.raises(ValueError):
            sheaf.ObjectRef(bad)
    for bad in ("00", "g" * 32):
        with pytest.raises(ValueError):
            sheaf.ObjectRef.from_hex(bad)
    with pytest.raises(TypeError):
        sheaf.ObjectRef(3)
    with pytest.raises(ValueError):
        sheaf.get(sheaf.ObjectRef.nil())
    with pytest.raises(TypeError):
        type("Sub", (sheaf.ObjectRef,), {})
    assert ref.task_id().binary() == ref.binary() and isinstance(ref.job_id(), sheaf.JobID)


def test_get_of_an_unknown_object_fails():
    with pytest.raises((sheaf.exceptions.ObjectLostError, sheaf.exceptions.GetTimeoutError)):
        sheaf.get(sheaf.ObjectRef(b"\x01" * 16), timeout=3)


def test_many_arguments_and_returns():
    @sheaf.remote
    def count(*args, **kwargs):
        return len(args), len(kwargs), sum(args)

    assert sheaf.get(count.remote(*range(10_000))) == (10_000, 0, sum(range(10_000)))
    refs = [sheaf.put(i) for i in range(2000)]
    assert sheaf.get(count.remote(*refs, **{f"k{i}": i for i in range(300)})) == (2000, 300, sum(range(2000)))

    @sheaf.remote(num_returns=3000)
    def many():
        return list(range(3000))

    assert sheaf.get(many.remote()) == list(range(3000))


def test_importing_is_light():
    code = ("import sys, sheaf; heavy = {'asyncio', 'numpy', 'logging', 'ssl', 'multiprocessing', 'inspect', "
            "'cloudpickle'} & set(sys.modules); assert not heavy, heavy")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reference_counts_of_builtins_do_not_drift():
    ref = sheaf.put((None, True, 1, "a"))
    before = sys.getrefcount(None), sys.getrefcount(True)
    for _ in range(2000):
        sheaf.get(ref)
        sheaf.put((None, True))
        sheaf.wait([ref], timeout=0)
    after = sys.getrefcount(None), sys.getrefcount(True)
    assert all(abs(b - a) < 500 for a, b in zip(before, after))


def test_memory_of_small_puts_and_gets_does_not_grow():
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    def work(n):
        for i in range(n):
            sheaf.get(sheaf.put((i, "x" * 100)))
            sheaf.get(sheaf.put({"a": [i]}))
    work(20_000)
    before = resident()
    work(20_000)
    assert resident() - before < 4 << 20


def test_core_types_cannot_be_misused():
    with pytest.raises(TypeError):
        _core.ObjectRefGenerator()
    with pytest.raises(ValueError):
        _core.BoundTask(b"short", {})
    with pytest.raises(TypeError):
        _core.BoundTask("text", {})
    with pytest.raises((TypeError, ValueError)):
        _core.BoundTask(bytes(16), {"num_returns": "nonsense"})
    with pytest.raises(RuntimeError):
        _core.worker_main and _core._ref_at(0)
