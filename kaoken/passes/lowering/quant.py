"""Nests that quantise rows: the largest magnitude, then every number in steps of it.

parallel m:
  reduce h: largest = max(largest, |x[m, h]|)
  scale[m] = largest / 127
parallel m:
  parallel h: y[m, h] = round(x[m, h] * (1 / scale[m]) + zero point)

Each number is multiplied by its channel's factor first, where there are factors. Beside another
zero point than 128 there is more room on one side: numbers of the other side count for more.
Rounding saturates, and a row's own scale keeps its numbers within the steps that there are.
"""

from __future__ import annotations

from xdsl.dialects import arith, math
from xdsl.dialects.builtin import f32
from xdsl.ir import SSAValue

from kaoken.dialect.base import tensor_type
from kaoken.dialect.kaoken_loop import ConvertOp
from kaoken.dialect.quant import (
    LEAST_SCALE,
    QuantizeOp,
    RowScaleOp,
    steps_above,
    steps_below,
)
from kaoken.passes.lowering.kernel import Kernel
from kaoken.passes.lowering.rows import row_shape


def lower_row_scale(op: RowScaleOp, kernel: Kernel) -> None:
    rows, width = row_shape(kernel.shape(op.input))
    kernel.name, kernel.comment = f"row_scale_{width}", f"what a step of a row of {width} is worth"
    x = kernel.buffer("x", op.input, (rows, width))
    factor = None if op.factor is None else kernel.buffer("factor", op.factor)
    y = kernel.buffer("y", op.result, (rows,))
    zero_point = op.zero_point.value.data
    count = kernel.size("n", width)
    with kernel.parallel("m", kernel.size("m", rows)) as m:

        def larger(h: SSAValue, acc: SSAValue) -> SSAValue:
            value = _times(kernel, kernel.load(x, m, h), factor, h)
            return kernel.insert(arith.MaximumfOp(acc, _magnitude(kernel, value, zero_point)))

        largest = kernel.fold("h", count, kernel.constant(0.0, f32), larger)
        step = kernel.constant(1 / steps_above(zero_point), f32)
        scale = kernel.insert(arith.MulfOp(largest, step))
        least = kernel.constant(LEAST_SCALE, f32)
        kernel.store(kernel.insert(arith.MaximumfOp(scale, least)), y, m)


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
    y = kernel.buffer("y", op.result, (rows, width))
    zero_point = kernel.constant(op.zero_point.value.data, f32)
    one = kernel.constant(1.0, f32)
    to = tensor_type(op.result).element_type
    with kernel.parallel("m", kernel.size("m", rows)) as m:
        inverse = None
        if scales is not None:
            inverse = kernel.insert(arith.DivfOp(one, kernel.load(scales, m)))
        with kernel.parallel("h", kernel.size("n", width)) as h:
            value, by = kernel.load(x, m, h), inverse
            if by is None:
                assert factor is not None
                by = kernel.load(factor, h)
            else:
                value = _times(kernel, value, factor, h)
            steps = kernel.insert(math.FmaOp(value, by, zero_point))
            kernel.store(kernel.insert(ConvertOp(steps, to)), y, m, h)
