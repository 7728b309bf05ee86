"""Nests that quantise rows: the largest magnitude, then every number in steps of it.

parallel m:
  reduce h: largest = max(largest, |x[m, h]|), nothing += 0 * x[m, h]
  scale[m] = largest / 127 + nothing            # NaN where the row has one, or infinity
parallel m:
  parallel h: y[m, h] = round(x[m, h] * (1 / scale[m]) + zero point)

Each number is multiplied by its channel's factor first, where there are factors. Beside another
zero point than 128 there is more room on one side: numbers of the other side count for more.
Rounding saturates, and a row's own scale keeps its numbers within the steps that there are.

Blocks of a row go the same way, one after the other, and sum up what they store:

parallel m: parallel g:
  reduce h: largest = max(largest, |x[m, g * 32 + h]|)
  reduce h: y[m, g, h] = round(x[m, g * 32 + h] * (1 / scale)), sum += y[m, g, h]
  y[m, g, scale] = largest / 127 + 0 * sum          # NaN where the block has one
  y[m, g, sum] = sum

With an eps the scale is multiplied by 1 / sqrt(mean(x[m]^2) + eps), and the row is not normed
otherwise. Other rules of rounding than `step` are in `lowering/rounding.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xdsl.dialects import arith, math
from xdsl.dialects.builtin import f32, i8, i32
from xdsl.ir import SSAValue

from kaoken.dialect.base import tensor_type
from kaoken.dialect.dims import Dim
from kaoken.dialect.formats import WORD_BYTES
from kaoken.dialect.kaoken_loop import ConvertOp
from kaoken.dialect.nn import BYTE_BITS
from kaoken.dialect.quant import (
    LEAST_SCALE,
    DequantizeOp,
    FakeQuantizeOp,
    QuantizeBlocksOp,
    QuantizeOp,
    RowScaleOp,
    largest_code,
    steps_above,
    steps_below,
)
from kaoken.passes.lowering.kernel import Kernel, as_f32
from kaoken.passes.lowering.nest import Index
from kaoken.passes.lowering.panels import each_column, panel_of, panelled_buffer
from kaoken.passes.lowering.rounding import Rounder, largest_magnitude
from kaoken.passes.lowering.rows import inverse_rms, row_shape


def lower_row_scale(op: RowScaleOp, kernel: Kernel) -> None:
    rows, width = row_shape(kernel.shape(op.input))
    kernel.name, kernel.comment = f"row_scale_{width}", f"what a step of a row of {width} is worth"
    x = kernel.buffer("x", op.input, (rows, width))
    factor = None if op.factor is None else kernel.buffer("factor", op.factor)
    y = kernel.buffer("y", op.result, (rows,))
    zero_point, bits = op.zero_point.value.data, op.bits.value.data
    count = kernel.size("n", width)
    with kernel.parallel("m", kernel.size("m", rows)) as m:
        zero = kernel.constant(0.0, f32)

        def larger(h: SSAValue, accs: Sequence[SSAValue]) -> list[SSAValue]:
            value = _times(kernel, kernel.load(x, m, h), factor, h)
            magnitude = _magnitude(kernel, value, zero_point)
            return [
                kernel.insert(arith.MaximumfOp(accs[0], magnitude)),
                kernel.insert(math.FmaOp(value, zero, accs[1])),
            ]

        largest, nothing = kernel.reduce("h", count, [zero, zero], larger)
        step = kernel.constant(1 / steps_above(zero_point, bits), f32)
        scale = kernel.insert(arith.MulfOp(largest, step))
        least = kernel.constant(LEAST_SCALE, f32)
        bounded = kernel.insert(arith.MaximumfOp(scale, least))
        # A maximum may pass over NaN, a sum does not.
        kernel.store(kernel.insert(arith.AddfOp(bounded, nothing)), y, m)


def _times(kernel: Kernel, value: SSAValue, factor: SSAValue | None, h: SSAValue) -> SSAValue:
    if factor is None:
        return value
    return kernel.insert(arith.MulfOp(value, kernel.load(factor, h)))


def _magnitude(kernel: Kernel, value: SSAValue, zero_point: int) -> SSAValue:
    """How much room a number needs, measured by the steps above the zero point."""
    above, below = steps_above(zero_point), steps_below(zero_point)
    if above == below:
        return kernel.insert(math.AbsFOp(value))
    mirrored = kernel.insert(arith.MulfOp(value, kernel.constant(-above / below, f32)))
    return kernel.insert(arith.MaximumfOp(value, mirrored))


def lower_quantize(op: QuantizeOp, kernel: Kernel) -> None:
    rows, width = row_shape(kernel.shape(op.input))
    kernel.name, kernel.comment = f"quantize_{width}", f"rows of {width} in eight bits"
    x = kernel.buffer("x", op.input, (rows, width))
    scales = None if op.scale is None else kernel.buffer("scale", op.scale, (rows,))
    factor = None if op.factor is None else kernel.buffer("factor", op.factor)
    panel, count = panel_of(op.result), kernel.size("m", rows)
    y = panelled_buffer(kernel, "y", op.result)
    zero_point = kernel.constant(op.zero_point.value.data, f32)
    one = kernel.constant(1.0, f32)
    to = tensor_type(op.result).element_type
    with kernel.parallel("m", count) as m:
        inverse = None
        if scales is not None:
            inverse = kernel.insert(arith.DivfOp(one, kernel.load(scales, m)))
        with each_column(kernel, m, width, panel) as (h, place):
            value, by = kernel.load(x, m, h), inverse
            if by is None:
                assert factor is not None
                by = kernel.load(factor, h)
            else:
                value = _times(kernel, value, factor, h)
            steps = kernel.insert(math.FmaOp(value, by, zero_point))
            steps = _saturated(kernel, steps, op.bits.value.data)
            kernel.store(kernel.insert(ConvertOp(steps, to)), y, *place)


def _saturated(kernel: Kernel, steps: SSAValue, bits: int) -> SSAValue:
    """Steps within what codes of so few bits hold; conversion saturates those of eight bits."""
    if bits == BYTE_BITS:
        return steps
    largest = largest_code(bits)
    most, least = (kernel.constant(limit, f32) for limit in (largest, -largest - 1))
    return kernel.insert(arith.MaximumfOp(kernel.insert(arith.MinimumfOp(steps, most)), least))


def lower_quantize_blocks(op: QuantizeBlocksOp, kernel: Kernel) -> None:
    rows, width = row_shape(kernel.shape(op.input))
    block, k = op.block.value.data, width.constant or 0
    *_, groups, words = kernel.shape(op.result)
    kernel.name = f"quantize_{k}_by_{block}"
    kernel.comment = f"rows of {k} in eight bits, {block} at a time"
    x = kernel.buffer("x", op.input, (rows, width))
    bytes_ = (rows, groups, words * WORD_BYTES)
    numbers = kernel.buffer("y", op.result, bytes_, element=i8)
    scales = kernel.buffer("scale", op.result, (rows, groups, words), element=f32)
    sums = kernel.buffer("sum", op.result, (rows, groups, words), element=i32)
    at = block // WORD_BYTES

    def emit(m: SSAValue, g: Index, size: int, norm: SSAValue | None) -> None:
        def number(h: SSAValue) -> SSAValue:
            return kernel.load(x, m, kernel.affine(lambda g, h: g * block + h, g, h))

        rounder = Rounder.of(kernel, op.rounding.data, largest_magnitude(kernel, size, number))
        scale = rounder.scale
        if norm is not None:
            scale = kernel.insert(arith.MulfOp(scale, norm))

        def round_one(h: SSAValue, acc: SSAValue) -> SSAValue:
            steps = rounder.steps(number(h))
            kernel.store(kernel.insert(ConvertOp(steps, i8)), numbers, m, g, h)
            return kernel.insert(arith.AddfOp(acc, steps))

        total = kernel.fold("h", size, kernel.constant(0.0, f32), round_one)
        # A maximum may pass over NaN, a sum does not.
        marked = kernel.insert(math.FmaOp(total, kernel.constant(0.0, f32), scale))
        kernel.store(marked, scales, m, g, at)
        kernel.store(kernel.insert(ConvertOp(total, i32)), sums, m, g, at + 1)
        if size < block:
            with kernel.parallel("h", block - size) as h:
                after = kernel.affine(lambda h: h + size, h)
                kernel.store(kernel.constant(0, i8), numbers, m, g, after)

    with kernel.parallel("m", kernel.size("m", rows)) as m:
        norm = None if op.eps is None else inverse_rms(kernel, x, m, k, op.eps.value.data)
        _each_block(kernel, k, block, lambda g, size: emit(m, g, size, norm))


def lower_fake_quantize(op: FakeQuantizeOp, kernel: Kernel) -> None:
    rows, width = row_shape(kernel.shape(op.input))
    k = width.constant or 0
    kernel.name, kernel.comment = f"fake_quantize_{k}", f"rows of {k} rounded to eight bits"
    x = kernel.buffer("x", op.input, (rows, width))
    y = kernel.buffer("y", op.result, (rows, width))
    kernel.in_place(y, x)
    with kernel.parallel("m", kernel.size("m", rows)) as m:
        row = largest_magnitude(kernel, k, lambda h: kernel.load(x, m, h))
        rounder = Rounder.of(kernel, op.rounding.data, row)
        with kernel.parallel("h", k) as h:
            steps = rounder.steps(kernel.load(x, m, h))
            kernel.store(kernel.insert(arith.MulfOp(steps, rounder.scale)), y, m, h)


def lower_dequantize(op: DequantizeOp, kernel: Kernel) -> None:
    rows, width = row_shape(kernel.shape(op.input))
    format_, k = op.format.data, width.constant or 0
    groups = (rows, Dim.of(format_.groups(k)))
    kernel.name = f"dequantize_{k}_q{format_.bits}"
    kernel.comment = f"rows of {k} weights of {format_.bits} bits as floats"
    codes = kernel.buffer("x", op.input, (rows, width))
    scales = kernel.buffer("scale", op.scale, groups)
    minima = None if op.min is None else kernel.buffer("min", op.min, groups)
    count = 1 if minima is None else 2
    supers = None
    if op.supers is not None:
        shape = (rows, Dim.of(format_.super_blocks(k) * count))
        supers = kernel.buffer("super", op.supers, shape)
    y = kernel.buffer("y", op.result, (rows, width))
    block = format_.block(k)

    def number(buffer: SSAValue, m: SSAValue, g: Index, which: int = 0) -> SSAValue:
        value = as_f32(kernel, kernel.load(buffer, m, g))
        if supers is None:
            return value
        at = kernel.affine(lambda g: g // format_.groups_of_super * count + which, g)
        factor = as_f32(kernel, kernel.load(supers, m, at))
        return kernel.insert(arith.MulfOp(value, factor))

    def emit(m: SSAValue, g: Index, size: int) -> None:
        scale = number(scales, m, g)
        least = None if minima is None else number(minima, m, g, 1)
        with kernel.parallel("h", size) as h:
            at = kernel.affine(lambda g, h: g * block + h, g, h)
            value = kernel.insert(ConvertOp(kernel.load(codes, m, at), f32))
            if format_.step != 1:
                value = kernel.insert(arith.MulfOp(value, kernel.constant(format_.step, f32)))
            value = kernel.insert(arith.SubfOp(value, kernel.constant(format_.offset, f32)))
            value = kernel.insert(arith.MulfOp(value, scale))
            if least is not None:
                value = kernel.insert(arith.AddfOp(value, least))
            kernel.store(value, y, m, at)

    with kernel.parallel("m", kernel.size("m", rows)) as m:
        _each_block(kernel, k, block, lambda g, size: emit(m, g, size))


def _each_block(kernel: Kernel, k: int, block: int, emit: Callable[[Index, int], None]) -> None:
    """Nests for all whole blocks of a row, and for a shorter last one."""
    full, rest = divmod(k, block)
    if full:
        with kernel.parallel("g", full) as g:
            emit(g, block)
    if rest:
        emit(full, rest)
