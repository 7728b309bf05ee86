"""The figures of a run as one HTML page: plots, then the tables."""

# pyright: reportMissingImports=false
# (the extra `bench` brings what is imported here)

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kaoken.bench.figures import Figures, ThreadFigures
from kaoken.bench.peer import PRECISIONS
from kaoken.bench.report import tables
from kaoken.bench.tables import percent, seconds
from kaoken.errors import KaokenError
from kaoken.modules import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = dict(zip(PRECISIONS, ("#4477aa", "#ccaa33", "#aa3377"), strict=True))
_STYLE = """
body { font: 15px sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em }
table { border-collapse: collapse } td, th { padding: .2em .8em; text-align: right }
td:nth-child(-n+2), th { text-align: left } tr:nth-child(even) { background: #f3f3f3 }
svg { max-width: 100%; height: auto }
"""


def check_plots() -> None:
    """Raise KaokenError unless pages can be made."""
    if find_spec("matplotlib") is None:
        raise KaokenError("--html needs matplotlib: `pip install kaoken[bench]`")


def write_page(figures: Figures, path: Path) -> None:
    """One file that needs no other."""
    parts = [f"<h1>{figures.title}</h1>", f"<p>{_machine(figures)}</p>"]
    parts += [plot(figures.title, one) for one in figures.threads if one.ranked()]
    parts += [table.html() for table in tables(figures)]
    body = "\n".join(parts)
    write_text(
        path,
        "<!doctype html>\n<html lang=en><meta charset=utf-8>"
        f"<title>kaoken bench: {figures.title}</title>\n<style>{_STYLE}</style>\n{body}\n</html>\n",
    )


def _machine(figures: Figures) -> str:
    versions = ", ".join(f"{name} {v}" for name, v in figures.machine["versions"].items())
    return f"{figures.machine['target']}, {figures.machine['compiler']}; {versions}"


def plot(title: str, figures: ThreadFigures) -> str:
    """SVG: the time of each peer, and how much of its bound it reaches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.2 + 0.35 * len(figures.ranked())), layout="constrained")
    times, fractions = figure.subplots(1, 2, sharey=True)
    plural = "s" if figures.threads > 1 else ""
    figure.suptitle(f"{title}, {figures.threads} thread{plural}")
    _time_bars(times, figures)
    _fraction_bars(fractions, figures)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _time_bars(axes: Axes, figures: ThreadFigures) -> None:
    peers = figures.ranked()
    bars = axes.barh(
        [p.name if p.right else f"{p.name} (wrong)" for p in peers],
        [p.median * 1e3 for p in peers],
        color=[COLOURS[p.precision] if p.right else "#bbbbbb" for p in peers],
    )
    axes.bar_label(bars, [seconds(p.median) for p in peers], padding=3, fontsize=8)
    for place, peer in enumerate(peers):
        if peer.bound is not None:
            axes.plot([peer.bound * 1e3] * 2, [place - 0.4, place + 0.4], color="black")
    axes.set_xlabel("ms a call; black: the bound")
    axes.margins(x=0.15)
    for precision, colour in COLOURS.items():
        axes.barh([0], [0], color=colour, label=precision)
    axes.legend(loc="lower right", fontsize=8)
    axes.invert_yaxis()


def _fraction_bars(axes: Axes, figures: ThreadFigures) -> None:
    peers = figures.ranked()
    bars = axes.barh(
        range(len(peers)),
        [100 * (p.fraction or 0) for p in peers],
        color=[COLOURS[p.precision] if p.right else "#bbbbbb" for p in peers],
    )
    axes.bar_label(bars, [percent(p.fraction) for p in peers], padding=3, fontsize=8)
    axes.set_xlim(0, 110)
    axes.set_xlabel("% of the bound reached")
