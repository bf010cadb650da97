"""Between exceptions and bytes: what a worker writes when user code raised, and what the caller
raises from it.

A packed exception keeps the type, message, attributes, notes, cause chain and remote traceback as
far as they can be pickled; what cannot is dropped piece by piece, never the whole error. Exceptions
are decoded anew at each `get`.
"""

from __future__ import annotations

import os
import pickle
import sys

from . import exceptions as _x

_MAGIC = b"PYEX\x01"
_MAX_CHAIN = 16
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep

# protocol::ErrorKind
KIND_USER = 1
KIND_ACTOR_DIED = 3


# ---- Worker side


def pack_exception(
    exc: BaseException,
    function_name: str,
    actor_repr: str | None = None,
    actor_id: bytes | None = None,
) -> bytes:
    """The bytes that carry ``exc``, raised in ``function_name``, to whoever asks for the result."""
    if isinstance(exc, KeyboardInterrupt):
        cancelled = _x.TaskCancelledError(error_message=f"The task {function_name} was cancelled.")
        cancelled.__traceback__ = exc.__traceback__
        exc = cancelled
    text = remote_traceback(exc, function_name, actor_repr, actor_id)
    chain = [_pack_one(link) for link in _cause_chain(exc)]
    record = {
        "function": function_name,
        "text": text,
        "chain": chain,
        "type": type(exc).__qualname__,
        "pid": os.getpid(),
        "actor_repr": actor_repr,
        "actor_id": actor_id,
    }
    return _MAGIC + pickle.dumps(record, protocol=5)


def remote_traceback(
    exc: BaseException,
    function_name: str,
    actor_repr: str | None = None,
    actor_id: bytes | None = None,
) -> str:
    """What a person reads: where it ran, and the frames of user code only."""
    import traceback

    from .util.node import route_address

    where = f"ray::{function_name}() (pid={os.getpid()}, ip={route_address()}"
    if actor_id and any(actor_id):
        where += f", actor_id={bytes(actor_id).hex()}"
    where += f", repr={actor_repr})" if actor_repr else ")"
    try:
        if isinstance(exc, _x.RayTaskError):
            report = traceback.TracebackException(type(exc), exc, exc.__traceback__)
        else:
            report = traceback.TracebackException.from_exception(exc)
        _drop_engine_frames(report)
        lines = list(report.format())
    except Exception as error:  # a user's __str__ or __repr__ may do anything
        lines = [f"{type(exc).__name__} (its traceback cannot be printed: {error!r})"]
    if lines and lines[0].startswith("Traceback ("):
        lines = lines[1:]
    return where + "\n" + "".join(lines).rstrip("\n")


def _drop_engine_frames(report, depth: int = 0) -> None:
    if report is None or depth > 64:
        return
    kept = [frame for frame in report.stack if not frame.filename.startswith(_PACKAGE)]
    report.stack[:] = kept
    _drop_engine_frames(report.__cause__, depth + 1)
    _drop_engine_frames(report.__context__, depth + 1)
    for member in getattr(report, "exceptions", None) or ():
        _drop_engine_frames(member, depth + 1)


def _cause_chain(exc: BaseException) -> list[BaseException]:
    """The exception that the user raised, then its causes, outermost first."""
    chain: list[BaseException] = []
    while exc is not None and len(chain) < _MAX_CHAIN and not any(exc is link for link in chain):
        next_link = exc.__cause__
        if isinstance(exc, _x.RayTaskError) and isinstance(exc.cause, BaseException):
            exc = exc.cause
            next_link = next_link or exc.__cause__
        chain.append(exc)
        exc = next_link
    return chain


def _pack_one(exc: BaseException) -> bytes | None:
    import cloudpickle

    try:
        data = cloudpickle.dumps(exc, protocol=5)
        restored = pickle.loads(data)
        if type(restored).__name__ == type(exc).__name__:
            return data
    except Exception:
        pass
    try:
        args = tuple(_picklable_or_text(value, cloudpickle) for value in exc.args)
        state = {
            k: v for k, v in getattr(exc, "__dict__", {}).items() if _picklable(v, cloudpickle)
        }
        data = cloudpickle.dumps(_Rebuilt(type(exc), args, state), protocol=5)
        pickle.loads(data)
        return data
    except Exception:
        return None


class _Rebuilt:
    """Pickles as an exception that is made again without running its constructor."""

    def __init__(self, cls, args, state):
        self.parts = (cls, args, state)

    def __reduce__(self):
        return rebuild_exception, self.parts


