"""Why something cannot be pickled: looks into closures, globals and attributes for the culprit."""

from __future__ import annotations

import sys
from typing import NamedTuple

_MAX_FAILURES = 20


class FailureTuple(NamedTuple):
    """Something that cannot be pickled: the object, its name, and what it hangs on."""

    obj: object
    name: str
    parent: object

    def __repr__(self):
        return f"FailTuple({self.name} [obj={self.obj!r}, parent={self.parent!r}])"

    def __hash__(self):
        return hash((id(self.obj), self.name))

    def __eq__(self, other):
        return (
            isinstance(other, FailureTuple) and (self.obj is other.obj) and self.name == other.name
        )


def inspect_serializability(base_obj, name: str | None = None, depth: int = 3, print_file=None):
    """Whether an object can be pickled, and if not, what inside of it cannot; prints what it finds.

    Args:
        base_obj: the object.
        name: what to call it; default: its own name or repr.
        depth: how many levels of closures, globals and attributes to look into.
        print_file: where to print; default: stdout.

    Returns: ``(True, set())`` or ``(False, {FailureTuple, ...})``.
    """
    report = _Report(depth)
    name = name or _name_of(base_obj)
    title = f"Checking Serializability of {base_obj!r}"
    report.lines += ["=" * len(title), title, "=" * len(title)]
    good = report.look(base_obj, name, None, depth, 0)
    if not good:
        report.lines.append("=" * len(title))
        report.lines += [
            f"Variable: \n\n\t{failure!r}\n\nwas found to be non-serializable."
            for failure in report.failures
        ]
    print("\n".join(report.lines), file=print_file or sys.stdout)
    return good, set(report.failures)


def explain(obj, name: str, depth: int = 3) -> str:
    """A few lines that name what inside of ``obj`` cannot be pickled, and why."""
    report = _Report(depth)
    report.look(obj, name, None, depth, 0)
    return "\n".join(report.lines)


def path_to_failure(obj, name: str = "value", depth: int = 4) -> str:
    """The way to the innermost culprit, e.g. ``value.lock``; "" when ``obj`` can be pickled."""
    report = _Report(depth)
    if report.look(obj, name, None, depth, 0):
        return ""
    return report.failures[0].name if report.failures else name


class _Report:
    def __init__(self, depth: int):
        self.lines: list[str] = []
        self.failures: list[FailureTuple] = []
        self.seen: set[int] = set()

    def look(self, obj, name: str, parent, depth: int, indent: int) -> bool:
        """Whether ``obj`` can be pickled; notes the innermost things that cannot."""
        import cloudpickle

        space = "    " * indent
        try:
            cloudpickle.dumps(obj)
            return True
        except Exception as error:
            self.lines.append(f"{space}!!! FAIL serialization of {name!r}: {error}")
        if depth <= 0 or id(obj) in self.seen or len(self.failures) >= _MAX_FAILURES:
            self._fail(obj, name, parent)
            return False
        self.seen.add(id(obj))
        found = False
        for child_name, child in _parts(obj, name):
            if child is obj:
                continue
            if not self.look(child, child_name, obj, depth - 1, indent + 1):
                found = True
        if not found:
            self._fail(obj, name, parent)
        return False

    def _fail(self, obj, name, parent) -> None:
        failure = FailureTuple(obj, name, parent)
        if failure not in self.failures:
            self.failures.append(failure)


def _parts(obj, name: str):
    """``(name, part)`` of what pickling ``obj`` would pickle too."""
    import inspect

    if inspect.isfunction(obj):
        try:
            closure = inspect.getclosurevars(obj)
        except (TypeError, ValueError):
            return
        for variable, value in {**closure.globals, **closure.nonlocals}.items():
            yield variable, value
    elif inspect.ismethod(obj):
        yield f"{name}.__self__", obj.__self__
        yield f"{name}.__func__", obj.__func__
    elif inspect.isclass(obj):
        for attribute, value in vars(obj).items():
            if not attribute.startswith("__") or attribute in ("__init__", "__call__"):
                value = getattr(value, "__func__", value)
                yield f"{name}.{attribute}", value
        for base in obj.__bases__:
            if base is not object:
                yield base.__name__, base
    elif isinstance(obj, dict):
        for key, value in obj.items():
            yield f"{name}[{key!r}]", value
    elif isinstance(obj, (list, tuple, set, frozenset)):
        for index, value in enumerate(obj):
            yield f"{name}[{index}]", value
    else:
        slots = [
            slot
            for cls in type(obj).__mro__
            for slot in getattr(cls, "__slots__", ())
            if isinstance(slot, str) and hasattr(obj, slot)
        ]
        for attribute in [*getattr(obj, "__dict__", {}), *slots]:
            yield f"{name}.{attribute}", getattr(obj, attribute)


def _name_of(obj) -> str:
    return getattr(obj, "__name__", None) or repr(obj)
