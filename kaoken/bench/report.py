"""The figures of a run as tables."""

from __future__ import annotations

from collections.abc import Sequence

from kaoken.bench.figures import Figures, PeerFigures, ThreadFigures, percentile
from kaoken.bench.limits import MAPPINGS, Limits
from kaoken.bench.peer import PRECISIONS
from kaoken.bench.tables import Table, megabytes, percent, seconds, span, three_digits

_SPREAD = (10, 90)


def tables(figures: Figures) -> list[Table]:
    """For each number of threads: the speed, the limits, and what else it costs."""
    found: list[Table] = []
    for one in figures.threads:
        title = figures.title_of(one)
        found += [speed_table(title, one), limit_table(one.limits), cost_table(one)]
        found += [ops.table() for ops in one.op_figures(title)]
    return found


def decoder_tables(runs: Sequence[Figures]) -> list[Table]:
    """For each number of threads: prompts, steps, the limits, and what else it costs."""
    found: list[Table] = []
    for i, one in enumerate(runs[0].threads):
        for run in runs:
            figures = run.threads[i]
            found.append(text_table(run.title_of(figures), figures, run.new_tokens))
        found += [limit_table(one.limits), cost_table(one, with_calls=False)]
    return found


def text_table(title: str, figures: ThreadFigures, tokens: int) -> Table:
    """`speed_table` of a decoder, with tokens a second and where the slowest times lie."""
    table = speed_table(title, figures)
    table.header = (*table.header[:4], "tokens/s", *table.header[4:], "p99")
    for i, (row, peer) in enumerate(zip(table.rows, figures.ranked(), strict=True)):
        rate, slowest = three_digits(tokens / peer.median), seconds(percentile(peer.calls, 99))
        table.rows[i] = (*row[:4], rate, *row[4:], slowest)
    return table


def speed_table(title: str, figures: ThreadFigures) -> Table:
    """Right peers, the fastest first; then wrong ones, which have no rank."""
    header = ("", "peer", "", "median", "10-90 %", "x kaoken", "bound", "reached", "error")
    table = Table(title, header, left=3)
    for rank, peer in enumerate(figures.ranked(), 1):
        kaoken = figures.of(f"kaoken_{peer.precision}")
        ratio = f"{peer.median / kaoken.median:.2f}" if kaoken is not None else ""
        low, high = (percentile(peer.seconds, at) for at in _SPREAD)
        table.rows.append(
            (
                str(rank) if peer.right else "wrong",
                peer.name,
                peer.precision,
                seconds(peer.median),
                span(low, high),
                ratio,
                seconds(peer.bound),
                percent(peer.fraction),
                _error(peer),
            )
        )
    table.notes = [f"{p.name}: skipped, {p.skipped}" for p in figures.skipped()]
    return table


def _error(peer: PeerFigures) -> str:
    """What decides whether the peer is right: the largest difference, or for less than fp32 the
    distance of the cosine from 1."""
    if peer.precision != "fp32":
        return f"1-cos {1 - peer.cosine:.0e}"
    return f"{peer.max_abs:.0e}"


def limit_table(limits: Limits) -> Table:
    table = Table("the machine's limits meanwhile", ("", "median", "least - most"))
    for precision in PRECISIONS:
        _add_limit(table, limits, precision, f"{precision} arithmetic", "GFLOP/s")
        _add_limit(table, limits, f"{precision}_tiles", f"{precision} matrix unit", "GFLOP/s")
    for key in limits.rates:
        mapping, _, size = key.partition(" ")
        if mapping in MAPPINGS:
            label = f"reading {three_digits(int(size) / 1e6)} MB, {mapping}"
            _add_limit(table, limits, key, label, "GB/s")
    return table


def _add_limit(table: Table, limits: Limits, key: str, label: str, unit: str) -> None:
    median = limits.median(key)
    if median is None:
        return
    low, high = (three_digits(f(limits.rates[key]) / 1e9) for f in (min, max))
    table.rows.append((label, f"{three_digits(median / 1e9)} {unit}", f"{low} - {high}"))


def cost_table(figures: ThreadFigures, with_calls: bool = True) -> Table:
    """Memory, size, how soon the first answer comes, and single calls if they were timed."""
    header = ["peer", "build", "artefact MB", "start to answer", "load to answer", "peak MB"]
    with_calls = with_calls and any(peer.calls for peer in figures.ranked())
    if with_calls:
        header += ["p50", "p99", "max"]
    table = Table("what else it costs", header)
    for peer in figures.ranked():
        table.rows.append(_cost_row(peer, with_calls))
    return table


def _cost_row(peer: PeerFigures, with_calls: bool) -> list[str]:
    row = [
        peer.name,
        seconds(peer.build_seconds),
        megabytes(peer.artefact_bytes),
        seconds(percentile(peer.starts, 50)),
        seconds(peer.load_seconds),
        megabytes(peer.peak_bytes),
    ]
    if with_calls:
        row += [seconds(percentile(peer.calls, at)) if peer.calls else "" for at in (50, 99, 100)]
    return row
