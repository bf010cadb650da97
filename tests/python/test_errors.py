"""Exceptions across processes: packing, dual types, the tree. No cluster."""

import pickle
import sys
import threading

import pytest
from sheaf import _errors, exceptions


class Boom(Exception):
    def __init__(self, a, b):
        super().__init__(f"boom {a}")  # args differ from the constructor's
        self.a, self.b = a, b


class Holder(ValueError):
    def __init__(self):
        super().__init__("holds a lock")
        self.lock = threading.Lock()
        self.code = 7


class Final(Exception):
    def __init_subclass__(cls, **kwargs):
        raise TypeError("no subclasses")


def through(exc, name="f"):
    """What a caller raises for an exception that a worker raised."""
    try:
        raise exc
    except BaseException as error:
        data = _errors.pack_exception(error, name)
    return _errors.to_exception(1, "", data)


def test_the_users_type_and_attributes_are_kept():
    error = through(Boom(1, [2]))
    assert isinstance(error, Boom) and isinstance(error, exceptions.RayTaskError)
    assert type(error).__name__ == "RayTaskError(Boom)"
    assert (error.a, error.b, error.args) == (1, [2], ("boom 1",))
    assert isinstance(error.cause, Boom) and not isinstance(error.cause, exceptions.RayTaskError)
    text = str(error)
    assert (
        "f()" in text
        and "in through" in text
        and "Boom: boom 1" in text
        and "sheaf/_errors" not in text
    )


@pytest.mark.parametrize(
    "exc, name, value",
    [
        (FileNotFoundError(2, "no such", "/x"), "filename", "/x"),
        (FileNotFoundError(2, "no such", "/x"), "errno", 2),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "start", 0),
        (StopIteration(5), "value", 5),
        (KeyError("k"), "args", ("k",)),
    ],
)
def test_builtin_exceptions_keep_their_fields(exc, name, value):
    error = through(exc)
    assert isinstance(error, type(exc)) and getattr(error, name) == value


def test_what_cannot_be_pickled_is_dropped_piece_by_piece():
    error = through(Holder())
    assert isinstance(error, ValueError) and isinstance(error, exceptions.RayTaskError)
    assert error.cause.code == 7 and not hasattr(error.cause, "lock")
    assert "holds a lock" in str(error)


def test_local_classes_travel_by_value():
    class Local(LookupError):
        pass

    error = through(Local("x"))
    assert isinstance(error, LookupError) and type(error).__name__ == "RayTaskError(Local)"


def test_the_chain_of_causes_is_kept():
    def work():
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error

    try:
        work()
    except ValueError as error:
        raised = _errors.to_exception(1, "", _errors.pack_exception(error, "work"))
    assert isinstance(raised, ValueError) and isinstance(raised.__cause__, KeyError)
    assert "inner" in str(raised) and "direct cause" in str(raised)


def test_an_error_passed_on_keeps_its_type():
    inner = through(Boom(1, 2), "inner")
    outer = through(inner, "outer")
    assert type(outer).__name__ == "RayTaskError(Boom)" and outer.a == 1
    assert "outer()" in str(outer) and "inner()" in str(outer)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
def test_exception_groups():
    group = ExceptionGroup  # noqa: F821
    error = through(group("many", [ValueError(1), KeyError(2)]))
    assert isinstance(error, group) and isinstance(error, exceptions.RayTaskError)
    assert [type(member) for member in error.exceptions] == [ValueError, KeyError]
    assert "many" in str(error) and "KeyError: 2" in str(error)
    assert error.subgroup(KeyError).exceptions[0].args == (2,)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with Python 3.11")
def test_notes_are_kept():
    exc = ValueError("x")
    exc.add_note("look here")
    error = through(exc)
    assert error.__notes__ == ["look here"] and "look here" in str(error)


def test_types_that_permit_no_subclass_stay_plain():
    error = through(Final("x"))
    assert type(error) is exceptions.RayTaskError and "Final: x" in str(error)


def test_system_exits_are_not_turned_into_themselves():
    error = through(SystemExit(3))
    assert type(error) is exceptions.RayTaskError


def test_an_interrupt_is_a_cancellation():
    assert isinstance(through(KeyboardInterrupt()), exceptions.TaskCancelledError)


def test_a_string_method_that_raises():
    class Mean(Exception):
        def __str__(self):
            raise RuntimeError("no")

    assert isinstance(through(Mean()), exceptions.RayTaskError)


def test_errors_pickle():
    error = through(Boom(1, 2))
    again = pickle.loads(pickle.dumps(error))
    assert (
        isinstance(again, Boom)
        and isinstance(again, exceptions.RayTaskError)
        and str(again) == str(error)
    )
    for made in (
        exceptions.GetTimeoutError("x"),
        exceptions.ActorDiedError("gone", "ab"),
        exceptions.ActorUnavailableError("away", b"\1" * 16),
        exceptions.TaskCancelledError(None, "why"),
        exceptions.ObjectLostError("ab", None, "there"),
        exceptions.WorkerCrashedError(),
        exceptions.RuntimeEnvSetupError("bad"),
        exceptions.OutOfMemoryError("full"),
        exceptions.ActorAlreadyExistsError("taken"),
        exceptions.RaySystemError("x", "y"),
    ):
        again = pickle.loads(pickle.dumps(made))
        assert type(again) is type(made) and str(again) == str(made)


def test_a_payload_of_another_language():
    error = _errors.to_exception(1, "std::runtime_error: no", b"whatever")
    assert isinstance(error, exceptions.CrossLanguageError) and "std::runtime_error" in str(error)


def test_a_constructor_that_raised():
    try:
        raise ValueError("ctor")
    except ValueError as exc:
        payload = _errors.pack_exception(exc, "Bad.__init__")
    error = _errors.to_exception(3, "", payload, b"\2" * 16)
    assert isinstance(error, exceptions.ActorDiedError) and error.actor_init_failed
    assert error.actor_id == "02" * 16 and "ValueError: ctor" in str(error)


KINDS = {
    2: "WorkerCrashedError",
    3: "ActorDiedError",
    4: "ActorUnavailableError",
    5: "TaskCancelledError",
    6: "ObjectLostError",
    7: "OwnerDiedError",
    8: "ObjectFreedError",
    9: "OutOfMemoryError",
    10: "ObjectStoreFullError",
    11: "OutOfDiskError",
    12: "RuntimeEnvSetupError",
    13: "TaskUnschedulableError",
    14: "TaskPlacementGroupRemoved",
    15: "PendingCallsLimitExceeded",
    16: "RaySystemError",
    17: "ActorPlacementGroupRemoved",
    18: "NodeDiedError",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_class(kind):
    error = _errors.to_exception(kind, "the reason", b"")
    assert type(error).__name__ == KINDS[kind] and isinstance(error, exceptions.RayError)
    assert "the reason" in str(error)


def test_kinship_is_rays():
    x = exceptions
    assert issubclass(x.GetTimeoutError, TimeoutError) and issubclass(
        x.ActorAlreadyExistsError, ValueError
    )
    assert issubclass(x.ActorDiedError, x.RayActorError) and issubclass(
        x.ActorUnavailableError, x.RayActorError
    )
    assert issubclass(x.ObjectFreedError, x.ObjectLostError) and issubclass(
        x.OwnerDiedError, x.ObjectLostError
    )
    assert not issubclass(x.ActorUnschedulableError, x.TaskUnschedulableError)
    assert x.SheafError is x.RayError
