"""`choose-schedule`: write on each op how its loops are to be rewritten; change nothing else.

The decisions follow from the shape and the target description alone, so they can be read, edited
and tested as text. Ops that carry a schedule already keep it.

    %y = kaoken.linear %x, %w : tensor<?x768xf32>, tensor<3072x768xf32> -> tensor<?x3072xf32>
->
    %y = kaoken.linear %x, %w {schedule = #kaoken.schedule<panel(16), tile(m, 128), tile(m_in, 8),
           tile(n0, 3), order(m, n0, m_in, m_in_in, n0_in, n1), vectorize(m_in_in, n0_in, n1),
           prefetch(k, 16), prefetch(n0, 1), parallel(n0)>} : ...

Directives, as the loop passes read them:

- `panel(R)`: `bake` packs the weight into panels of R columns; attention packs keys so.
- `order(a, b, ...)`: nest the loops a, b, ... in this order (`reorder`).
- `tile(l, T)`: split loop l into blocks of T, `l` over the blocks and `l_in` inside (`tile`).
- `tensorize(a, b, k)`: leave the sums over k of loops a and b to the matrix unit (`tensorize`).
- `vectorize(a, b)`: run loops a and b as the dimensions of a vector (`vectorize`).
- `prefetch(l, D)`: ask for what loop l reads D iterations later (`prefetch`).
- `skip(k)`: pass over zeros of a single row (`skip-zeros`).
- `lookup(k)`: look the products of a single row up in tables (`tabulate`).
- `unroll(l, F)`: have the C compiler unroll loop l by F.
- `parallel(l)`: divide the iterations of l among the threads (`parallelize`).
- `literal()`: straight-line code with the weights as constants (`bake{mode=literal}`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr, bf16, f32
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from kaoken.backend.machine import LINE_BYTES, TargetMachine
from kaoken.backend.targets.base import MatrixUnit
from kaoken.dialect.attributes import Directive, Norm, ScheduleAttr
from kaoken.dialect.base import KaokenOp, tensor_type
from kaoken.dialect.decoder import PANEL, CacheAppendOp, CacheReadOp, cache_type
from kaoken.dialect.formats import WORD_BYTES
from kaoken.dialect.lookup import LookupTablesOp
from kaoken.dialect.nn import BLOCK_EXTRA, NARROW, AttentionOp, LinearOp, WeightOp
from kaoken.dialect.quant import DequantizeOp, QuantizeBlocksOp, RowScaleOp
from kaoken.dialect.sparsity import LIST_PADDING, NonzerosOp
from kaoken.dialect.tensor import CumsumOp, ReshapeOp
from kaoken.dtypes import numpy_dtype
from kaoken.passes.lowering.cached_attention import reads_caches
from kaoken.passes.lowering.few_bits import has_small_steps
from kaoken.passes.lowering.linear import STREAMS
from kaoken.passes.lowering.skipping import LISTED
from kaoken.passes.lowering.unpacked import UNPACKED_ROWS

TARGET = "kaoken.target"
FLOAT_BITS = 32
MAX_ROWS = 12
"""The most rows of a tile: each row count up to it gets code of its own."""
AHEAD_BYTES = 2048
"""How far ahead a stream of weights is fetched: half a page."""
NEAR_BYTES = 1024
"""The same for each of several streams: so near that they go into the first cache."""
AHEAD_PAGES = 8 * 4096
"""The same for the one stream of a matrix unit, whose pages are fetched side by side."""
MAX_VECTORS = 4
"""The most registers in a row of a tile."""
SHORT_STEP = 16
"""The products of registers from which on a step of k hides the loop around it."""
WRITTEN_OUT = 96
"""The most of them in a round of a loop over shorter steps."""
DOT_SPARE = 2
"""The registers that a product of bf16 needs beside sums and weights."""
FEW_BITS_SPARE = 8
"""The registers that unpacking codes needs."""
MAX_UNROLL = 4
"""The most steps of a group, or of a sum in attention, that are written out."""
MIN_ROW_BLOCK = 128
MAX_ROW_BLOCK = 512
MOST_STEPS = 0.35
"""The largest share of steps that are not zero for which the others are passed over."""
SKIPPED_AHEAD_BYTES = 4096
"""How far ahead steps of a list are fetched."""
MAX_GROUP = 8
"""The most query heads that a kernel over a cache works on at once."""
ROW_REGISTERS = 4
"""How many vector registers a row loop works on at once, to hide the latency of additions."""


@dataclass(frozen=True)
class ChooseSchedulePass(ModulePass):
    """Choose tile sizes, loop orders, vector and thread loops for a target."""

    name = "choose-schedule"

    target: str | None = None
    """The target to schedule for; by default the module's `kaoken.target`, else this machine."""

    print: bool = False
    """Whether to write all schedules to stderr, as a file for apply-schedule."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        machine = target_of(op, self.target)
        for inner in op.walk():
            if isinstance(inner, CacheAppendOp):
                inner.attributes.setdefault("schedule", _rows(inner.input, machine))
            elif isinstance(inner, KaokenOp) and not isinstance(inner, WeightOp | ReshapeOp):
                _schedule(inner, machine)
        if self.print:
            from kaoken.schedule.printing import print_schedules

            sys.stderr.write(print_schedules(op, machine, ctx))


def target_of(module: ModuleOp, target: str | None = None) -> TargetMachine:
    """The machine that a module is compiled for, from now on written on it."""
    declared = module.attributes.get(TARGET)
    if target is None and isinstance(declared, StringAttr):
        return TargetMachine.parse(declared.data)
    machine = TargetMachine.parse(target or "native")
    module.attributes[TARGET] = StringAttr(machine.text)
    return machine


def _schedule(op: KaokenOp, machine: TargetMachine) -> None:
    if isinstance(op, LinearOp | AttentionOp):
        if op.schedule is None:
            choose = _linear if isinstance(op, LinearOp) else _any_attention
            op.schedule = choose(op, machine)  # pyright: ignore[reportArgumentType]
        if isinstance(op, LinearOp) and op.norm.data is not Norm.NONE:
            op.attributes.setdefault("norm_schedule", _rows(op.result, machine))
        return
    if "schedule" not in op.properties:
        op.attributes.setdefault("schedule", _rows(op.result, machine))


@dataclass(frozen=True)
class RegisterTile:
    """The accumulators of a matrix product: rows by panels of columns."""

    rows: int
    panels: int
    width: int
    """Columns of a panel."""


def register_tile(n: int, machine: TargetMachine, spare: int = 1) -> RegisterTile:
    """The accumulator tile of a matrix product with n columns, in three quarters of the registers.

    Beside weights, a step needs `spare` registers. Panels of one register that is a cache line make
    a stream of lines each, which a CPU fetches ahead better than one wide stream. Columns that they
    do not divide are in wide panels, so that few are wasted.
    """
    lanes = machine.lanes(FLOAT_BITS)
    accumulators = machine.vector_registers * 3 // 4
    weight = 3 * (machine.vector_bytes or LINE_BYTES) / LINE_BYTES

    def cost(vectors: int) -> tuple[bool, float, float]:
        """A last panel that is not full; columns computed (to 10 %); loads of a step of k for each
        product, where a line of weights counts thrice: it comes from the second cache, inputs from
        the first."""
        rows, width = accumulators // vectors, vectors * lanes
        uneven = n % lanes == 0 and n % width > 0
        padded = -(-n // width) * width
        return (uneven, round(padded / n, 1), (rows + weight * vectors) / (rows * vectors))

    fitting = machine.vector_registers - accumulators - spare
    vectors = min(range(1, max(1, min(MAX_VECTORS, fitting)) + 1), key=cost)
    rows, width = min(accumulators // vectors, MAX_ROWS), vectors * lanes
    if n % width or machine.vector_bytes < LINE_BYTES:
        return RegisterTile(rows, 1, width)
    return RegisterTile(rows, vectors, lanes)


def row_block(k: int, rows: int, room: int) -> int:
    """Rows that go through all panels together: as many as `room` bytes hold as floats, but so many
    that reading the weights again for each block costs little."""
    fitting = room // (k * FLOAT_BITS // 8)
    wanted = min(max(fitting, MIN_ROW_BLOCK), MAX_ROW_BLOCK)
    return -(-wanted // rows) * rows


def _linear(op: LinearOp, machine: TargetMachine) -> ScheduleAttr:
    if op.format is not None:
        return _few_bits_linear(op, machine)
    if machine.matrix_unit is not None and tensor_type(op.input).element_type in NARROW:
        return _tensor_linear(op, machine, machine.matrix_unit)
    skips = may_skip(op, machine)
    element = tensor_type(op.weight).element_type
    is_bf16 = element == bf16
    # Bytes too are best in four rows by three of 16 registers: measured beside 5 x 2 and 6 x 2.
    spare = DOT_SPARE if is_bf16 else 1
    tile = _wide_tile(op.n, machine) if skips else register_tile(op.n, machine, spare)
    # Of others than bf16 there is room for the panels and the results beside the rows.
    room = 2 * machine.l2_bytes if is_bf16 else machine.l2_bytes // 3
    columns = ("n0_in", "n1") if tile.panels > 1 else ("n1",)
    split = [("tile", "n0", tile.panels)] if tile.panels > 1 else []
    return _directives(
        ("panel", tile.width),
        ("tile", "m", row_block(op.k, tile.rows, room)),
        ("tile", "m_in", tile.rows),
        *split,
        ("order", "m", "n0", "m_in", "m_in_in", *columns),
        ("vectorize", "m_in_in", *columns),
        *_weights_ahead(_words(op), tile, machine),
        *(_written_out(tile, machine) if element == f32 and not skips else ()),
        *(_skipping(tile.width * FLOAT_BITS // 8) if skips else _single_row(op, tile, machine)),
        ("parallel", "n0"),
    )


def _single_row(
    op: LinearOp, tile: RegisterTile, machine: TargetMachine
) -> Iterator[tuple[str | int, ...]]:
    """Several panels at once, where registers are less than a line, so that other rows pass one
    panel at a time: memory is read faster in several places. Two thirds of the sums of more rows
    leave registers for the weights."""
    sizes = tensor_type(op.result).get_shape()[:-1]
    may_be_single = any(size < 0 for size in sizes) or math.prod(sizes) == 1
    streams = tile.rows * 2 // 3
    is_narrow = 0 < machine.vector_bytes < LINE_BYTES
    if op.n % tile.width or not may_be_single or not is_narrow or streams < 2:
        return
    yield from (("tile", STREAMS, streams), ("vectorize", f"{STREAMS}_in", "n1"))
    if op.n // tile.width % streams:
        yield ("vectorize", "n1")
    if tensor_type(op.weight).element_type != f32:
        yield ("unroll", "k", MAX_UNROLL)
    yield ("parallel", STREAMS)


def _words(op: LinearOp) -> int:
    """How many words as long as a float a column of weights has: a step of k reads one."""
    return op.k * numpy_dtype(tensor_type(op.weight).element_type).itemsize // WORD_BYTES


def may_skip(op: LinearOp, machine: TargetMachine) -> bool:
    """Whether passing over zeros of a single row saves time: few steps have a number that is not
    zero. Each reads all of a panel in one place, which memory gives nearly as quickly as a
    stream."""
    if op.density is None or not machine.vector_bytes or (numbers := numbers_of_step(op)) is None:
        return False
    is_few = op.format is not None
    width = _few_bits_width(op, machine) if is_few else _wide_tile(op.n, machine).width
    left = 1 - (1 - op.density.value.data) ** numbers
    return op.n % width == 0 and left <= MOST_STEPS


def numbers_of_step(op: LinearOp) -> int | None:
    """How many inputs a step of the sum multiplies; None where none can be passed over."""
    if op.format is not None:
        return op.format.data.planes * WORD_BYTES
    if tensor_type(op.input).element_type != f32 or op.k % 2:
        return None
    return 2 if tensor_type(op.weight).element_type == bf16 else 1


def _wide_tile(n: int, machine: TargetMachine) -> RegisterTile:
    """The same accumulators with all columns in one panel: a step reads them in one place."""
    tile = register_tile(n, machine)
    return RegisterTile(tile.rows, 1, tile.panels * tile.width)


def _skipping(step_bytes: int) -> list[tuple[str | int, ...]]:
    """A nest for one row, whose steps are fetched by the list."""
    ahead = min(LIST_PADDING, max(1, SKIPPED_AHEAD_BYTES // step_bytes))
    return [("skip", "k"), ("vectorize", "n1"), ("prefetch", LISTED, ahead)]


def _written_out(tile: RegisterTile, machine: TargetMachine) -> Iterator[tuple[str | int, ...]]:
    """Short steps of k, several in a round: 16 registers gain a tenth by it, 32 lose some."""
    products = tile.rows * tile.panels * tile.width // machine.lanes(FLOAT_BITS)
    if machine.vector_bytes and products < SHORT_STEP:
        yield ("unroll", "k", WRITTEN_OUT // products)


def _weights_ahead(
    k: int, tile: RegisterTile, machine: TargetMachine
) -> Iterator[tuple[str | int, ...]]:
    """The next lines of the panels, and the next panels where the second cache holds them too."""
    step_bytes = tile.width * FLOAT_BITS // 8
    if not machine.vector_bytes:
        return
    if machine.description.fetches_streams:
        distance = (NEAR_BYTES if tile.panels > 1 else AHEAD_BYTES) // step_bytes
        yield ("prefetch", "k", max(1, distance))
    if 2 * k * tile.panels * step_bytes <= machine.l2_bytes:
        yield ("prefetch", "n0", 1)


def _few_bits_linear(op: LinearOp, machine: TargetMachine) -> ScheduleAttr:
    """Panels of one cache line, so that a word of codes is one line, and one stream of them: a row
    has a sum for each plane of bits, and one of floats."""
    assert op.format is not None
    lanes = machine.lanes(FLOAT_BITS)
    unpacked, width = _unpacked_rows(op, machine), _few_bits_width(op, machine)
    sums = (op.format.data.planes + 1) * width // lanes
    fitting = (machine.vector_registers - FEW_BITS_SPARE) // sums
    rows = max(2, min(fitting, MAX_ROWS if machine.vector_bytes else 2))
    block_words = op.k // tensor_type(op.input).get_shape()[-2] // WORD_BYTES
    words = block_words // op.format.data.planes
    distance = AHEAD_BYTES // (width * WORD_BYTES)
    ahead = [("prefetch", "k", distance)] if machine.vector_bytes else []
    return _directives(
        ("panel", width),
        ("tile", "m", row_block(op.k, rows, 2 * machine.l2_bytes)),
        ("tile", "m_in", rows),
        ("order", "m", "n0", "m_in", "m_in_in", "n1"),
        *unpacked,
        ("vectorize", "m_in_in", "n1"),
        *ahead,
        ("unroll", "k", min(words, MAX_UNROLL)),
        *(_skipping(width * WORD_BYTES) if may_skip(op, machine) else []),
        ("parallel", "n0"),
    )


def _few_bits_width(op: LinearOp, machine: TargetMachine) -> int:
    """The columns of a panel: a cache line of words of codes; two where a matrix unit takes so many
    and the sums of all planes still fit the registers."""
    assert op.format is not None
    lanes = machine.lanes(FLOAT_BITS)
    width = max(lanes, min(LINE_BYTES * 8 // FLOAT_BITS, MAX_VECTORS * lanes))
    if (unit := machine.matrix_unit) is None or not _may_unpack(op):
        return width
    wide = unit.block[1] * unit.columns
    sums = 2 * (op.format.data.planes + 1) * wide // lanes
    fits = sums <= machine.vector_registers - FEW_BITS_SPARE
    return wide if fits and op.n % wide == 0 else width


def _may_unpack(op: LinearOp) -> bool:
    """Whether there may be so many rows that codes are unpacked for them."""
    assert op.format is not None
    sizes = tensor_type(op.result).get_shape()[:-1]
    are_many = any(size < 0 for size in sizes) or math.prod(sizes) >= UNPACKED_ROWS
    return are_many and has_small_steps(op.format.data)


def _unpacked_rows(op: LinearOp, machine: TargetMachine) -> list[tuple[str | int, ...]]:
    """How the codes of many rows are unpacked before they are multiplied, if they are."""
    width = _few_bits_width(op, machine)
    if not machine.vector_bytes or not _may_unpack(op) or op.n % width:
        return []
    ahead = ("prefetch", "u", AHEAD_BYTES // (width * WORD_BYTES))
    if machine.matrix_unit is not None:
        return [*_rows_of_unit(op, machine, machine.matrix_unit), ("vectorize", "j"), ahead]
    return [*_rows_of_panels(op, machine), ("vectorize", "j"), ahead]


def _rows_of_unit(
    op: LinearOp, machine: TargetMachine, unit: MatrixUnit
) -> list[tuple[str | int, ...]]:
    """Leave the sums to a matrix unit: so many rows at once that their sums and totals still fit
    the first cache. Short groups leave room in it for the inputs, since a line of those reaches
    into the next group."""
    block_words = tensor_type(op.input).get_shape()[-1] - BLOCK_EXTRA
    room = machine.l1_bytes if block_words > unit.depth else machine.l1_bytes // 3
    height = unit.block[0] * unit.rows
    width = _few_bits_width(op, machine)
    rows = room // (2 * width * FLOAT_BITS // 8) // height * height
    return [("tile", "i", max(rows, height)), ("tensorize", "i_in", "j", "d")]


def _rows_of_panels(op: LinearOp, machine: TargetMachine) -> list[tuple[str | int, ...]]:
    """Sums and totals of as many rows as the registers hold. Codes of one plane are bytes
    already."""
    assert op.format is not None
    if op.format.data.planes == 1:
        return []
    vectors = _few_bits_width(op, machine) // machine.lanes(FLOAT_BITS)
    fitting = (machine.vector_registers - FEW_BITS_SPARE) // (2 * vectors)
    rows = max(n for n in (1, 2, 4, UNPACKED_ROWS) if n <= max(1, fitting))
    block_words = tensor_type(op.input).get_shape()[-1] - BLOCK_EXTRA
    return [
        ("tile", "i", rows),
        ("vectorize", "i_in", "j"),
        ("unroll", "d", min(block_words, 2 * MAX_UNROLL)),
    ]


def _tensor_linear(op: LinearOp, machine: TargetMachine, unit: MatrixUnit) -> ScheduleAttr:
    """Rows whose sums stay in the first cache, with a block of k of the panel that they share; what
    follows the sums goes row by row. The next block, and the next panel, are fetched meanwhile."""
    height, width = unit.block[0] * unit.rows, unit.block[1] * unit.columns
    word_bytes = FLOAT_BITS // 8
    words = op.k * numpy_dtype(tensor_type(op.input).element_type).itemsize // word_bytes
    rows = max(1, machine.l1_bytes // 3 // (width * word_bytes * height)) * height
    block = _block_of(words, machine.l1_bytes // 4 // (width * word_bytes), unit.depth)
    is_blocked = block < words
    return _directives(
        ("panel", width),
        ("tile", "m", row_block(op.k, rows, 2 * machine.l2_bytes)),
        ("tile", "m_in", rows),
        *([("tile", "k", block)] if is_blocked else []),
        ("order", "m", "n0", "m_in", "m_in_in", "n1"),
        ("tensorize", "m_in_in", "n1", "k"),
        ("vectorize", "n1"),
        *([("prefetch", "k", block)] if is_blocked else []),
        ("prefetch", "k", AHEAD_PAGES // (width * FLOAT_BITS // 8)),
        ("parallel", "n0"),
    )


def _block_of(words: int, most: int, step: int) -> int:
    """The largest block of whole steps, at most so long, that divides a sum; else all of it."""
    blocks = [n for n in range(step, min(most, words) + 1, step) if words % n == 0]
    return max(blocks, default=words)


def _any_attention(op: AttentionOp, machine: TargetMachine) -> ScheduleAttr:
    return (_cached_attention if reads_caches(op) else _attention)(op, machine)


def _attention(op: AttentionOp, machine: TargetMachine) -> ScheduleAttr:
    """Two registers of keys by as many rows as leave room for both products' tiles.

    A panel of keys serves four such tiles while it is in L1, as long as their scores take no more
    than half of the L2 cache.
    """
    if machine.matrix_unit is not None and op.bf16_products:
        return _tensor_attention(machine.matrix_unit)
    lanes = machine.lanes(FLOAT_BITS)
    rows = max(1, min(8, machine.vector_registers * 3 // 8))
    keys = max(1, tensor_type(op.key).get_shape()[1])
    fitting = machine.l2_bytes // 2 // (keys * rows * FLOAT_BITS // 8)
    is_written_out = machine.vector_bytes and op.bf16_products is None
    sums = ("d", "j") if is_written_out else ()
    return _directives(
        ("panel", 2 * lanes),
        ("tile", "i", rows * max(1, min(4, fitting))),
        ("tile", "i_in", rows),
        ("vectorize", "i_in_in", "j1"),
        ("vectorize", "i_in_in", "e1"),
        ("vectorize", "j1"),
        ("vectorize", "lane"),
        *(("unroll", loop, MAX_UNROLL) for loop in sums),
        ("parallel", "bh"),
    )


def _tensor_attention(unit: MatrixUnit) -> ScheduleAttr:
    """As many scores, or sums of values, as the matrix unit holds; the rest goes row by row."""
    return _directives(
        ("panel", unit.block[1] * unit.columns),
        ("tile", "i", unit.block[0] * unit.rows),
        ("tensorize", "i_in", "j1", "d"),
        ("tensorize", "i_in", "e1", "j"),
        ("vectorize", "j1"),
        ("vectorize", "e1"),
        ("vectorize", "lane"),
        ("parallel", "bh"),
    )


def _cached_attention(op: AttentionOp, machine: TargetMachine) -> ScheduleAttr:
    """Registers of keys, or of columns of values, by query heads of a key head, by tokens."""
    lanes = machine.lanes(FLOAT_BITS)
    accumulators = machine.vector_registers * 3 // 4
    group = op.heads // op.kv_heads
    rows = max(r for r in range(1, min(group, MAX_GROUP) + 1) if group % r == 0)
    vectors = next(v for v in (4, 2, 1) if v == 1 or v * rows <= accumulators)
    tokens = max(1, min(accumulators // (vectors * rows), MAX_GROUP))
    value_size = tensor_type(op.value).get_shape()[-1] // op.kv_heads
    return _directives(
        ("panel", min(vectors * lanes, PANEL)),
        ("tile", "i", tokens),
        ("tile", "r", rows),
        ("vectorize", "i_in", "r_in", "j1_in"),
        ("vectorize", "i_in", "r_in", "e_in"),
        ("vectorize", "lane"),
        *_ahead("d", PANEL, op.key, machine),
        *_ahead("j", value_size, op.value, machine),
        ("parallel", "it"),
    )


def _ahead(
    loop: str, width: int, read: SSAValue, machine: TargetMachine
) -> list[tuple[str | int, ...]]:
    """Fetch what a loop reads of a cache ahead, `width` numbers a step, where that is SIMD."""
    assert isinstance(read.owner, CacheReadOp)
    element = cache_type(read.owner.cache).element_type
    step_bytes = width * numpy_dtype(element).itemsize
    return [("prefetch", loop, max(1, AHEAD_BYTES // step_bytes))] if machine.vector_bytes else []


def _rows(value: SSAValue, machine: TargetMachine) -> ScheduleAttr:
    """Row by row: the last dimension in vectors where its size is known."""
    outer = _directives(("parallel", "m"))
    if isinstance(value.owner, CumsumOp | NonzerosOp | LookupTablesOp):
        return outer
    row = value.owner.input if isinstance(value.owner, RowScaleOp | QuantizeBlocksOp) else value
    sizes = tensor_type(row).get_shape()
    if not sizes or sizes[-1] < 2:
        return outer
    width = min(ROW_REGISTERS * machine.lanes(FLOAT_BITS), _run(value.owner, sizes[-1]))
    return _directives(("tile", "h", width), ("vectorize", "h_in"), ("parallel", "m"))


def _run(op: object, size: int) -> int:
    """How many numbers of a row are worked on alike: those of a block, where there are blocks."""
    if isinstance(op, QuantizeBlocksOp):
        return min(op.block.value.data, size)
    return min(op.format.data.block(size), size) if isinstance(op, DequantizeOp) else size


def _directives(*directives: tuple[str | int, ...]) -> ScheduleAttr:
    return ScheduleAttr(tuple(Directive(str(name), tuple(args)) for name, *args in directives))
