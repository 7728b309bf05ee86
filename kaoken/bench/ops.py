"""Each op of a compiled model beside the machine's limits: a table, and what a roofline needs.

No op can take less time than its operations at the peak rate of its precision, nor less than
reading its bytes once from the nearest cache that holds them. The longer of the two is its bound,
as it is for whole models in `kaoken.bench.limits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kaoken.backend.machine import TargetMachine
from kaoken.bench.limits import Limits
from kaoken.bench.tables import Table, percent, seconds, three_digits
from kaoken.profile import OpTime

MAPPING = "file"
"""Weights are read from a mapped file."""
SMALL_SHARE = 0.002
"""Of the whole time: ops below are one line together."""


@dataclass(frozen=True)
class Level:
    """A level of the memory hierarchy, and how many of its bytes the probe reads over and over."""

    name: str
    capacity: int
    size: int


def levels(machine: TargetMachine, threads: int, largest: int) -> list[Level]:
    """Half of each core's L1 and L2 and of the shared L3, and all that the model reads."""
    caches = [
        ("L1", threads * machine.l1_bytes),
        ("L2", threads * machine.l2_bytes),
        ("L3", machine.l3_bytes),
    ]
    found = [Level(name, size, size // 2) for name, size in caches if size // 2 < largest]
    return [*found, Level("all weights", largest, largest)]


@dataclass(frozen=True)
class OpFigures:
    """One run of a model, op by op, and the machine's limits meanwhile."""

    title: str
    ops: Sequence[OpTime]
    limits: Limits
    levels: Sequence[Level]

    @property
    def seconds(self) -> float:
        return sum(op.seconds for op in self.ops)

    def ranked(self) -> list[OpTime]:
        """Those that ran, the longest first."""
        return sorted((op for op in self.ops if op.calls), key=lambda op: -op.seconds)

    def share(self, op: OpTime) -> float:
        return op.seconds / self.seconds

    def bound(self, op: OpTime) -> float | None:
        """The least seconds that the op's calls can take together."""
        bytes_ = op.bytes / op.calls
        level = next((one for one in self.levels if bytes_ <= one.capacity), self.levels[-1])
        return self.limits.bound(op.precision, op.flops, op.bytes, MAPPING, level.size)

    def table(self) -> Table:
        """Time and its share, what is reached, and of which limit that is how much."""
        header = ("kernel", "in", "calls", "time", "share", "GFLOP/s", "of peak", "GB/s")
        header += ("FLOP/byte", "waited", "of bound")
        table = Table(f"{self.title}: {seconds(self.seconds)} in all", header, left=2)
        small = [op for op in self.ranked() if self.share(op) < SMALL_SHARE]
        table.rows = [self._row(op) for op in self.ranked() if op not in small]
        if small:
            total = sum(op.seconds for op in small)
            share = percent(total / self.seconds)
            calls = str(sum(op.calls for op in small))
            table.rows.append((f"{len(small)} small ops", "", calls, seconds(total), share))
        return table

    def _row(self, op: OpTime) -> tuple[str, ...]:
        peak, bound = self.limits.peak(op.precision), self.bound(op)
        return (
            op.kernel,
            op.caller,
            str(op.calls),
            seconds(op.seconds),
            f"{self.share(op):.1%}",
            three_digits(op.rate / 1e9) if op.flops else "",
            percent(op.rate / peak) if op.flops and peak else "",
            three_digits(op.bandwidth / 1e9),
            three_digits(op.intensity) if op.flops else "",
            percent(op.waited / op.seconds) if op.waited else "",
            percent(bound / op.seconds) if bound is not None else "",
        )
