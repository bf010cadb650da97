"""Plots as SVG text, without any library."""

from __future__ import annotations

import math
from typing import Sequence
from xml.sax.saxutils import escape

from sheaf._perf.table import Row, number

COLOURS = ("#1f6f8b", "#d1495b", "#edae49", "#66a182", "#6d597a", "#8d6346", "#3d405b", "#999999")
ROW_HEIGHT = 18
LEFT = 320
WIDTH = 960


def _text(x: float, y: float, text: str, size: int = 11, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
        f'font-family="sans-serif">{escape(text)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str = "#ccc", width: float = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width}"/>'
    )


def _document(width: float, height: float, parts: list[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}">'
        '<rect width="100%" height="100%" fill="white"/>' + "\n".join(parts) + "</svg>\n"
    )


def _powers(low: float, high: float) -> list[float]:
    return [10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]


def ratios(rows: Sequence[Row], names: Sequence[str], title: str) -> str:
    """A dot a line and peer: how many times better ours is, on a logarithmic axis. Without peers:
    a bar a line, our median beside its name.
    """
    peers = names[1:]
    shown = [r for r in rows if r.median("sheaf") is not None and not r.floor]
    if peers:
        shown = [r for r in shown if any(r.ratio(p) for p in peers)]
    values = [r.ratio(p) for r in shown for p in peers]
    known = [v for v in values if v]
    ticks = _powers(min([1.0, *known]), max([10.0, *known]))
    span = math.log10(ticks[-1] / ticks[0])

    def x_of(value: float) -> float:
        return LEFT + (WIDTH - LEFT - 40) * math.log10(value / ticks[0]) / span

    top = 70
    bottom = top + ROW_HEIGHT * len(shown)
    parts = [_text(10, 20, title, 12)]
    if peers:
        parts.append(_text(10, 38, "how many times better than each peer (left of 1: worse)", 12))
        for tick in ticks:
            colour = "#333" if tick == 1 else "#ccc"
            parts.append(_line(x_of(tick), top, x_of(tick), bottom, colour))
            parts.append(_text(x_of(tick), bottom + 14, f"{tick:g}x", 10, "middle"))
    for i, row in enumerate(shown):
        y = top + ROW_HEIGHT * (i + 0.5)
        ours = f"{number(row.median('sheaf'))} {row.unit}"
        parts.append(_text(10, y + 4, row.name))
        parts.append(_text(LEFT - 8, y + 4, ours, 9, "end"))
        for peer, colour in zip(peers, COLOURS[1:]):
            ratio = row.ratio(peer)
            if ratio:
                parts.append(f'<circle cx="{x_of(ratio):.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
    for i, (peer, colour) in enumerate(zip(peers, COLOURS[1:])):
        parts.append(f'<circle cx="{LEFT + 130 * i:.1f}" cy="54" r="4" fill="{colour}"/>')
        parts.append(_text(LEFT + 130 * i + 8, 58, peer))
    return _document(WIDTH, bottom + 30, parts)


Curve = Sequence[tuple[float, float]]


def efficiency(panels: dict[str, dict[str, Curve]], title: str, metg: dict) -> str:
    """One panel a graph: efficiency over task granularity (us, logarithmic), a curve a system, and
    the line of 50 %. `metg[graph][system]` is named in the legend.
    """
    width, height, columns = 320, 230, 3
    points = [x for curves in panels.values() for curve in curves.values() for x, _ in curve]
    ticks = _powers(min(points, default=1.0), max(points, default=10.0))
    span = max(1.0, math.log10(ticks[-1] / ticks[0]))
    systems = sorted({name for curves in panels.values() for name in curves})
    parts = [_text(10, 20, title, 12)]
    for i, (graph, curves) in enumerate(panels.items()):
        left = 50 + width * (i % columns)
        top = 60 + height * (i // columns)
        inner_w, inner_h = width - 70, height - 70
        parts.append(_text(left, top - 6, graph, 12))

        def place(x: float, y: float, left: float = left, top: float = top) -> tuple[float, float]:
            across = inner_w * math.log10(x / ticks[0]) / span
            return left + across, top + inner_h * (1 - min(y, 1.1) / 1.1)

        for level in (0.0, 0.5, 1.0):
            x1, y1 = place(ticks[0], level)
            parts.append(_line(x1, y1, left + inner_w, y1, "#333" if level == 0.5 else "#ccc"))
            parts.append(_text(x1 - 4, y1 + 4, f"{level:.1f}", 9, "end"))
        for tick in ticks:
            x1, y1 = place(tick, 0)
            parts.append(_text(x1, y1 + 12, f"{tick:g}", 9, "middle"))
        for system, curve in curves.items():
            colour = COLOURS[systems.index(system) % len(COLOURS)]
            path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in sorted(curve))
            parts.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
            )
            order = systems.index(system)
            value = metg.get(graph, {}).get(system)
            named = f"{system} {value:.3g} us" if value else system
            parts.append(_text(left + 6, top + 12 + 11 * order, named, 9))
            parts.append(_line(left - 4, top + 9 + 11 * order, left + 4, top + 9 + 11 * order,
                               colour, 2))  # fmt: skip
    rows = (len(panels) + columns - 1) // columns
    return _document(50 + width * columns, 60 + height * rows, parts)
