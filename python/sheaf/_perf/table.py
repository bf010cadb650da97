"""Results and how they are shown: one row a line, one column an engine, the ratio to each peer."""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Iterable

NAME_WIDTH = 45


@dataclasses.dataclass
class Row:
    """All rounds of one line. `rate` rows count for the geometric mean unless `bandwidth`."""

    name: str
    unit: str
    bandwidth: bool = False
    less_is_better: bool = False
    rate: bool = False
    floor: bool = False
    floor_value: float | None = None
    floor_name: str = ""
    n: int | None = None   # rounds, where `values` are only least, median and most
    values: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    errors: dict[str, str] = dataclasses.field(default_factory=dict)

    def median(self, engine: str) -> float | None:
        found = self.values.get(engine)
        return statistics.median(found) if found else None

    def ratio(self, peer: str) -> float | None:
        """How many times better ours is than the peer's; None when one of them is missing."""
        ours, theirs = self.median("sheaf"), self.median(peer)
        if ours is None or theirs is None or ours <= 0 or theirs <= 0 or self.floor:
            return None
        return theirs / ours if self.less_is_better else ours / theirs

    def spread(self) -> float | None:
        """Between our best and worst round, as a share of the median."""
        found = self.values.get("sheaf")
        middle = self.median("sheaf")
        return (max(found) - min(found)) / middle if found and middle else None

    def record(self) -> dict:
        """JSON."""
        engines = {}
        for name, found in self.values.items():
            engines[name] = {
                "n": self.n or len(found),
                "median": statistics.median(found),
                "low": min(found),
                "high": max(found),
                "values": found,
            }
        ratios = {name: self.ratio(name) for name in self.values if name != "sheaf"}
        answer = {
            "unit": self.unit,
            "less_is_better": self.less_is_better,
            "bandwidth": self.bandwidth,
            "engines": engines,
            "errors": self.errors,
            "ratios": ratios,
        }
        if self.floor_value is not None:
            answer["floor"] = {"value": self.floor_value, "name": self.floor_name}
        return answer


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"


def head(title: str, names: list[str]) -> str:
    """Two lines: what follows, and the columns."""
    columns = f"{'':<{NAME_WIDTH}} {'sheaf':>13} {'unit':<5} {'spread':>7}"
    for name in names[1:]:
        columns += f" {name[:18]:>18} {'ratio':>8}"
    return f"{title}\n{columns}"


def line(row: Row, names: list[str]) -> str:
    ours, spread = row.median("sheaf"), row.spread()
    shown = "failed" if "sheaf" in row.errors else number(ours)
    percent = "" if spread is None else f"{100 * spread:.0f} %"
    text = f"{row.name:<{NAME_WIDTH}} {shown:>13} {row.unit:<5} {percent:>7}"
    if row.floor_value is not None:
        text += f"   floor {number(row.floor_value)} {row.unit}, {row.floor_name}"
        return text
    losses = []
    for name in names[1:]:
        theirs = "failed" if name in row.errors else number(row.median(name))
        ratio = row.ratio(name)
        text += f" {theirs:>18} {'' if ratio is None else number(ratio) + 'x':>8}"
        if ratio is not None and ratio < 1:
            losses.append(name)
    return text + (f"  LOSS to {', '.join(losses)}" if losses else "")


def geometric_mean(rows: Iterable[Row], peer: str) -> float | None:
    """Over rates that memory speed does not bound."""
    ratios = [row.ratio(peer) for row in rows if row.rate and not row.bandwidth]
    logs = [math.log(ratio) for ratio in ratios if ratio is not None]
    return math.exp(sum(logs) / len(logs)) if logs else None


def summary(rows: Iterable[Row], names: list[str]) -> str:
    """The geometric mean and the losses against each peer."""
    rows = list(rows)
    text = ""
    for name in names[1:]:
        ratios = {row.name: row.ratio(name) for row in rows}
        known = {key: ratio for key, ratio in ratios.items() if ratio is not None}
        if not known:
            text += f"\n{name}: no line ran on both"
            continue
        mean = geometric_mean(rows, name)
        if mean is not None:
            text += f"\n{name}: geometric mean of rates not bound by memory: {mean:.1f}x"
        losses = [key for key, ratio in known.items() if ratio < 1]
        text += f"\n{name}: {len(known)} lines, lost: {', '.join(losses) or 'none'}"
    return text
