"""Nests of linear layers and matrix products.

parallel m: parallel n0: parallel n1:            # panels of the packed weight
  acc = bias[n0, n1]
  reduce k: acc += x[m, k] * w[n0, k, n1]
  y[m, n0, n1] = activation(acc) + residual[m, n0, n1]

Columns are seen as panels of columns, so that a tile may have several panels; where the last panel
is not full they are seen as they are.

Narrow inputs are read as 32-bit words of two bf16 or four ui8, and k counts words. Sums of eight
bits start at what the panel's first row says, and are scaled before the bias is added. Words of two
bf16 beside inputs of f32 are taken apart:

  reduce k: acc += x[m, 2 * k] * low(w[n0, k, n1]) + x[m, 2 * k + 1] * high(w[n0, k, n1])

Weights of few bits are summed group by group (`lowering/few_bits.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from xdsl.dialects import arith, math
from xdsl.dialects.builtin import MemRefType, bf16, f32, i32
from xdsl.ir import Attribute, SSAValue

from kaoken.dialect.attributes import Activation, Shape
from kaoken.dialect.base import tensor_type
from kaoken.dialect.dims import Dim, product
from kaoken.dialect.kaoken_loop import ConvertOp, DotKind, DotOp
from kaoken.dialect.nn import BYTE_BITS, UI8, LinearOp, MatmulOp
from kaoken.dtypes import numpy_dtype
from kaoken.errors import KaokenError
from kaoken.passes.literal import is_literal, lower_literal_linear
from kaoken.passes.lowering.few_bits import (
    FewBitsBuffers,
    few_bits_buffers,
    has_small_steps,
    sum_of_groups,
)
from kaoken.passes.lowering.kernel import Kernel
from kaoken.passes.lowering.nest import Extent, Index
from kaoken.passes.lowering.panels import panel_of
from kaoken.passes.lowering.scalars import emit_activation
from kaoken.passes.lowering.skipping import NonzeroSteps, single_row, unless_single
from kaoken.passes.lowering.unpacked import UNPACKED_ROWS, UnpackedGroups, UnpackedPanels

WORD_BYTES = 4
STREAMS = "p"
"""The loop over the panels that a single row passes at once."""
SUM_BLOCK = 256
"""Steps of k that are summed before they meet the rest of a sum of f32."""

Columns = tuple[Index, ...]
"""Which column: its number, or panel and place in it."""
Factor = Callable[[SSAValue, Index], SSAValue]
"""What a buffer in panels holds for one column at k: the weight or word of weights at input k, or
the scale of group k."""
_Scales = tuple[SSAValue | None, SSAValue]
"""What a step of each row is worth, unless it is the same for all, and of each column."""


@dataclass(frozen=True)
class _Linear:
    """The arguments of one linear kernel."""

    x: SSAValue
    weight: SSAValue
    bias: SSAValue | None
    residual: SSAValue | None
    scales: _Scales | None
    y: SSAValue
    x_panel: int | None
    """The words of a panel of x, where x lies in panels."""
    y_in_panels: bool
    k: int
    """Numbers, or words of narrow numbers, in a row of x."""
    dot: DotKind | None
    has_pairs: bool
    """Whether a word of weights is two bf16, for inputs of f32."""
    activation: Activation
    few_bits: FewBitsBuffers | None
    is_tensor: bool
    """Whether the schedule leaves the sums to the matrix unit, whole."""
    row_block: int
    """The rows that the schedule's `tile(i, R)` lets pass unpacked codes together; 0: none."""
    is_rounded: bool
    """Whether the result is bf16, for sums of f32."""
    nonzeros: NonzeroSteps | None
    """Which steps of a single row are to be multiplied, where others are passed over."""
    tables: SSAValue | None
    """Sums for all codes of a single row."""
    streams: int
    """The panels that a single row passes at once, as the schedule's `tile(p, S)` says; 0: one, as
    other rows."""

    @property
    def has_single_row_nest(self) -> bool:
        return bool(self.streams) or self.nonzeros is not None or self.tables is not None

    def of_many_rows(self) -> _Linear:
        """The same without what holds for a single row alone."""
        return replace(self, nonzeros=None, tables=None)


