"""Iterating over results as they come."""

from __future__ import annotations

from .._calls import get, wait


def as_completed(refs, *, chunk_size: int = 10, yield_obj_refs: bool = False, **kwargs):
    """Yields the values of references in the order in which they become ready.

    Args:
        refs: the references.
        chunk_size: how many to fetch at once.
        yield_obj_refs: yield references instead of values.
        kwargs: passed to `wait`, e.g. ``timeout`` in seconds.

    Raises: what `get` raises; TimeoutError when ``timeout`` passes without a result.

    Example::

        for value in as_completed([f.remote(i) for i in range(10)]):
            print(value)
    """
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` must be >= 1, but is {chunk_size}")
    if kwargs.get("timeout") is not None and kwargs["timeout"] < 0:
        raise ValueError("`timeout` must be >= 0")
    waiting = list(refs)
    while waiting:
        ready, waiting = wait(waiting, **{**kwargs, "num_returns": min(chunk_size, len(waiting))})
        if not ready:
            raise TimeoutError("as_completed: nothing became ready in time")
        yield from (ready if yield_obj_refs else get(ready))


def map_unordered(
    fn,
    items,
    *,
    backpressure_size: int | None = 100,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
    **kwargs,
):
    """Calls a remote function for each item; yields results in the order in which they become
    ready.

    Args:
        fn: the remote function (or actor method) of one argument.
        items: its arguments; read as calls are made, may be endless.
        backpressure_size: calls in flight at most; None for no limit.
        chunk_size: how many results to fetch at once.
        yield_obj_refs: yield references instead of values.
        kwargs: passed to `wait`.

    Example::

        print(sorted(map_unordered(square, range(10))))
    """
    if backpressure_size is None:
        backpressure_size = float("inf")
    elif backpressure_size <= 0:
        raise ValueError(f"`backpressure_size` must be positive, but is {backpressure_size}")
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` must be >= 1, but is {chunk_size}")
    source = iter(items)
    waiting = []
    more = True
    while more or waiting:
        while more and len(waiting) < backpressure_size:
            try:
                item = next(source)
            except StopIteration:
                more = False
                break
            waiting.append(fn.remote(item))
        if not waiting:
            return
        ready, waiting = wait(waiting, **{**kwargs, "num_returns": min(chunk_size, len(waiting))})
        if not ready:
            raise TimeoutError("map_unordered: nothing became ready in time")
        yield from (ready if yield_obj_refs else get(ready))
