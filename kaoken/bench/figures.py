"""What a run of the benchmark found out, as plain data: what --json writes and tables show."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from kaoken.bench.limits import Limits
from kaoken.bench.ops import Level, OpFigures
from kaoken.bench.peer import PRECISIONS, Peer
from kaoken.profile import OpTime

TOLERANCE = 1e-4
"""Largest difference of an fp32 output, relative to the largest value or 1."""
LEAST_COSINE = {"bf16": 0.9995, "int8": 0.995}


@dataclass
class PeerFigures:
    """One peer at one number of threads. Seconds and bytes."""

    name: str
    precision: str
    skipped: str | None = None
    """Why there are no figures."""
    seconds: list[float] = field(default_factory=list)
    """Of a call, from all turns."""
    calls: list[float] = field(default_factory=list)
    """Of calls timed one by one, in order."""
    build_seconds: float | None = None
    """None when it had been built before."""
    artefact_bytes: int = 0
    starts: list[float] = field(default_factory=list)
    """From the start of a process to the first answer."""
    load_seconds: float = 0.0
    """From asking for the model, in a running process, to the first answer."""
    peak_bytes: int | None = None
    max_abs: float = 0.0
    cosine: float = 1.0
    largest: float = 0.0
    """The wanted output's largest absolute value."""
    bound: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def fraction(self) -> float | None:
        """How much of what the machine could do is reached: 1 is all."""
        return None if self.bound is None else self.bound / self.median

    @property
    def right(self) -> bool:
        """Whether the output is near enough PyTorch's for its precision."""
        if self.precision in LEAST_COSINE:
            return self.cosine >= LEAST_COSINE[self.precision]
        return self.max_abs <= TOLERANCE * max(1.0, self.largest)


@dataclass
class Work:
    """What one call takes at least."""

    flops: float | None
    """Of the matrix products; None where nobody counts."""
    weights: int
    """How many are read."""
    data_bytes: int
    """Of the inputs and the output."""

    def bytes_moved(self, precision: str) -> int:
        return self.weights * PRECISIONS[precision] + self.data_bytes


@dataclass
class ThreadFigures:
    """All peers at one number of threads, and the machine's limits meanwhile."""

    threads: int
    limits: Limits
    peers: list[PeerFigures]
    levels: list[Level] = field(default_factory=list)
    ops: dict[str, list[OpTime]] = field(default_factory=dict)
    """By peer, where ops were asked for and the peer knows."""

    def set_bounds(self, work: Work, peers: Sequence[Peer]) -> None:
        mappings = {peer.name: peer.mapping for peer in peers}
        for p in self.peers:
            size = work.bytes_moved(p.precision)
            p.bound = self.limits.bound(p.precision, work.flops, size, mappings[p.name])

    def ranked(self) -> list[PeerFigures]:
        """The peers with figures: the right ones, the fastest first, then the wrong ones."""
        timed = [p for p in self.peers if p.skipped is None]
        return sorted(timed, key=lambda p: (not p.right, p.median))

    def skipped(self) -> list[PeerFigures]:
        return [p for p in self.peers if p.skipped is not None]

    def op_figures(self, title: str) -> list[OpFigures]:
        """What is known of the ops of each peer."""
        found = self.ops.items()
        return [OpFigures(f"{title}, {n}", ops, self.limits, self.levels) for n, ops in found]

    def of(self, name: str) -> PeerFigures | None:
        """The figures of a peer; None when it was skipped or is wrong."""
        return next((p for p in self.ranked() if p.name == name and p.right), None)


@dataclass
class Figures:
    """A whole run."""

    model: str
    batch: int
    tokens: int
    work: Work
    machine: dict[str, Any]
    settings: dict[str, Any]
    threads: list[ThreadFigures] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.model} {self.batch}x{self.tokens}"

    def title_of(self, figures: ThreadFigures) -> str:
        return f"{self.title}, {figures.threads} thread{'s' * (figures.threads > 1)}"

    def as_json(self) -> dict[str, Any]:
        """Everything, with what follows from it: median, fraction, right."""
        result = asdict(self)
        for threads, kept in zip(self.threads, result["threads"], strict=True):
            for peer, entry in zip(threads.peers, kept["peers"], strict=True):
                if peer.skipped is None:
                    entry |= {"median": peer.median, "fraction": peer.fraction}
                    entry["right"] = peer.right
        return result


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
