"""Argument checks at the call, so that a wrong call fails in the caller at once and not in a worker
later.

The engine itself compares the number of positional arguments with ``(least, most)``; only calls
outside of that range, or with keywords, come to ``check``, which raises the TypeError that Python
would.
"""

from __future__ import annotations

MANY = 1 << 30

# inspect.Parameter's kinds as they are numbered there
_POSITIONAL = (0, 1)
_VAR_POSITIONAL = 2
_KEYWORD_ONLY = 3


def unwrapped(function):
    """The function behind ``functools.partial`` and bound methods."""
    import functools

    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__func__"):
            function = function.__func__
        else:
            return function


def is_generator(function) -> bool:
    """Whether calling the function gives a generator or an async generator."""
    flags = _code_flags(function)
    return bool(flags & 0x220)  # CO_GENERATOR | CO_ASYNC_GENERATOR


def is_async(function) -> bool:
    """Whether the function is a coroutine function or an async generator function."""
    return bool(_code_flags(function) & 0x280)  # CO_COROUTINE | CO_ASYNC_GENERATOR


def _code_flags(function) -> int:
    code = getattr(unwrapped(function), "__code__", None)
    return getattr(code, "co_flags", 0)


def parameter_table(function, skip_first: bool = False) -> tuple | None:
    """``((name, kind, has_default), ...)``, or None when the signature cannot be known.

    ``skip_first``: leave out the parameter that is the instance. Plain functions are read without
    ``inspect``.
    """
    function_kind = type(function)
    if (
        function_kind is type(parameter_table)
        and not hasattr(function, "__wrapped__")
        and not hasattr(function, "__signature__")
    ):
        table = _table_from_code(function)
    else:
        import inspect

        try:
            signature = inspect.signature(function)
        except (ValueError, TypeError):
            return None
        table = tuple(
            (p.name, int(p.kind), p.default is not p.empty) for p in signature.parameters.values()
        )
    if not skip_first:
        return table
    if table and table[0][1] in _POSITIONAL:
        return table[1:]
    return table if table and table[0][1] == _VAR_POSITIONAL else None


def _table_from_code(function) -> tuple:
    code = function.__code__
    n_positional, n_only = code.co_argcount, code.co_posonlyargcount
    n_defaults = len(function.__defaults__ or ())
    names = code.co_varnames
    rows = [
        (names[i], 0 if i < n_only else 1, i >= n_positional - n_defaults)
        for i in range(n_positional)
    ]
    after = n_positional + code.co_kwonlyargcount
    if code.co_flags & 0x04:
        rows.append((names[after], _VAR_POSITIONAL, False))
        after += 1
    keyword_defaults = function.__kwdefaults__ or {}
    rows += [
        (name, _KEYWORD_ONLY, name in keyword_defaults)
        for name in names[n_positional : n_positional + code.co_kwonlyargcount]
    ]
    if code.co_flags & 0x08:
        rows.append((names[after], 4, False))
    return tuple(rows)


def check_from_table(table: tuple | None):
    """``(least, most, check)`` for the engine, or None for an unknown signature.

    A call of ``least`` to ``most`` positional arguments without keywords is right; for any other
    call the engine runs ``check(args, kwargs)``, which raises TypeError when the call is wrong.
    """
    if table is None:
        return None
    least = most = 0
    for _, kind, has_default in table:
        if kind in _POSITIONAL:
            most += 1
            if not has_default:
                least = most
        elif kind == _VAR_POSITIONAL:
            most = MANY
        elif kind == _KEYWORD_ONLY and not has_default:
            least = MANY + 1  # a keyword is needed: never right without a look

    def check(args, kwargs):
        signature_of(table).bind(*args, **(kwargs or {}))

    return least, most, check


def signature_of(table: tuple):
    """The table as an ``inspect.Signature`` without annotations."""
    import inspect

    empty = inspect.Parameter.empty
    return inspect.Signature(
        [
            inspect.Parameter(
                name, inspect._ParameterKind(kind), default=None if has_default else empty
            )
            for name, kind, has_default in table
        ]
    )


def argument_check(function, skip_first: bool = False):
    """`check_from_table` of the function's own table."""
    return check_from_table(parameter_table(function, skip_first))