def rebuild_exception(cls, args, state):
    """An exception of type ``cls`` with these ``args`` and attributes; its ``__init__`` does not
    run.
    """
    try:
        exc = cls.__new__(cls, *args)
    except Exception:
        exc = cls.__new__(cls)
    exc.args = args
    exc.__dict__.update(state)
    return exc


def _picklable(value, cloudpickle) -> bool:
    try:
        pickle.loads(cloudpickle.dumps(value, protocol=5))
        return True
    except Exception:
        return False


def _picklable_or_text(value, cloudpickle):
    if _picklable(value, cloudpickle):
        return value
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


# ---- Caller side


def to_exception(kind: int, message: str, payload: bytes, actor_id: bytes = b"") -> BaseException:
    """The exception to raise for an error record (its kind is a number of protocol::ErrorKind)."""
    actor_hex = bytes(actor_id).hex() if actor_id and any(bytes(actor_id)) else None
    if kind == KIND_USER:
        error = unpack_exception(bytes(payload), message)
        return as_instanceof_cause(error) if isinstance(error, _x.RayTaskError) else error
    if kind == KIND_ACTOR_DIED:
        if payload:
            error = unpack_exception(bytes(payload), message)
            if isinstance(error, _x.RayTaskError):
                return _x.ActorDiedError(error, actor_hex)
        return _x.ActorDiedError(_why_actor_died(message), actor_hex)
    make = _BY_KIND.get(kind)
    return make(message, actor_hex) if make else _x.RaySystemError(message)


def _why_actor_died(message: str) -> str | None:
    # The engine says what happened; a program that matches on the text looks for these words.
    if message.startswith("it was killed by kill()"):
        return "The actor is dead because it was killed by `ray.kill`, that is, by kill()."
    if message.startswith("the worker process"):
        return f"The actor is dead because its worker process has died: {message}"
    if message.startswith("the node"):
        return f"The actor died because its node has died. What is known: {message}"
    return f"The actor died: {message}" if message else None


_BY_KIND = {
    2: lambda text, actor: _x.WorkerCrashedError(text or None),
    4: lambda text, actor: _x.ActorUnavailableError(text or "The actor is unavailable.", actor),
    5: lambda text, actor: _x.TaskCancelledError(error_message=text or None),
    6: lambda text, actor: _x.ObjectLostError(call_site=text),
    7: lambda text, actor: _x.OwnerDiedError(call_site=text),
    8: lambda text, actor: _x.ObjectFreedError(call_site=text),
    9: lambda text, actor: _x.OutOfMemoryError(text or None),
    10: lambda text, actor: _x.ObjectStoreFullError(text or None),
    11: lambda text, actor: _x.OutOfDiskError(text or None),
    12: lambda text, actor: _x.RuntimeEnvSetupError(text or None),
    13: lambda text, actor: (_x.ActorUnschedulableError if actor else _x.TaskUnschedulableError)(
        text or None
    ),
    14: lambda text, actor: _x.TaskPlacementGroupRemoved(*([text] if text else [])),
    15: lambda text, actor: _x.PendingCallsLimitExceeded(text),
    16: lambda text, actor: _x.RaySystemError(text),
    17: lambda text, actor: _x.ActorPlacementGroupRemoved(text or None, actor),
    18: lambda text, actor: _x.NodeDiedError(text or None),
}


def unpack_exception(payload: bytes, message: str = "") -> BaseException:
    """A `RayTaskError` from what `pack_exception` wrote; another language's payload gives
    `CrossLanguageError`.
    """
    if not payload.startswith(_MAGIC):
        text = message or payload.decode("utf-8", "replace")
        return _x.CrossLanguageError(text or None)
    record = pickle.loads(payload[len(_MAGIC) :])
    cause = _unpack_chain(record["chain"], record["text"])
    return _x.RayTaskError(
        record["function"],
        record["text"],
        cause,
        pid=record["pid"],
        actor_repr=record["actor_repr"],
        actor_id=record["actor_id"],
    )


def _unpack_chain(chain, text):
    links = []
    for data in chain:
        try:
            link = pickle.loads(data) if data is not None else None
        except Exception:
            link = None
        links.append(link if isinstance(link, BaseException) else None)
    for effect, cause in zip(links, links[1:]):
        if effect is not None and cause is not None:
            effect.__cause__ = cause
    return links[0] if links and links[0] is not None else _x.UnserializableException(text)