def lower_linear(op: LinearOp, kernel: Kernel) -> None:
    """The product and its element-wise epilogue; a norm epilogue is a kernel of its own."""
    if is_literal(op):
        lower_literal_linear(op, kernel)
        return
    kernel.name = f"linear_{op.k}x{op.n}{_suffix(op)}"
    kernel.comment = f"y[m][{op.n}] = x[m][{op.k}] * W^T{_describe(op)}"
    linear = _arguments(op, kernel)
    if linear.residual is not None and not op.is_rounded:
        kernel.in_place(linear.y, linear.residual)
    m = kernel.size("m", product(kernel.shape(op.result)[:-1]))
    if not op.is_packed:
        _plain_nest(kernel, linear, m, op.n)
    elif _width(op) is None:
        _uneven_nest(kernel, linear, m, op.n, tensor_type(op.weight).get_shape()[2])
    else:
        _panel_nest(kernel, linear, m)


def _width(op: LinearOp) -> int | None:
    """The columns of a panel, where all panels are full."""
    width = tensor_type(op.weight).get_shape()[2] if op.is_packed else op.n
    return width if op.is_packed and op.n % width == 0 else None


def _suffix(op: LinearOp) -> str:
    if op.format is not None:
        narrow = f"_q{op.format.data.bits}"
    else:
        element, weight = (tensor_type(value).element_type for value in (op.input, op.weight))
        of_bf16 = "_bf16" if element == bf16 else "_bf16_weight"
        narrow = "_int8" if element == UI8 else of_bf16 if weight == bf16 else ""
    activation = op.activation.data
    applied = "" if activation is Activation.NONE else f"_{activation}"
    applied += "_to_bf16" if op.is_rounded else ""
    return narrow + applied + ("" if op.residual is None else "_add")


def _describe(op: LinearOp) -> str:
    parts = ["" if op.bias is None else " + b"]
    if op.activation.data is not Activation.NONE:
        parts.append(f", then {op.activation.data}")
    parts.append("" if op.residual is None else ", plus the residual r")
    return "".join(parts)


