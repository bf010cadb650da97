"""Pickling for the engine: what has no native encoding comes through `dump`.

Two picklers: a fast one in C, which stops when it meets a function or class that must go by value, and cloudpickle's,
which takes over then. Both hand references to the engine instead of pickling them, and apply the serializers that the
user registered. Buffers of arrays stay out of the pickle: the engine copies them straight into shared memory.
"""

from __future__ import annotations

import io
import pickle
import types

from . import _core
from .actor import ActorHandle, reduce_in_value

_ref_at = _core._ref_at
_note_ref = _core._note_ref
_ObjectRef = _core.ObjectRef

_custom: dict = {}  # type -> (serializer, deserializer)


class _ByValue(Exception):
    """The fast pickler met something that has to be pickled by value."""


def _reduce_special(obj):
    """How references and registered types are pickled; None for everything else."""
    kind = type(obj)
    if kind is _ObjectRef:
        index = _note_ref(obj)
        return obj.__reduce__() if index is None else (_ref_at, (index,))
    if kind is ActorHandle:
        return reduce_in_value(obj)
    if kind in _custom:
        serializer, deserializer = _custom[kind]
        return deserializer, (serializer(obj),)
    return None


def _reduce_fast(obj):
    special = _reduce_special(obj)
    if special is not None:
        return special
    if isinstance(obj, type):
        if not _by_reference(obj):
            raise _ByValue
    elif isinstance(obj, types.FunctionType):
        if not _by_reference(obj):
            raise _ByValue
    elif type(obj) in _by_value_types():
        raise _ByValue
    return NotImplemented


class _FastPickler(pickle.Pickler):
    reducer_override = staticmethod(_reduce_fast)


_known_by_value_types: frozenset | None = None


def _by_value_types() -> frozenset:
    """Types that plain pickle refuses and cloudpickle knows: code, cells, modules, mapping views, ..."""
    global _known_by_value_types
    if _known_by_value_types is None:
        import cloudpickle

        _known_by_value_types = frozenset(cloudpickle.CloudPickler._dispatch_table)
    return _known_by_value_types


def _by_reference(obj) -> bool:
    """Whether a worker can import the function or class by its name."""
    module = getattr(obj, "__module__", None)
    if module == "builtins":
        return True
    from cloudpickle.cloudpickle import _should_pickle_by_reference

    return _should_pickle_by_reference(obj)


_cloud_class = None


def _cloud_pickler():
    """cloudpickle's pickler with our references and serializers; made at the first use."""
    global _cloud_class
    if _cloud_class is None:
        import cloudpickle

        class CloudPickler(cloudpickle.Pickler):
            def reducer_override(self, obj):
                special = _reduce_special(obj)
                return super().reducer_override(obj) if special is None else special

        _cloud_class = CloudPickler
    return _cloud_class


def dump(obj, buffers: list) -> bytes:
    """The pickle of ``obj``; its out-of-band buffers are appended to ``buffers``. Called by the engine.

    Raises: TypeError that names the part which cannot be pickled; exceptions of the user's own reducers.
    """
    file = io.BytesIO()
    try:
        try:
            _FastPickler(file, 5, buffer_callback=buffers.append).dump(obj)
        except Exception:
            # By value, or not at all: cloudpickle knows more, and its error is the one to show.
            file = io.BytesIO()
            del buffers[:]
            _cloud_pickler()(file, 5, buffer_callback=buffers.append).dump(obj)
    except (TypeError, pickle.PicklingError, AttributeError, RecursionError) as error:
        raise _unserializable(obj, error) from error
    return file.getvalue()


def _unserializable(obj, error: BaseException) -> TypeError:
    try:
        shown = repr(obj)
    except Exception:
        shown = f"<{type(obj).__name__}>"
    if len(shown) > 300:
        shown = shown[:300] + "..."
    try:
        from .util.check_serialize import explain

        why = explain(obj, type(obj).__name__)
    except Exception:
        why = ""
    return TypeError(f"Could not serialize {shown}: {error}\n{why}".rstrip())


def cloudpickle_dumps(obj) -> bytes:
    """Functions, classes and anything else by value; references inside are kept alive for the job's lifetime."""
    import cloudpickle

    if not _custom:
        return cloudpickle.dumps(obj, protocol=5)
    file = io.BytesIO()

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, value):
            if type(value) in _custom:
                return _reduce_special(value)
            return super().reducer_override(value)

    Pickler(file, 5).dump(obj)
    return file.getvalue()


def loads(data: bytes):
    """What `cloudpickle_dumps` wrote."""
    return pickle.loads(data)


def register_serializer(cls: type, *, serializer, deserializer) -> None:
    """From now on values of exactly this type are stored as ``serializer(value)``, read by ``deserializer``."""
    _custom[cls] = (serializer, deserializer)


def deregister_serializer(cls: type) -> None:
    """Forgets what `register_serializer` set."""
    _custom.pop(cls, None)
