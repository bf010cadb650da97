"""Names and values of node labels, and conditions on them."""

from __future__ import annotations

import re

_LABEL_NAME = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_LABEL_KEY = re.compile(rf"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?/)?{_LABEL_NAME}")
_LABEL_VALUE = re.compile(rf"({_LABEL_NAME})?")
_SELECTOR_SET = re.compile(r"!?in\(([^()]*)\)")


def check_labels(labels: dict, what: str = "labels") -> None:
    """ValueError or TypeError unless ``labels`` is a dict of well-formed label names and values."""
    for key, value in labels.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"{what}: names and values must be str, got {key!r}: {value!r}")
        if not _LABEL_KEY.fullmatch(key):
            raise ValueError(
                f"{what}: {key!r} is not a label name (letters, digits, '-', '_' and '.', at most "
                "63, "
                "with an optional DNS prefix and '/')"
            )
        if not _LABEL_VALUE.fullmatch(value):
            raise ValueError(
                f"{what}: {value!r} is not a label value (letters, digits, '-', '_', '.')"
            )


def check_label_selector(selector: dict, what: str = "label_selector") -> None:
    """ValueError or TypeError unless each value is ``v``, ``!v``, ``in(a,b)`` or ``!in(a,b)``."""
    for key, value in selector.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"{what}: names and conditions must be str, got {key!r}: {value!r}")
        if not _LABEL_KEY.fullmatch(key):
            raise ValueError(f"{what}: {key!r} is not a label name")
        members = _SELECTOR_SET.fullmatch(value)
        parts = members.group(1).split(",") if members else [value.removeprefix("!")]
        if any(not part.strip() or not _LABEL_VALUE.fullmatch(part.strip()) for part in parts):
            raise ValueError(
                f"{what}: {value!r} is not a condition on a label: use 'v', '!v', 'in(a,b)' or "
                "'!in(a,b)'"
            )


def matches(selector: dict, labels: dict) -> bool:
    """Whether ``labels`` meet a well-formed ``selector``."""
    return all(_meets(condition, labels.get(name)) for name, condition in selector.items())


def _meets(condition: str, value: str | None) -> bool:
    negated = condition.startswith("!")
    members = _SELECTOR_SET.fullmatch(condition)
    text = members.group(1) if members else condition.removeprefix("!")
    return (value in [part.strip() for part in text.split(",")]) != negated
