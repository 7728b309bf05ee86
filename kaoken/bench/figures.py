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
DECODER_TOLERANCE = 1e-3
DECODER_LEAST_COSINE = {"bf16": 0.9995, "int8": 0.95, "int4": 0.7, "ternary": 0.9}
"""The same for logits, where errors of many layers and of the caches come together."""
BITS = {
    "fp32": (32, 32),
    "bf16": (16, 16),
    "int8": (8, 8),
    "int4": (4.5, 8),
    "ternary": (2.0625, 8),
}
"""Of a decoder's weight: in its layers, where int4 has a scale of 16 bits for 32 and ternary one
for 256, and its head."""


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
    generates: bool = False
    """Whether the output is logits."""

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
        cosines = DECODER_LEAST_COSINE if self.generates else LEAST_COSINE
        if self.precision in cosines:
            return self.cosine >= cosines[self.precision]
        tolerance = DECODER_TOLERANCE if self.generates else TOLERANCE
        return self.max_abs <= tolerance * max(1.0, self.largest)


@dataclass
class Work:
    """What one call takes at least."""

    flops: float | None
    """Of the matrix products; None where nobody counts."""
    weights: int
    """How many are read."""
    data_bytes: int
    """Of the inputs and the output."""

    def bytes_moved(self, precision: str, cache_bytes: float = 4) -> int:
        """At least so many, where a number in caches takes `cache_bytes`."""
        return self.weights * PRECISIONS[precision] + self.data_bytes

    def read_size(self, precision: str) -> int:
        """How many bytes the probe reads over and over to find the bandwidth."""
        return self.bytes_moved(precision)


@dataclass
class DecoderWork(Work):
    """A step of a decoder, or its reading a prompt. `weights` are those of its layers."""

    head: int = 0
    cached: float = 0
    """Numbers that are read from caches, or written there."""

    def bytes_moved(self, precision: str, cache_bytes: float = 4) -> int:
        return self.read_size(precision) + self.data_bytes + int(self.cached * cache_bytes)

    def read_size(self, precision: str) -> int:
        """The weights alone: one probe for all depths."""
        layers, head = BITS[precision]
        return int(self.weights * layers + self.head * head) // 8


@dataclass
class Decoder:
    """The sizes that say how much work a decoder is."""

    weights: int
    """In the matrices of its layers."""
    head: int
    """In the matrix behind them."""
    cache: int
    """Numbers that a token adds to the caches."""
    products: int
    """Multiplications that a token and one that it sees take in attention."""

    def prefill(self, tokens: int) -> DecoderWork:
        """Reading a prompt, and the logits behind its last token."""
        pairs = tokens * (tokens + 1) // 2
        flops = 2 * (tokens * self.weights + self.head + pairs * self.products)
        return DecoderWork(flops, self.weights, 0, self.head, tokens * self.cache)

    def step(self, depth: float) -> DecoderWork:
        """One token behind that many, which all are read from the caches; the mean of many."""
        flops = 2 * (self.weights + self.head + depth * self.products)
        return DecoderWork(flops, self.weights, 0, self.head, depth * self.cache)


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
        by_name = {peer.name: peer for peer in peers}
        for p in self.peers:
            peer = by_name[p.name]
            size = work.bytes_moved(p.precision, peer.cache_bytes)
            read = work.read_size(p.precision)
            p.bound = self.limits.bound(p.precision, work.flops, size, peer.mapping, read)

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
    what: str | None = None
    """Which part of generating text; None for a call of an encoder."""
    new_tokens: int = 1
    """How many tokens a time is for: those of a prompt, or one."""

    @property
    def title(self) -> str:
        if self.what is not None:
            return f"{self.model}, {self.what}"
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
