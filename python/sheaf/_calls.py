"""`get` and `put`, which are the engine's own functions, and `wait`, which looks at its arguments
first.
"""

from __future__ import annotations

from . import _core
from ._core import get, put
from ._state import ensure_connected, state

__all__ = ["get", "put", "wait"]


def wait(
    ray_waitables, *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
):
    """Splits references into those that are ready and the others; blocks until ``num_returns`` are
    ready.

    Args:
        ray_waitables: list of distinct ObjectRefs or ObjectRefGenerators.
        num_returns: how many to wait for; the first list has at most so many.
        timeout: seconds to wait at most; None waits for ever.
        fetch_local: whether a value counts as ready only when it is on this node, and is brought
            here while this waits.

    Returns: ``(ready, not ready)``, each in the order of the argument. What a reference from before
    the last `shutdown` stands for never gets ready; such ones are not waited for.
    Raises: TypeError or ValueError for wrong arguments, ValueError when all are from before the
    last `shutdown`.
    """
    if state.mode is None:
        ensure_connected()
    if not isinstance(ray_waitables, list):
        kind = type(ray_waitables)
        if kind in (_core.ObjectRef, _core.ObjectRefGenerator):
            raise TypeError(
                "wait() expected a list of ObjectRef or ObjectRefGenerator, got a single one: "
                f"{ray_waitables}"
            )
        raise TypeError(f"wait() expected a list of ObjectRef or ObjectRefGenerator, got {kind}")
    if timeout is not None and timeout < 0:
        raise ValueError(f"The 'timeout' argument must be nonnegative. Received {timeout}")
    if not ray_waitables:
        return [], []
    if num_returns <= 0:
        raise ValueError(f"Invalid number of objects to return {num_returns}.")
    if num_returns > len(ray_waitables):
        raise ValueError(
            "num_returns cannot be greater than the number of ray_waitables provided to wait()."
        )
    try:
        split = _core.wait(ray_waitables, num_returns, timeout, fetch_local)
    except ValueError:
        known = [item for item in ray_waitables if _is_of_this_connection(item)]
        if len(known) == len(ray_waitables):
            raise
        return _wait_for_known(ray_waitables, known, num_returns, timeout, fetch_local)
    if split is None:  # there are generators among them
        return _wait_for_any(ray_waitables, num_returns, timeout)
    return split


def _is_of_this_connection(item) -> bool:
    if type(item) is not _core.ObjectRef:
        return True
    try:
        _core.wait([item], 1, 0, False)
    except ValueError:
        return False
    return True


def _wait_for_known(waitables: list, known: list, num_returns: int, timeout, fetch_local: bool):
    if not known:
        raise ValueError(
            "wait() on nothing but references of a cluster that this process has left: a Ray "
            "object whose owner is unknown never gets ready."
        )
    ready, _ = wait(
        known, num_returns=min(num_returns, len(known)), timeout=timeout, fetch_local=fetch_local
    )
    taken = set(ready)
    return ready, [item for item in waitables if item not in taken]


def _wait_for_any(waitables: list, num_returns: int, timeout: float | None):
    """`wait` when generators are among the references: one is ready when its next item is."""
    import time

    if len(set(waitables)) < len(waitables):
        raise ValueError("Wait requires a list of unique references.")
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = 0.0001
    while True:
        ready = [item for item in waitables if _is_ready(item)][:num_returns]
        if len(ready) == num_returns or (deadline is not None and time.monotonic() >= deadline):
            taken = set(ready)
            return ready, [item for item in waitables if item not in taken]
        time.sleep(pause)
        pause = min(pause * 1.5, 0.005)


def _is_ready(item) -> bool:
    if type(item) is _core.ObjectRefGenerator:
        return item.next_ready()
    return bool(_core.wait([item], 1, 0, True)[0])
