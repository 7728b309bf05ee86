"""Runs a straight-line function of arith and math ops on numpy arrays.

A vector is an array of any shape, a constant its single number; f32 ops round as IEEE asks, and
math.fma is computed in float64 and rounded to float32.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from xdsl.dialects import arith, func, math
from xdsl.dialects.builtin import (
    DenseIntOrFPElementsAttr,
    FloatAttr,
    IntegerAttr,
    IntegerType,
    VectorType,
)
from xdsl.ir import Attribute, Operation, SSAValue

Array = np.ndarray[Any, Any]


def fused(a: Array, b: Array, c: Array) -> Array:
    exact = a.astype(np.float64) * b.astype(np.float64)
    return (exact + c.astype(np.float64)).astype(np.float32)


def logical_right(a: Array, b: Array) -> Array:
    return (a.view(np.uint32) >> b.astype(np.uint32)).view(np.int32)


FUNCTIONS: dict[type[Operation], Callable[..., Any]] = {
    arith.AddfOp: operator.add,
    arith.SubfOp: operator.sub,
    arith.MulfOp: operator.mul,
    arith.DivfOp: operator.truediv,
    arith.NegfOp: operator.neg,
    arith.MaximumfOp: np.maximum,
    arith.MinimumfOp: np.minimum,
    arith.AddiOp: operator.add,
    arith.SubiOp: operator.sub,
    arith.AndIOp: operator.and_,
    arith.OrIOp: operator.or_,
    arith.XOrIOp: operator.xor,
    arith.ShLIOp: operator.lshift,
    arith.ShRSIOp: operator.rshift,
    arith.ShRUIOp: logical_right,
    math.FmaOp: fused,
    math.SqrtOp: np.sqrt,
    math.AbsFOp: np.abs,
    math.RoundEvenOp: np.rint,
}


def numpy_type(type_: Attribute) -> type[np.generic]:
    element = type_.element_type if isinstance(type_, VectorType) else type_
    return np.int32 if isinstance(element, IntegerType) else np.float32


def constant(op: arith.ConstantOp) -> Array:
    value = op.value
    if isinstance(value, DenseIntOrFPElementsAttr):
        number = value.get_values()[0]
        assert value.is_splat()
    else:
        assert isinstance(value, FloatAttr | IntegerAttr)
        number = value.value.data
    return np.array([number], numpy_type(op.result.type))


def run(function: func.FuncOp, *arguments: Array) -> tuple[Array, ...]:
    """The results of the function's only block; raises KeyError for an op it does not know."""
    values: dict[SSAValue, Array] = dict(zip(function.body.block.args, arguments, strict=True))
    with np.errstate(all="ignore"):
        for op in function.body.block.ops:
            if isinstance(op, func.ReturnOp):
                return tuple(values[v] for v in op.operands)
            values[op.results[0]] = evaluate(op, [values[v] for v in op.operands])
    raise AssertionError("the function has no return")


def evaluate(op: Operation, operands: list[Array]) -> Array:
    if isinstance(op, arith.ConstantOp):
        return constant(op)
    if isinstance(op, arith.BitcastOp):
        return operands[0].view(numpy_type(op.result.type))
    return FUNCTIONS[type(op)](*operands)
