"""A table, and how it looks on a terminal, in Markdown and in HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass
class Table:
    """Rows of text; all columns but the first `left` are numbers. Notes stand below."""

    title: str
    header: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left: int = 1

    def rich(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=None, padding=(0, 1), header_style="bold")
        for i, name in enumerate(self.header):
            table.add_column(name, justify="left" if i < self.left else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return Group(Text(self.title, "bold"), table, *(Text(note) for note in self.notes), "")

    def markdown(self) -> str:
        marks = ["---" if i < self.left else "---:" for i in range(len(self.header))]
        lines = [f"**{self.title}**", "", *(_row(cells) for cells in (self.header, marks))]
        lines += [_row(row) for row in self.rows]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)]) + "\n"

    def html(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.header)
        body = "\n".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.rows
        )
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        title = html.escape(self.title)
        return f"<h2>{title}</h2>\n<table><tr>{head}</tr>\n{body}</table>\n{notes}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def seconds(value: float | None) -> str:
    """Three digits and a unit: `1.23 ms`."""
    if value is None:
        return ""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale:
            return f"{three_digits(value / scale)} {unit}"
    return f"{three_digits(value / 1e-9)} ns"


def span(low: float, high: float) -> str:
    """Two times in the unit of the second: `1.20-1.31 ms`."""
    number, unit = seconds(high).split()
    scale = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}[unit]
    return f"{three_digits(low / scale)}-{number} {unit}"


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def megabytes(value: int | None) -> str:
    return "" if value is None else three_digits(value / 1e6)


def three_digits(value: float) -> str:
    """A number with three digits that count, never in powers of ten."""
    if value == 0:
        return "0"
    return f"{value:.{max(0, 2 - int(f'{value:e}'.split('e')[1]))}f}"
