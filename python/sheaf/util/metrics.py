"""Metrics of one's own: counters, gauges and histograms, collected by the node daemon in
Prometheus' form.

Values are kept in this process and sent in the background, at most every `PUSH_INTERVAL_S` seconds,
and at `flush`.
"""

from __future__ import annotations

import re
import threading

from .. import _core
from .._state import state

__all__ = ["Counter", "Gauge", "Histogram", "flush"]

PUSH_INTERVAL_S = 2.0
_COUNTER, _GAUGE, _HISTOGRAM = 0, 1, 2
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")

_lock = threading.Lock()
_metrics: dict[str, "Metric"] = {}
_pusher: threading.Thread | None = None
_wake = threading.Event()


class Metric:
    """What counters, gauges and histograms have in common.

    Args:
        name: letters, digits, '_' and ':'; equal names in one process are one metric.
        description: for people.
        tag_keys: names of the tags that values may carry.

    Raises: ValueError or TypeError for a malformed name or tags.
    """

    _kind = _GAUGE

    def __init__(self, name: str, description: str = "", tag_keys: tuple | None = None):
        if not isinstance(name, str):
            raise TypeError(f"A metric's name is a str, not {type(name)}")
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"Invalid metric name: {name!r}. Use letters, digits, '_' and ':', no digit first."
            )
        tag_keys = () if tag_keys is None else tag_keys
        if not isinstance(tag_keys, tuple):
            raise TypeError(f"tag_keys should be a tuple type, got: {type(tag_keys)}")
        for key in tag_keys:
            if not isinstance(key, str):
                raise TypeError(f"Tag keys must be str, got {type(key)}.")
        self._name = name
        self._description = description
        self._tag_keys = tag_keys
        self._default_tags: dict[str, str] = {}
        self._values: dict[tuple, object] = {}
        self._changed: set[tuple] = set()
        with _lock:
            known = _metrics.setdefault(name, self)
            if known is not self:
                if known._kind != self._kind:
                    raise ValueError(f"There is a metric {name!r} of another kind already.")
                self._values, self._changed = known._values, known._changed

    def __reduce__(self):
        return _rebuild, (type(self), self._arguments(), self._default_tags)

    def _arguments(self) -> tuple:
        return self._name, self._description, self._tag_keys

    @property
    def info(self) -> dict:
        """Name, description, tag keys and default tags."""
        return {
            "name": self._name,
            "description": self._description,
            "tag_keys": self._tag_keys,
            "default_tags": self._default_tags,
        }

    def set_default_tags(self, default_tags: dict[str, str]) -> "Metric":
        """Tags of values that do not bring their own; gives the metric itself. ValueError for
        unknown tags.
        """
        for key, value in default_tags.items():
            if key not in self._tag_keys:
                raise ValueError(f"Unrecognized tag key {key}.")
            if not isinstance(value, str):
                raise TypeError(f"Tag values must be str, got {type(value)}.")
        self._default_tags = dict(default_tags)
        return self

    def _tags(self, tags) -> tuple:
        final = dict(self._default_tags)
        for key, value in (tags or {}).items():
            if key not in self._tag_keys:
                raise ValueError(f"Unrecognized tag key {key}.")
            if not isinstance(value, str):
                raise TypeError(f"Tag values must be str, got {type(value)}.")
            final[key] = value
        missing = [key for key in self._tag_keys if key not in final]
        if missing:
            raise ValueError(f"Missing value for tag key(s): {','.join(missing)}.")
        return tuple(sorted(final.items()))

    def _touched(self, tags: tuple) -> None:
        self._changed.add(tags)
        _ensure_pusher()

    def _samples(self) -> list[dict]:
        changed, samples = list(self._changed), []
        self._changed.difference_update(changed)
        for tags in changed:
            samples.append(
                {
                    "name": self._name,
                    "help": self._description,
                    "kind": self._kind,
                    "tags": dict(tags),
                    **self._sample(self._values[tags]),
                }
            )
        return samples

    def _sample(self, value) -> dict:
        return {"value": float(value)}


