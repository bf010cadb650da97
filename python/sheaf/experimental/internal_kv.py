"""The cluster's key-value store, under the names that programs written for Ray use."""

from __future__ import annotations

from .. import _core
from .._state import connected, ensure_connected

_SPACE = "user"


def _internal_kv_initialized() -> bool:
    """Whether the store can be used: whether this process is connected."""
    return connected()


def _internal_kv_get(key, *, namespace=None) -> bytes | None:
    """The value of ``key`` (str or bytes), None when there is none."""
    ensure_connected()
    return _core.kv_get(_space(namespace), _bytes(key))


def _internal_kv_exists(key, *, namespace=None) -> bool:
    """Whether ``key`` has a value."""
    return _internal_kv_get(key, namespace=namespace) is not None


def _internal_kv_put(key, value, overwrite: bool = True, *, namespace=None) -> bool:
    """Sets a value. Returns whether there was one before, as Ray does."""
    ensure_connected()
    key = _bytes(key)
    existed = _core.kv_get(_space(namespace), key) is not None
    _core.kv_put(_space(namespace), key, _bytes(value), overwrite)
    return existed


def _internal_kv_del(key, *, del_by_prefix: bool = False, namespace=None) -> int:
    """Deletes a key, or all that start with it; gives their number."""
    ensure_connected()
    return _core.kv_delete(_space(namespace), _bytes(key), del_by_prefix)


def _internal_kv_list(prefix, *, namespace=None) -> list[bytes]:
    """The keys that start with ``prefix``."""
    ensure_connected()
    return [bytes(key) for key in _core.kv_keys(_space(namespace), _bytes(prefix))]


def _internal_kv_reset() -> None:
    """Nothing to reset."""


def _space(namespace) -> str:
    if not namespace:
        return _SPACE
    text = namespace.decode() if isinstance(namespace, bytes) else namespace
    return f"{_SPACE}/{text}"


def _bytes(value) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)
