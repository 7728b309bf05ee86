"""Weights and matrix products."""

from __future__ import annotations

import numpy as np
from xdsl.interpreter import Interpreter, impl
from xdsl.ir import SSAValue

from kaoken import quantized
from kaoken.dialect import nn
from kaoken.dialect.attributes import Activation, Norm
from kaoken.dialect.base import tensor_type
from kaoken.dialect.reference.results import Array, Arrays, OpFunctions, result, wide
from kaoken.dialect.reference.rows import ACTIVATIONS, layer_norm, rms_norm
from kaoken.dtypes import numpy_dtype
from kaoken.errors import KaokenError
from kaoken.weights import store_of


class LinearFunctions(OpFunctions):
    """Of `kaoken.dialect.nn`: weights and matrix products."""

    @impl(nn.WeightOp)
    def weight(self, interpreter: Interpreter, op: nn.WeightOp, args: Arrays) -> Arrays:
        key = op.key.data
        array = store_of(interpreter.module)[key]
        type_ = tensor_type(op.result)
        if array.shape != type_.get_shape() or array.dtype != numpy_dtype(type_.element_type):
            raise KaokenError(
                f'weight "{key}" is {array.dtype.name} {list(array.shape)} in the store, '
                f"but the module says {type_}"
            )
        return (array,)

    @impl(nn.LinearOp)
    def linear(self, interpreter: Interpreter, op: nn.LinearOp, args: Arrays) -> Arrays:
        rest = list(args[2:])

        def optional(value: SSAValue | None) -> Array | None:
            return rest.pop(0) if value is not None else None

        bias, residual = optional(op.bias), optional(op.residual)
        norm_weight, norm_bias = optional(op.norm_weight), optional(op.norm_bias)
        input_scale, weight_scale = optional(op.input_scale), optional(op.weight_scale)
        if op.format is not None:
            assert weight_scale is not None
            numbers = (weight_scale, optional(op.weight_min), optional(op.weight_supers))
            y = _few_bits(op, args[0], args[1], numbers, bias)
            return self._epilogue(op, y, residual, norm_weight, norm_bias)
        weight = unpack_weight(args[1], op.n, op.k) if op.is_packed else args[1]
        if weight_scale is None:
            y = wide(args[0]) @ wide(weight).T
        else:
            steps = args[0].astype(np.int32) - op.input_zero_point.value.data
            y = (steps @ weight.astype(np.int32).T) * wide(weight_scale)
            y = y if input_scale is None else y * wide(input_scale)[..., None]
        y = _step(op, y if bias is None else y + wide(bias))
        return self._epilogue(op, y, residual, norm_weight, norm_bias)

    def _epilogue(
        self,
        op: nn.LinearOp,
        y: Array,
        residual: Array | None,
        norm_weight: Array | None,
        norm_bias: Array | None,
    ) -> Arrays:
        """What a linear layer does after its product and bias."""
        if op.activation.data is not Activation.NONE:
            y = _step(op, ACTIVATIONS[op.activation.data](wide(y)))
        if residual is not None:
            y = _step(op, wide(y) + wide(residual))
        if op.norm.data is not Norm.NONE:
            assert norm_weight is not None
            assert op.eps is not None
            norm = layer_norm if op.norm.data is Norm.LAYER_NORM else rms_norm
            y = result(op, norm(y, norm_weight, norm_bias, op.eps.value.data))
        return (result(op, y),)

    @impl(nn.MatmulOp)
    def matmul(self, interpreter: Interpreter, op: nn.MatmulOp, args: Arrays) -> Arrays:
        a, b = map(wide, args)
        if op.transpose_rhs.value.data:
            b = np.swapaxes(b, -1, -2)
        return (result(op, a @ b),)


def unpack_weight(panels: Array, n: int, k: int) -> Array:
    """Panels of any element type (see kaoken.linear) back to the weight [n, k]."""
    if panels.ndim == 3:
        panels = panels[..., None]
    if panels.dtype == np.int8:
        panels = panels[:, 1:]
    count, _, width, _ = panels.shape
    return panels.transpose(0, 2, 1, 3).reshape(count * width, -1)[:n, :k]


def _few_bits(
    op: nn.LinearOp,
    blocks: Array,
    codes: Array,
    numbers: tuple[Array, Array | None, Array | None],
    bias: Array | None,
) -> Array:
    """The product of a weight of few bits, with the bias that its sums start at; `numbers` are its
    scales, minima and what both are worth."""
    assert op.format is not None
    format_ = op.format.data
    if op.is_packed:
        codes = quantized.unpack_codes(codes, format_, op.n, op.k)
    scale, minimum, supers = (
        None if a is None else quantized.unpack_groups(a, op.n) if op.is_packed else a
        for a in numbers
    )
    assert scale is not None
    scale, minimum = quantized.group_numbers(scale, minimum, supers, format_)
    return result(op, quantized.multiply(blocks, codes, scale, minimum, format_, bias))


def _step(op: nn.LinearOp, value: Array) -> Array:
    """What comes before a linear layer's result: in its type, or f32 where that is rounded."""
    return value.astype(np.float32) if op.is_rounded else result(op, value)
