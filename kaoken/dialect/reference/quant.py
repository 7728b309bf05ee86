"""How inputs and weights become narrow, and what few bits are worth."""

from __future__ import annotations

import numpy as np
from xdsl.interpreter import Interpreter, impl

from kaoken import quantized
from kaoken.dialect import nn, quant
from kaoken.dialect.reference.results import Arrays, OpFunctions, result, result_dtype, wide


class QuantFunctions(OpFunctions):
    """Of `kaoken.dialect.quant`."""

    @impl(quant.RowScaleOp)
    def row_scale(self, interpreter: Interpreter, op: quant.RowScaleOp, args: Arrays) -> Arrays:
        x = args[0] if op.factor is None else args[0] * args[1]
        zero_point = op.zero_point.value.data
        bits = op.bits.value.data
        above, below = quant.steps_above(zero_point, bits), quant.steps_below(zero_point, bits)
        largest = np.maximum(x, x * np.float32(-above / below)).max(-1).astype(np.float32)
        return (np.maximum(largest * np.float32(1 / above), np.float32(quant.LEAST_SCALE)),)

    @impl(quant.ObserveOp)
    def observe(self, interpreter: Interpreter, op: quant.ObserveOp, args: Arrays) -> Arrays:
        return (args[0],)

    @impl(quant.QuantizeOp)
    def quantize(self, interpreter: Interpreter, op: quant.QuantizeOp, args: Arrays) -> Arrays:
        x, *rest = args
        if op.scale is None:
            by = rest[0]
        else:
            by = np.float32(1) / rest[0][..., None]
            x = x if op.factor is None else x * rest[1]
        steps = (wide(x) * wide(by) + op.zero_point.value.data).astype(np.float32)
        limits = np.iinfo(dtype := result_dtype(op))
        unused = nn.BYTE_BITS - op.bits.value.data
        codes = np.clip(np.rint(steps), limits.min >> unused, limits.max >> unused)
        return (codes.astype(dtype),)

    @impl(quant.DequantizeOp)
    def dequantize(self, interpreter: Interpreter, op: quant.DequantizeOp, args: Arrays) -> Arrays:
        codes, scale, *rest = args
        minimum = rest.pop(0) if op.min is not None else None
        supers = rest.pop(0) if op.supers is not None else None
        weight = quantized.Quantized(op.format.data, codes, scale, minimum, supers)
        return (result(op, weight.dequantized()),)

    @impl(quant.QuantizeBlocksOp)
    def quantize_blocks(
        self, interpreter: Interpreter, op: quant.QuantizeBlocksOp, args: Arrays
    ) -> Arrays:
        eps = None if op.eps is None else op.eps.value.data
        block, rounding = op.block.value.data, op.rounding.data
        return (result(op, quantized.quantize_blocks(args[0], block, rounding, eps)),)

    @impl(quant.FakeQuantizeOp)
    def fake_quantize(
        self, interpreter: Interpreter, op: quant.FakeQuantizeOp, args: Arrays
    ) -> Arrays:
        steps, scale = quantized.round_rows(args[0], op.rounding.data)
        return (steps * scale,)
