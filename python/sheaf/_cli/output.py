"""Tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys


def fail(text: str, status: int = 1) -> None:
    """Prints a sentence to stderr and exits."""
    print(f"sheaf: {text}", file=sys.stderr)
    sys.exit(status)


def print_json(value) -> None:
    """One JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2, default=_plain)
    sys.stdout.write("\n")


def _plain(value):
    return value.hex() if hasattr(value, "hex") else str(value)


def print_table(rows: list[dict], columns: list[str], title: str = "") -> None:
    """Rows as a table; wide as needed when stdout is no terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, box=SIMPLE_HEAD, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell(row.get(column)) for column in columns))
    width = None if sys.stdout.isatty() else 240
    Console(width=width, soft_wrap=False).print(table)


def cell(value) -> str:
    """A value as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    if isinstance(value, dict):
        return ", ".join(f"{key}={cell(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(cell(item) for item in value)
    return str(value)


def bytes_text(count: float) -> str:
    """A number of bytes with a unit."""
    for unit in ("B", "KB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
