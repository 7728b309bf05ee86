"""Movement of elements, arithmetic of each, reductions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from xdsl.interpreter import Interpreter, impl

from kaoken.dialect import tensor
from kaoken.dialect.attributes import Function, Reduction
from kaoken.dialect.base import tensor_type
from kaoken.dialect.reference.results import Array, Arrays, OpFunctions, check_indices, result, wide
from kaoken.dialect.reference.rows import erf
from kaoken.dtypes import numpy_dtype
from kaoken.errors import KaokenError


class TensorFunctions(OpFunctions):
    """Of `kaoken.dialect.tensor`."""

    @impl(tensor.FullOp)
    def full(self, interpreter: Interpreter, op: tensor.FullOp, args: Arrays) -> Arrays:
        return (result(op, np.full(self._shape(op.shape.data), op.value.value.data)),)

    @impl(tensor.IotaOp)
    def iota(self, interpreter: Interpreter, op: tensor.IotaOp, args: Arrays) -> Arrays:
        (size,) = self._shape(op.shape.data)
        return (result(op, np.arange(size) + op.start.value.data),)

    @impl(tensor.ReshapeOp)
    def reshape(self, interpreter: Interpreter, op: tensor.ReshapeOp, args: Arrays) -> Arrays:
        return (result(op, args[0].reshape(self._shape(op.shape.data))),)

    @impl(tensor.TransposeOp)
    def transpose(self, interpreter: Interpreter, op: tensor.TransposeOp, args: Arrays) -> Arrays:
        return (result(op, args[0].transpose(op.permutation.get_values())),)

    @impl(tensor.SliceOp)
    def slice(self, interpreter: Interpreter, op: tensor.SliceOp, args: Arrays) -> Arrays:
        start, stop = self._shape(op.range.data)
        dim = op.dim.value.data
        if not 0 <= start <= stop <= args[0].shape[dim]:
            raise KaokenError(f"slice {start}..{stop} is outside a size of {args[0].shape[dim]}")
        part = np.s_[start : stop : op.step.value.data]
        return (result(op, args[0][(np.s_[:],) * dim + (part,)]),)

    @impl(tensor.ConcatOp)
    def concat(self, interpreter: Interpreter, op: tensor.ConcatOp, args: Arrays) -> Arrays:
        return (result(op, np.concatenate(args, op.dim.value.data)),)

    @impl(tensor.BroadcastOp)
    def broadcast(self, interpreter: Interpreter, op: tensor.BroadcastOp, args: Arrays) -> Arrays:
        return (result(op, np.broadcast_to(args[0], self._shape(op.shape.data))),)

    @impl(tensor.GatherOp)
    def gather(self, interpreter: Interpreter, op: tensor.GatherOp, args: Arrays) -> Arrays:
        source, *indices = args
        dims = op.dims.get_values()
        for value, index, dim in zip(op.indices, indices, dims, strict=True):
            check_indices(value, index, source.shape[dim])
        return (result(op, source[(np.s_[:],) * dims[0] + tuple(indices)]),)

    @impl(tensor.CastOp)
    def cast(self, interpreter: Interpreter, op: tensor.CastOp, args: Arrays) -> Arrays:
        dtype = numpy_dtype(tensor_type(op.result).element_type)
        return (args[0] != 0 if dtype == np.bool_ else args[0].astype(dtype),)

    @impl(tensor.ElementwiseOp)
    def elementwise(
        self, interpreter: Interpreter, op: tensor.ElementwiseOp, args: Arrays
    ) -> Arrays:
        return (result(op, _FUNCTIONS[op.function.data](*map(wide, args))),)

    @impl(tensor.ReduceOp)
    def reduce(self, interpreter: Interpreter, op: tensor.ReduceOp, args: Arrays) -> Arrays:
        axes = tuple(op.dims.get_values())
        function = _REDUCTIONS[op.reduction.data]
        kept = bool(op.keepdim.value.data)
        return (result(op, function(wide(args[0]), axis=axes, keepdims=kept)),)

    @impl(tensor.CumsumOp)
    def cumsum(self, interpreter: Interpreter, op: tensor.CumsumOp, args: Arrays) -> Arrays:
        return (result(op, np.cumsum(wide(args[0]), op.dim.value.data)),)


def _divide(a: Array, b: Array) -> Array:
    """Quotient; of integers, rounded toward zero as in C."""
    if a.dtype.kind == "f":
        return a / b
    return np.where((a < 0) ^ (b < 0), -(np.abs(a) // np.abs(b)), np.abs(a) // np.abs(b))


_FUNCTIONS: dict[Function, Callable[..., Array]] = {
    Function.ADD: np.add,
    Function.SUB: np.subtract,
    Function.MUL: np.multiply,
    Function.DIV: _divide,
    Function.POW: np.power,
    Function.MAXIMUM: np.maximum,
    Function.MINIMUM: np.minimum,
    Function.REMAINDER: np.remainder,
    Function.FLOOR_DIV: np.floor_divide,
    Function.NEG: np.negative,
    Function.ABS: np.abs,
    Function.EXP: np.exp,
    Function.LOG: np.log,
    Function.SQRT: np.sqrt,
    Function.RSQRT: lambda x: 1 / np.sqrt(x),
    Function.ERF: erf,
    Function.SIN: np.sin,
    Function.COS: np.cos,
    Function.FLOOR: np.floor,
    Function.CEIL: np.ceil,
    Function.ROUND: np.rint,
    Function.EQ: np.equal,
    Function.NE: np.not_equal,
    Function.LT: np.less,
    Function.LE: np.less_equal,
    Function.GT: np.greater,
    Function.GE: np.greater_equal,
    Function.AND: np.bitwise_and,
    Function.OR: np.bitwise_or,
    Function.XOR: np.bitwise_xor,
    Function.NOT: np.invert,
    Function.SELECT: np.where,
}


_REDUCTIONS: dict[Reduction, Callable[..., Array]] = {
    Reduction.SUM: np.sum,
    Reduction.MEAN: np.mean,
    Reduction.MAX: np.max,
    Reduction.MIN: np.min,
    Reduction.PROD: np.prod,
    Reduction.ANY: np.any,
    Reduction.ALL: np.all,
}
