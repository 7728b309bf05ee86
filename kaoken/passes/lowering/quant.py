"""Nests that quantise rows: the largest magnitude, then every number in steps of it.

parallel m:
  reduce h: largest = max(largest, |x[m, h]|)
  scale[m] = largest / 127
parallel m:
  parallel h: y[m, h] = round(x[m, h] * (1 / scale[m]) + zero point)

Rounding saturates, and a row's own scale keeps its numbers within 127 steps of the zero point.
"""

from __future__ import annotations

from xdsl.dialects import arith, math
from xdsl.dialects.builtin import f32

from kaoken.dialect.base import tensor_type
from kaoken.dialect.kaoken_loop import ConvertOp
from kaoken.dialect.quant import LEAST_SCALE, LIMIT, QuantizeOp, RowScaleOp
from kaoken.passes.lowering.kernel import Kernel
from kaoken.passes.lowering.rows import row_shape


def lower_row_scale(op: RowScaleOp, kernel: Kernel) -> None:
    rows, width = row_shape(kernel.shape(op.input))
    kernel.name, kernel.comment = f"row_scale_{width}", f"what a step of a row of {width} is worth"
    x = kernel.buffer("x", op.input, (rows, width))
    y = kernel.buffer("y", op.result, (rows,))
    count = kernel.size("n", width)
    with kernel.parallel("m", kernel.size("m", rows)) as m:
        largest = kernel.fold(
            "h",
            count,
            kernel.constant(0.0, f32),
            lambda h, acc: kernel.insert(
                arith.MaximumfOp(acc, kernel.insert(math.AbsFOp(kernel.load(x, m, h))))
            ),
        )
        scale = kernel.insert(arith.MulfOp(largest, kernel.constant(1 / LIMIT, f32)))
        least = kernel.constant(LEAST_SCALE, f32)
        kernel.store(kernel.insert(arith.MaximumfOp(scale, least)), y, m)


def lower_quantize(op: QuantizeOp, kernel: Kernel) -> None:
    rows, width = row_shape(kernel.shape(op.input))
    kernel.name, kernel.comment = f"quantize_{width}", f"rows of {width} in eight bits"
    x = kernel.buffer("x", op.input, (rows, width))
    scales = kernel.buffer("scale", op.scale, (rows,))
    y = kernel.buffer("y", op.result, (rows, width))
    zero_point = kernel.constant(op.zero_point.value.data, f32)
    to = tensor_type(op.result).element_type
    with kernel.parallel("m", kernel.size("m", rows)) as m:
        inverse = kernel.insert(arith.DivfOp(kernel.constant(1.0, f32), kernel.load(scales, m)))
        with kernel.parallel("h", kernel.size("n", width)) as h:
            steps = kernel.insert(math.FmaOp(kernel.load(x, m, h), inverse, zero_point))
            kernel.store(kernel.insert(ConvertOp(steps, to)), y, m, h)