def task_error_parts(error) -> tuple:
    """What `restore_task_error` makes the error of again."""
    cause = error.cause
    chain = [_pack_one(link) for link in _cause_chain(cause)] if cause is not None else []
    place = (error.proctitle, error.pid, error.ip, error.actor_repr, error.__dict__["_actor_id"])
    return error.function_name, error.traceback_str, chain, *place


def restore_task_error(
    function_name, text, chain, proctitle, pid, ip, actor_repr, actor_id, dual=False
):
    """A `RayTaskError` from its parts; ``dual``: also of the cause's type."""
    cause = _unpack_chain(chain, text) if chain else None
    error = _x.RayTaskError(function_name, text, cause, proctitle, pid, ip, actor_repr, actor_id)
    return as_instanceof_cause(error) if dual else error


# ---- One error, two types

# Whose exceptions that are no Exception end programs and coroutines: never raised from a result.
_ENDING_MODULES = ("builtins", "asyncio.exceptions")

# Type of the cause -> class derived from RayTaskError and from it, or None.
_dual_classes: dict = {}


def as_instanceof_cause(error):
    """``error`` as an instance of its cause's type; ``error`` itself where no such class can
    exist.
    """
    cause = error.cause
    if cause is None or isinstance(cause, (_x.RayTaskError, _x.UnserializableException)):
        return error
    if not isinstance(cause, Exception) and type(cause).__module__ in _ENDING_MODULES:
        return error
    try:
        return dual_instance(error)
    except Exception:
        return error


def dual_instance(error):
    """A new instance of the dual class of ``error``; TypeError when Python does not permit the
    class.
    """
    cause = error.cause
    cls = _dual_class(type(cause))
    if cls is None:
        raise TypeError(f"{type(cause).__name__} cannot be subclassed")
    if _is_group(cause):
        dual = cls.__new__(cls, cause.message, cause.exceptions)
    else:
        try:
            dual = cls.__new__(cls, *cause.args)
        except Exception:
            dual = cls.__new__(cls)
        _copy_builtin_members(cause, dual)
    for name in (
        "function_name",
        "traceback_str",
        "cause",
        "proctitle",
        "pid",
        "ip",
        "actor_repr",
        "_actor_id",
    ):
        dual.__dict__[name] = error.__dict__[name]
    if not _is_group(cause):
        try:
            dual.args = cause.args
        except AttributeError:  # a property of the user's class
            pass
    dual.__cause__ = cause.__cause__
    for note in getattr(cause, "__notes__", ()):
        dual.__dict__.setdefault("__notes__", []).append(note)
    return dual


def _is_group(exc) -> bool:
    return sys.version_info >= (3, 11) and isinstance(exc, BaseExceptionGroup)  # noqa: F821


def _dual_class(cause_cls):
    try:
        return _dual_classes[cause_cls]
    except KeyError:
        pass
    try:
        cls = _make_dual_class(cause_cls)
    except Exception:
        cls = None
    if len(_dual_classes) > 1000:  # classes unpickled by value are new each time
        _dual_classes.clear()
    _dual_classes[cause_cls] = cls
    return cls


def _make_dual_class(cause_cls):
    def init(self, *args, **kwargs):
        pass

    def getattr_of_cause(self, name):
        if name.startswith("__") or "cause" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["cause"], name)

    def reduce(self):
        return restore_task_error, (*task_error_parts(self), True)

    def text(self):
        return self.__dict__["traceback_str"].strip("\n")

    name = f"RayTaskError({cause_cls.__name__})"
    members = {
        "__init__": init,
        "__getattr__": getattr_of_cause,
        "__reduce__": reduce,
        "__str__": text,
        "__module__": "sheaf.exceptions",
        "__qualname__": name,
        "__doc__": f"A task raised {cause_cls.__name__}; this error is both.",
    }
    return type(cause_cls)(name, (_x.RayTaskError, cause_cls), members)


def _copy_builtin_members(source, target) -> None:
    """Copies what built-in exceptions keep in C fields: errno, start, reason, code, value, ..."""
    for cls in type(source).__mro__:
        if cls in (BaseException, Exception, object) or cls.__module__ != "builtins":
            continue
        for name, member in vars(cls).items():
            if name.startswith("__") or not hasattr(type(member), "__set__"):
                continue
            try:
                setattr(target, name, getattr(source, name))
            except (AttributeError, TypeError):
                pass