def _arguments(op: LinearOp, kernel: Kernel) -> _Linear:
    rows = product(kernel.shape(op.input)[:-1])
    width = _width(op)
    columns = tuple(map(Dim.of, (op.n,) if width is None else (op.n // width, width)))
    dot, k = _steps(op)
    inputs, word = Dim.of(op.k if dot is None else k), None if k == op.k else i32
    if word is not None and not op.is_packed:
        narrow = tensor_type(op.weight).element_type
        raise KaokenError(f"a linear layer of {narrow} needs a packed weight: run bake first")
    few_bits = few_bits_buffers(op, kernel) if op.format is not None else None
    x = None if few_bits is None else few_bits.x
    if few_bits is not None:
        k, rows = few_bits.chunks, product(kernel.shape(op.result)[:-1])
    shape = kernel.shape(op.weight)
    panel = _words_of_panel(op)
    return _Linear(
        x or _input(op, kernel, (rows, inputs), word if dot else None),
        few_bits.w if few_bits else kernel.buffer("w", op.weight, shape[:3], element=word),
        None if op.bias is None else kernel.buffer("b", op.bias, columns),
        None if op.residual is None else kernel.buffer("r", op.residual, (rows, *columns)),
        _scales(op, kernel, rows, columns),
        _result(op, kernel, rows, columns),
        panel,
        panel_of(op.result) is not None,
        k,
        dot,
        dot is None and word is not None,
        op.activation.data,
        few_bits,
        op.schedule is not None and bool(op.schedule.all("tensorize")),
        _tile_size(op, "i"),
        op.is_rounded,
        _nonzeros(op, kernel, few_bits.groups if few_bits else -(-k // SUM_BLOCK)),
        None if op.tables is None else kernel.buffer("tables", op.tables),
        _tile_size(op, STREAMS),
    )


def _steps(op: LinearOp) -> tuple[DotKind | None, int]:
    """How words are multiplied, if inputs are words too, and how many steps of k there are."""
    element, weight = (tensor_type(value).element_type for value in (op.input, op.weight))
    if element == UI8:
        is_short = op.weight_bits.value.data < BYTE_BITS
        return DotKind.UI8_I7 if is_short else DotKind.UI8_I8, op.k // WORD_BYTES
    if weight == bf16:
        return DotKind.BF16 if element == bf16 else None, op.k * 2 // WORD_BYTES
    return None, op.k


def _words_of_panel(op: LinearOp) -> int | None:
    """The words of a panel of the input, where that lies in panels."""
    columns, element = panel_of(op.input), tensor_type(op.input).element_type
    return None if columns is None else columns * numpy_dtype(element).itemsize // WORD_BYTES


def _input(op: LinearOp, kernel: Kernel, shape: Shape, word: Attribute | None) -> SSAValue:
    """The rows of the input: [rows, k], or in panels [k / 16, rows, 16]."""
    words = _words_of_panel(op)
    if words is not None:
        rows, k = shape
        kernel.size("m", rows)
        shape = (Dim.of((k.constant or 0) // words), rows, Dim.of(words))
    return kernel.buffer("x", op.input, shape, element=word)


def _result(op: LinearOp, kernel: Kernel, rows: Dim, columns: Shape) -> SSAValue:
    if panel_of(op.result) is None:
        return kernel.buffer("y", op.result, (rows, *columns))
    kernel.size("m", rows)
    return kernel.buffer("y", op.result, (columns[0], rows, columns[1]))


def _word(kernel: Kernel, linear: _Linear, i: SSAValue, k: SSAValue) -> SSAValue:
    """A number, or word of narrow numbers, of the input."""
    words = linear.x_panel
    if words is None:
        return kernel.load(linear.x, i, k)
    panel = kernel.affine(lambda k: k // words, k)
    return kernel.load(linear.x, panel, i, kernel.affine(lambda k: k % words, k))


def _nonzeros(op: LinearOp, kernel: Kernel, blocks: int) -> NonzeroSteps | None:
    if op.nonzeros is None:
        return None
    return NonzeroSteps(kernel.buffer("nonzeros", op.nonzeros), blocks)


def _tile_size(op: LinearOp, loop: str) -> int:
    """S of the schedule's `tile(loop, S)`, which asks for a nest with that loop; 0 without one."""
    tiles = [] if op.schedule is None else op.schedule.all("tile")
    return next((int(size) for name, size in (d.args for d in tiles) if name == loop), 0)


def _scales(op: LinearOp, kernel: Kernel, rows: Dim, columns: Shape) -> _Scales | None:
    if op.weight_scale is None or op.format is not None:
        return None
    row = None if op.input_scale is None else kernel.buffer("xs", op.input_scale, (rows,))
    return row, kernel.buffer("ws", op.weight_scale, columns)


def _plain_nest(kernel: Kernel, linear: _Linear, m: Index, n: int) -> None:
    with kernel.parallel("m", m) as i, kernel.parallel("n1", n) as j:
        _output(kernel, linear, i, (j,), lambda w, k: kernel.load(w, j, k))


def _panel_nest(kernel: Kernel, linear: _Linear, m: Index) -> None:
    assert isinstance(linear.weight.type, MemRefType)
    panels, _, width = linear.weight.type.get_shape()
    rows, first = Extent.of(m), 0
    if linear.few_bits is not None and linear.row_block:
        _unpacked_nest(kernel, linear, m, linear.few_bits)
        rows, first = rows.rest(UNPACKED_ROWS), _first_of_rest(kernel, m)
    if linear.has_single_row_nest:
        _single_row_nests(kernel, linear, m, panels)
        rows = unless_single(kernel, rows, m)
    if rows.constant == 0:
        return
    linear = linear.of_many_rows()
    with (
        kernel.parallel("m", rows) as row,
        kernel.parallel("n0", panels) as p,
        kernel.parallel("n1", width) as lane,
    ):
        i = row if first == 0 else kernel.affine(lambda a, b: a + b, first, row)
        _output(kernel, linear, i, (p, lane), lambda w, k: kernel.load(w, p, k, lane))


def _single_row_nests(kernel: Kernel, linear: _Linear, m: Index, panels: int) -> None:
    """One row, whose panels are read several at once, of which zeros are passed over, or whose
    products are looked up. What is left of the panels has a nest of its own."""
    streams = linear.streams
    together = panels - panels % streams if streams else 0
    if together:
        _single_row_nest(kernel, linear, m, STREAMS, range(together))
    if together < panels:
        _single_row_nest(kernel, linear, m, "n0", range(together, panels))


def _single_row_nest(
    kernel: Kernel, linear: _Linear, m: Index, name: str, panels: range
) -> None:
    assert isinstance(linear.weight.type, MemRefType)
    width = linear.weight.type.get_shape()[2]
    with (
        kernel.parallel("row", single_row(kernel, m)) as i,
        kernel.parallel(name, len(panels)) as number,
        kernel.parallel("n1", width) as lane,
    ):
        p = kernel.add_index(number, panels.start) if panels.start else number
        _output(kernel, linear, i, (p, lane), lambda w, k: kernel.load(w, p, k, lane))


def _first_of_rest(kernel: Kernel, m: Index) -> Index:
    """The first row that is multiplied straight from packed codes."""
    return kernel.affine(lambda m: m // UNPACKED_ROWS * UNPACKED_ROWS, m)


def _unpacked_nest(kernel: Kernel, linear: _Linear, m: Index, few_bits: FewBitsBuffers) -> None:
    """All rows but the last few."""
    assert isinstance(linear.weight.type, MemRefType)
    panels, _, width = linear.weight.type.get_shape()
    for_unit = linear.is_tensor and has_small_steps(few_bits.format)
    (UnpackedGroups if for_unit else UnpackedPanels)(
        kernel,
        few_bits,
        m,
        linear.row_block,
        width,
        start=lambda column: _start(kernel, linear, column),
        finish=lambda i, column, value: _finish(kernel, linear, i, column, value),
        read=lambda column: lambda w, k: kernel.load(w, column[0], k, column[1]),
    ).lower(panels)


def _uneven_nest(kernel: Kernel, linear: _Linear, m: Index, n: int, width: int) -> None:
    """All whole panels in one nest, the rest of the columns in a second one."""
    panels, rest = divmod(n, width)
    if panels:
        with (
            kernel.parallel("m", m) as i,
            kernel.parallel("n0", panels) as p,
            kernel.parallel("n1", width) as lane,
        ):
            j = kernel.affine(lambda p, lane: p * width + lane, p, lane)
            _output(kernel, linear, i, (j,), lambda w, k: kernel.load(w, p, k, lane))
    with kernel.parallel("m", m) as i, kernel.parallel("n1", rest) as lane:
        j = kernel.affine(lambda lane: lane + panels * width, lane)
        _output(kernel, linear, i, (j,), lambda w, k: kernel.load(w, panels, k, lane))


def _output(kernel: Kernel, linear: _Linear, i: SSAValue, column: Columns, weight: Factor) -> None:
    """One element of the result."""
    if linear.few_bits is not None:
        start = _start(kernel, linear, column)
        few_bits = replace(linear.few_bits, nonzeros=linear.nonzeros, tables=linear.tables)
        value = sum_of_groups(kernel, few_bits, i, start, weight)
    elif linear.scales is None:
        value = _float_sum(kernel, linear, i, column, weight)
    else:
        value = _integer_sum(kernel, linear, i, column, weight)
    _finish(kernel, linear, i, column, value)


def _finish(kernel: Kernel, linear: _Linear, i: SSAValue, column: Columns, value: SSAValue) -> None:
    """Store a sum after the epilogue."""
    value = emit_activation(kernel, linear.activation, value)
    if linear.residual is not None:
        value = kernel.insert(arith.AddfOp(value, kernel.load(linear.residual, i, *column)))
    if linear.is_rounded:
        value = kernel.insert(ConvertOp(value, bf16))
    at = (column[0], i, *column[1:]) if linear.y_in_panels else (i, *column)
    kernel.store(value, linear.y, *at)


def _start(kernel: Kernel, linear: _Linear, column: Columns) -> SSAValue:
    """What a sum of floats begins with."""
    if linear.bias is None:
        return kernel.constant(0.0, f32)
    return kernel.load(linear.bias, *column)


def _float_sum(
    kernel: Kernel,
    linear: _Linear,
    i: SSAValue,
    column: Columns,
    weight: Factor,
) -> SSAValue:
    """Block by block, so that rounding errors grow with the blocks and not with all of k; of each
    block the steps that are listed, if there is a list."""

    def step(k: SSAValue, acc: SSAValue) -> SSAValue:
        w = weight(linear.weight, k)
        if linear.has_pairs:
            return _add_pair(kernel, linear.x, i, k, w, acc)
        x = _word(kernel, linear, i, k)
        op = math.FmaOp(x, w, acc) if linear.dot is None else DotOp(linear.dot, x, w, acc)
        return kernel.insert(op)

    def block(first: Index, size: int, start: SSAValue | None = None) -> SSAValue:
        start = kernel.constant(0.0, f32) if start is None else start

        def one(k: SSAValue, acc: SSAValue) -> SSAValue:
            return step(kernel.affine(lambda f, k: f * SUM_BLOCK + k, first, k), acc)

        if linear.nonzeros is None:
            return kernel.fold("k", size, start, one)
        return linear.nonzeros.fold(kernel, first, [start], lambda k, accs: [one(k, accs[0])])[0]

    start = _start(kernel, linear, column)
    if linear.k <= SUM_BLOCK and linear.nonzeros is not None:
        return block(0, linear.k, start)
    if linear.k <= SUM_BLOCK or linear.is_tensor:
        return kernel.fold("k", linear.k, start, step)
    blocks, rest = divmod(linear.k, SUM_BLOCK)
    total = kernel.fold(
        "k0",
        blocks,
        start,
        lambda k0, acc: kernel.insert(arith.AddfOp(acc, block(k0, SUM_BLOCK))),
    )
    return kernel.insert(arith.AddfOp(total, block(blocks, rest))) if rest else total


def _add_pair(
    kernel: Kernel, x: SSAValue, i: SSAValue, k: SSAValue, word: SSAValue, acc: SSAValue
) -> SSAValue:
    """Two inputs times the two bf16 of a word: the upper half of a float is all that they have."""
    low = kernel.insert(arith.ShLIOp(word, kernel.constant(16, i32)))
    high = kernel.insert(arith.AndIOp(word, kernel.constant(-1 << 16, i32)))
    for place, bits in enumerate((low, high)):
        number = kernel.load(x, i, kernel.affine(lambda k, place=place: k * 2 + place, k))
        acc = kernel.insert(math.FmaOp(number, kernel.insert(arith.BitcastOp(bits, f32)), acc))
    return acc


def _integer_sum(
    kernel: Kernel, linear: _Linear, i: SSAValue, column: Columns, weight: Factor
) -> SSAValue:
    """The exact sum in i32, times the scales, plus the bias."""
    assert linear.scales is not None
    assert linear.dot is not None
    kind = linear.dot

    def step(k: SSAValue, acc: SSAValue) -> SSAValue:
        words = weight(linear.weight, kernel.affine(lambda k: k + 1, k))
        return kernel.insert(DotOp(kind, _word(kernel, linear, i, k), words, acc))

    total = kernel.insert(
        ConvertOp(kernel.fold("k", linear.k, weight(linear.weight, 0), step), f32)
    )
    rows, columns = linear.scales
    scale = kernel.load(columns, *column)
    if rows is not None:
        scale = kernel.insert(arith.MulfOp(kernel.load(rows, i), scale))
    if linear.bias is None:
        return kernel.insert(arith.MulfOp(total, scale))
    return kernel.insert(math.FmaOp(total, scale, kernel.load(linear.bias, *column)))


def lower_matmul(op: MatmulOp, kernel: Kernel) -> None:
    """A batched product; each leading dimension is a loop, broadcast ones read index 0."""
    transposed = bool(op.transpose_rhs.value.data)
    kernel.name, kernel.comment = "matmul", "matrix product"
    a, b = kernel.buffer("a", op.lhs), kernel.buffer("b", op.rhs)
    y = kernel.buffer("y", op.result)
    shape = kernel.shape(op.result)
    depth = kernel.size("k", kernel.shape(op.lhs)[-1])

    def nest(ivs: list[SSAValue]) -> None:
        if len(ivs) < len(shape):
            name = f"d{len(ivs)}" if len(ivs) < len(shape) - 1 else "n1"
            with kernel.parallel(name, kernel.size(f"n{len(ivs)}", shape[len(ivs)])) as iv:
                nest([*ivs, iv])
            return
        *batch, i, j = ivs
        lhs = _batch_indices(kernel, op.lhs, batch)
        rhs = _batch_indices(kernel, op.rhs, batch)

        def step(k: SSAValue, acc: SSAValue) -> SSAValue:
            at = (j, k) if transposed else (k, j)
            return kernel.insert(
                math.FmaOp(kernel.load(a, *lhs, i, k), kernel.load(b, *rhs, *at), acc)
            )

        kernel.store(kernel.fold("k", depth, kernel.constant(0.0, f32), step), y, *ivs)

    nest([])


def _batch_indices(kernel: Kernel, value: SSAValue, batch: list[SSAValue]) -> list[Index]:
    dims = kernel.shape(value)[:-2]
    aligned = batch[len(batch) - len(dims) :]
    return [0 if d == Dim.of(1) else iv for d, iv in zip(dims, aligned, strict=True)]
