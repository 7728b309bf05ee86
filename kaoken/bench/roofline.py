"""A roofline: each op as a dot, under what the machine can do at its arithmetic intensity.

Williams, Waterman, Patterson, "Roofline: an insightful visual performance model", 2009; with a
slope for each level of memory (Ilic, Pratas, Sousa, "Cache-aware roofline model", 2014).
"""

# pyright: reportMissingImports=false
# (the extra `bench` brings what is imported here)

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaoken.bench.ops import MAPPING, OpFigures
from kaoken.bench.peer import PRECISIONS
from kaoken.profile import OpTime

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = dict(zip(PRECISIONS, ("#4477aa", "#ccaa33", "#aa3377"), strict=True))
NAMED_SHARE = 0.005
"""Of the time: dots of larger ops have numbers, with their names beside the plot."""
_LARGEST_DOT = 900.0
_LIST: dict[str, Any] = {"fontsize": 8, "family": "monospace"}
_SLOPE_STYLES = ("-", "--", "-.", ":")


def roofline(figures: OpFigures) -> Figure | None:
    """The plot; None where no op does arithmetic."""
    from matplotlib.figure import Figure

    ops = [op for op in figures.ranked() if op.flops and op.seconds]
    if not ops:
        return None
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_title(f"{figures.title}: area is time")
    axes.set_xlabel("arithmetic intensity: FLOP (int8: operations) a byte")
    axes.set_ylabel("GFLOP/s")
    _roofs(axes, figures, ops)
    _dots(axes, figures, ops)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    return figure


def _roofs(axes: Axes, figures: OpFigures, ops: list[OpTime]) -> None:
    """Peaks of the precisions that there are, and from each level of memory a slope up to them."""
    lowest = min(op.intensity for op in ops) / 2
    highest = max(op.intensity for op in ops) * 4
    peaks: dict[str, float] = {}
    for precision in dict.fromkeys(op.precision for op in ops):
        if (peak := figures.limits.peak(precision)) is not None:
            peaks[precision] = peak
    for precision, peak in peaks.items():
        label = f"{precision} peak: {peak / 1e9:.0f} GFLOP/s"
        axes.plot([lowest, highest], [peak / 1e9] * 2, color=COLOURS[precision], label=label)
    top = max(peaks.values(), default=0.0)
    for level, style in zip(figures.levels, _SLOPE_STYLES, strict=False):
        bandwidth = figures.limits.bandwidth(MAPPING, level.size)
        if bandwidth is None or not top:
            continue
        end = top / bandwidth
        label = f"{level.name}: {bandwidth / 1e9:.0f} GB/s"
        x = [min(lowest, end / 10), end]
        axes.plot(x, [v * bandwidth / 1e9 for v in x], style, color="#666666", label=label)


def _dots(axes: Axes, figures: OpFigures, ops: list[OpTime]) -> None:
    axes.scatter(
        [op.intensity for op in ops],
        [op.rate / 1e9 for op in ops],
        s=[max(12.0, _LARGEST_DOT * figures.share(op)) for op in ops],
        c=[COLOURS[op.precision] for op in ops],
        alpha=0.6,
        zorder=3,
    )
    named = [op for op in ops if figures.share(op) >= NAMED_SHARE]
    lines = [f"{i:2} {figures.share(op):4.0%} {op.kernel}" for i, op in enumerate(named, 1)]
    for number, op in enumerate(named, 1):
        at = (op.intensity, op.rate / 1e9)
        offset = (6, 9 * (number % 3 - 1))
        axes.annotate(str(number), at, offset, textcoords="offset points", fontsize=8, zorder=4)
    axes.text(1.01, 1, "\n".join(lines), transform=axes.transAxes, va="top", **_LIST)