def _rebuild(cls, arguments, default_tags):
    metric = cls(*arguments)
    metric._default_tags = default_tags
    return metric


class Counter(Metric):
    """A sum that only grows.

    Example::

        requests = Counter("requests", description="served requests", tag_keys=("path",))
        requests.inc(tags={"path": "/"})
    """

    _kind = _COUNTER

    def inc(self, value: float = 1.0, tags: dict | None = None) -> None:
        """Adds ``value``; ValueError unless it is positive."""
        if not isinstance(value, (int, float)):
            raise TypeError(f"value must be int or float, got {type(value)}.")
        if value <= 0:
            raise ValueError(f"value must be >0, got {value}")
        key = self._tags(tags)
        with _lock:
            self._values[key] = self._values.get(key, 0.0) + value
            self._touched(key)


class Gauge(Metric):
    """A value that goes up and down."""

    _kind = _GAUGE

    def set(self, value: float | None, tags: dict | None = None) -> None:
        """The value from now on; None changes nothing."""
        if value is None:
            return
        if not isinstance(value, (int, float)):
            raise TypeError(f"value must be int or float, got {type(value)}.")
        key = self._tags(tags)
        with _lock:
            self._values[key] = float(value)
            self._touched(key)


class Histogram(Metric):
    """How many observations fell between boundaries.

    Args:
        boundaries: upper ends of the buckets, ascending and positive; what is above the last falls
            in one more.
    """

    _kind = _HISTOGRAM

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: list | None = None,
        tag_keys: tuple | None = None,
    ):
        if not boundaries:
            raise ValueError(
                "boundaries argument should be provided when using the Histogram class."
            )
        if any(bound <= 0 for bound in boundaries):
            raise ValueError(
                f"Invalid `boundaries` argument: boundaries must be above 0, got {boundaries}"
            )
        if list(boundaries) != sorted(boundaries):
            raise ValueError(
                f"Invalid `boundaries` argument: boundaries must ascend, got {boundaries}"
            )
        self.boundaries = [float(bound) for bound in boundaries]
        super().__init__(name, description, tag_keys)

    def _arguments(self) -> tuple:
        return self._name, self._description, self.boundaries, self._tag_keys

    @property
    def info(self) -> dict:
        """As of `Metric`, and the boundaries."""
        return {**super().info, "boundaries": self.boundaries}

    def observe(self, value: float, tags: dict | None = None) -> None:
        """Counts one observation."""
        if not isinstance(value, (int, float)):
            raise TypeError(f"value must be int or float, got {type(value)}.")
        import bisect

        key = self._tags(tags)
        with _lock:
            total, counts = self._values.setdefault(key, [0.0, [0] * (len(self.boundaries) + 1)])
            counts[bisect.bisect_left(self.boundaries, value)] += 1
            self._values[key] = [total + value, counts]
            self._touched(key)

    def _sample(self, value) -> dict:
        total, counts = value
        return {
            "value": float(total),
            "bounds": self.boundaries,
            "counts": [float(count) for count in counts],
        }


def flush() -> None:
    """Sends what has changed since the last time; does nothing when this process is not
    connected.
    """
    if state.mode is None:
        return
    with _lock:
        samples = [sample for metric in _metrics.values() for sample in metric._samples()]
    if samples:
        _core.metrics_push(samples)


def _ensure_pusher() -> None:
    global _pusher
    if _pusher is None or not _pusher.is_alive():
        _pusher = threading.Thread(target=_push_forever, name="sheaf-metrics", daemon=True)
        _pusher.start()
    _wake.set()


def _push_forever() -> None:
    import time

    while _wake.wait():
        time.sleep(PUSH_INTERVAL_S)
        _wake.clear()
        try:
            flush()
        except Exception:  # the connection may be ending
            pass
