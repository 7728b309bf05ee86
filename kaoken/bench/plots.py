"""The figures of a run as one HTML page: plots, then the tables."""

# pyright: reportMissingImports=false
# (the extra `bench` brings what is imported here)

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kaoken.bench.figures import Figures, ThreadFigures
from kaoken.bench.ops import OpFigures
from kaoken.bench.roofline import COLOURS, roofline
from kaoken.bench.tables import Table, percent, seconds
from kaoken.errors import KaokenError
from kaoken.modules import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


def write_page(runs: Sequence[Figures], found: Sequence[Table], path: Path) -> None:
    """One file that needs no other, with the plots of some runs and their tables."""
    title = runs[0].title if len(runs) == 1 else runs[0].model
    parts = [f"<h1>{title}</h1>", f"<p>{_machine(runs[0])}</p>"]
    for figures in runs:
        for one in figures.threads:
            if one.ranked():
                parts.append(plot(figures.title_of(one), one))
            parts += [_roofline(ops) for ops in one.op_figures(figures.title_of(one))]
    parts += [table.html() for table in found]
    _write(path, f"kaoken bench: {title}", parts)


def write_op_page(figures: OpFigures, path: Path) -> None:
    """The roofline and the table of one model's ops."""
    _write(path, f"kaoken profile: {figures.title}", [_roofline(figures), figures.table().html()])


def _write(path: Path, title: str, parts: Sequence[str]) -> None:
    body = "\n".join(parts)
    head = f"<meta charset=utf-8><title>{title}</title>\n<style>{_STYLE}</style>"
    write_text(path, f"<!doctype html>\n<html lang=en>{head}\n{body}\n</html>\n")


def _roofline(figures: OpFigures) -> str:
    figure = roofline(figures)
    return "" if figure is None else _svg(figure)


def _machine(figures: Figures) -> str:
    versions = ", ".join(f"{name} {v}" for name, v in figures.machine["versions"].items())
    return f"{figures.machine['target']}, {figures.machine['compiler']}; {versions}"


def plot(title: str, figures: ThreadFigures) -> str:
    """SVG: the time of each peer, and how much of its bound it reaches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.2 + 0.35 * len(figures.ranked())), layout="constrained")
    times, fractions = figure.subplots(1, 2, sharey=True)
    figure.suptitle(title)
    _time_bars(times, figures)
    _fraction_bars(fractions, figures)
    return _svg(figure)


def _svg(figure: Figure) -> str:
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
