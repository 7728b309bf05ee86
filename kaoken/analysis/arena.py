"""Placing blocks of memory whose lifetimes are known, so that those alive together are disjoint.

Greedy by size: the largest first, each at the lowest offset that no block alive with it covers
(Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", arXiv 2001.03288).
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.ir import Operation

ALIGNMENT = 64


@dataclass(frozen=True)
class Interval:
    """Positions of a function's ops, both ends included."""

    first: int
    last: int

    def overlaps(self, other: Interval) -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass
class Block:
    """Memory that the owners share in turn: `size` bytes while `lifetime` lasts."""

    owners: list[Operation]
    size: int
    lifetime: Interval
    offset: int = 0


def place(blocks: list[Block]) -> tuple[int, int]:
    """Set every block's offset; gives the total size and its lower bound, in bytes."""
    placed: list[Block] = []
    for block in sorted(blocks, key=lambda b: -b.size):
        block.offset = _lowest_fit(block, placed)
        placed.append(block)
    total = max((b.offset + _aligned(b.size) for b in blocks), default=0)
    return total, _live_bound(blocks)


def _lowest_fit(block: Block, placed: list[Block]) -> int:
    """The lowest offset at which a block meets none that is alive with it."""
    rivals = sorted(
        (b for b in placed if b.lifetime.overlaps(block.lifetime)), key=lambda b: b.offset
    )
    offset = 0
    for rival in rivals:
        if offset + block.size <= rival.offset:
            break
        offset = max(offset, rival.offset + _aligned(rival.size))
    return offset


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _live_bound(blocks: list[Block]) -> int:
    """The most bytes alive at one position: no placement can need less."""
    positions = {b.lifetime.first for b in blocks}
    return max(
        (sum(b.size for b in blocks if b.lifetime.overlaps(Interval(at, at))) for at in positions),
        default=0,
    )
