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
| `convert.i32.f32 .i8.f32 .u8.f32` | to f32; without an entry GCC 12 takes bytes one by one   |
| `convert.f16.f32 .bf16.f32`  | from f16 or bf16, whose registers hold them as 16-bit integers |
| `round.f32.u8`               | to the nearest integer, halves to even, saturating            |
| `dot.ui8_i8 .ui8_i7 .ui7_i8 .bf16` | kaoken_loop.dot of words `{0}` and `{1}`, added to `{2}`    |
| `lookup.low.0 .1 .high.0 .1`  | kaoken_loop.lookup in `{0}[{1}]` of word `{2}`, added to `{3}`  |
| `sum max_of min_of .f32`     | all lanes in one scalar                                       |
| `load.i1`                    | a mask from the bools at `{0}`                                |
| `splat.i1 lane.i1 set.i1`    | masks: from a bool; lane `{1}` of `{0}`; set lane `{1}` to `{2}` |

Those of a matrix unit are statements; tile registers are numbers:

| entry                        | meaning                                                       |
|------------------------------|---------------------------------------------------------------|
| `tile.begin`                 | declares what is known of the registers' shapes: nothing yet  |
| `tile.shape`                 | shapes: `{rows}`, `{columns}` of sums, `{depth}` in words     |
| `tile.end`                   | the registers are used no longer                              |
| `tile.zero`                  | register `{0}` becomes zeros                                  |
| `tile.load`                  | register `{0}` from pointer `{1}`, rows `{2}` bytes apart     |
| `tile.store`                 | register `{0}` to pointer `{1}`, rows `{2}` bytes apart       |
| `tile.dot.ui8_i8 .ui8_i7 .i8_i8 .bf16` | register `{0}` += `{1}` times `{2}`                 |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class MatrixUnit:
    """Registers that hold tiles of matrices of 32-bit words, and multiply them.

    A tile of sums has up to `rows` rows and `columns` columns; one step takes up to `depth` words
    of each row of the left factor.
    """

    rows: int
    columns: int
    depth: int
    block: tuple[int, int]
    """How many tiles of sums, down and across, are held at once: with one tile for each of the
    factors' rows and columns they take all registers."""


def _always() -> bool:
    return True


@dataclass(frozen=True)
class Feature:
    """Something a CPU may have beyond its level: `vnni`."""

    cpu_flags: tuple[str, ...]
    compiler_flags: tuple[str, ...]
    instructions: Mapping[str, str] = field(default_factory=dict)
    """Entries that take the place of the target's own."""
    matrix_unit: MatrixUnit | None = None
    is_granted: Callable[[], bool] = _always
    """Whether the system lets this process use it."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """Entries that take the place of the target's own costs."""
    suits: Callable[[], bool] = _always
    """Whether `native` takes it where the CPU has it: for what flags do not tell."""


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
    costs: Mapping[str, float] = field(default_factory=lambda: {"dot.bf16": 3.0})
    """How long an entry keeps the CPU busy, in `fma.f32`; 1 where nothing is said. A `dot.bf16` of
    less than 2 is quicker than the two fma's that it stands for. Where a `dot.ui8_i8` takes longer
    than a `dot.ui8_i7`, weights of int8 have seven bits."""
    fetches_streams: bool = True
    """Whether it pays to ask for what a stream of weights gives next, several lines ahead."""
    l1_bytes: int = 32 << 10
    l2_bytes: int = 1 << 20
    l3_bytes: int = 16 << 20
