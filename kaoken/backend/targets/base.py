"""What a target file says: a CPU's registers, its compiler flags and its words for operations.

The instruction table maps `operation.element` to a C expression over whole registers, in which
`{0}`, `{1}` ... stand for the operands. `{0!u}` puts an operand that is not a single name or call
in parentheses. Operators of GCC vector types (`+ - * /`, and `& | ^ << >>` on integers) need no
entry; what has neither entry nor operator is printed as a loop over the lanes.

| entry                        | meaning                                                       |
|------------------------------|---------------------------------------------------------------|
| `load.f32`                   | the register at pointer `{0}`                                 |
| `store.f32`                  | a statement that stores register `{1}` at pointer `{0}`       |
| `load_first.f32`             | the first `{n}` lanes at `{0}`, zeros after them              |
| `store_first.f32`            | a statement that stores the first `{n}` lanes                 |
| `keep_first.f32`             | the first `{n}` lanes of `{0}`, the others of `{1}`           |
| `splat.f32`                  | scalar `{0}` in every lane                                    |
| `fma.f32`                    | `{0} * {1} + {2}`, rounded once where the CPU can             |
| `max min sqrt abs round_even floor ceil trunc rsqrt .f32` | lane by lane                     |
| `olt.f32`, `slt.i32` ...     | comparisons, named like MLIR's predicates; they give a mask   |
| `select.f32`                 | `{1}` where mask `{0}` is set, else `{2}`                     |
| `convert.i32.f32`            | from i32 to f32                                               |
| `round.f32.u8`               | to the nearest integer, halves to even, saturating            |
| `dot.ui8_i8 dot.bf16`        | kaoken_loop.dot of words `{0}` and `{1}`, added to `{2}`      |
| `sum max_of min_of .f32`     | all lanes in one scalar                                       |
| `load.i1`                    | a mask from the bools at `{0}`                                |
| `splat.i1 lane.i1 set.i1`    | masks: from a bool; lane `{1}` of `{0}`; set lane `{1}` to `{2}` |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Feature:
    """Something a CPU may have beyond its level: `vnni`."""

    cpu_flags: tuple[str, ...]
    compiler_flags: tuple[str, ...]
    instructions: Mapping[str, str] = field(default_factory=dict)
    """Entries that take the place of the target's own."""


@dataclass(frozen=True)
class TargetDescription:
    """A CPU as the compiler sees it. Sizes in bytes; `vector_bytes` is 0 without SIMD."""

    name: str
    rank: int
    """Of two targets that a CPU can run, the one of higher rank is `native`."""
    architecture: str
    """As `platform.machine()` says it; empty for any."""
    vector_bytes: int
    vector_registers: int
    cpu_flags: tuple[str, ...] = ()
    """What /proc/cpuinfo must list."""
    compiler_flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By family of compilers: gcc, clang, zig."""
    features: Mapping[str, Feature] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    mask_type: str = "bool"
    instructions: Mapping[str, str] = field(default_factory=dict)
    helpers: Mapping[str, str] = field(default_factory=dict)
    """C functions that the table's expressions call, by name."""
    l1_bytes: int = 32 << 10
    l2_bytes: int = 1 << 20
    l3_bytes: int = 16 << 20
