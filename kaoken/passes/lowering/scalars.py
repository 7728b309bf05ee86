"""The scalar meaning of activations, elementwise functions and casts, in arith and math ops."""

from __future__ import annotations

import math as pymath
from collections.abc import Callable

from xdsl.dialects import arith, math
from xdsl.dialects.builtin import AnyFloat, IntegerType, i1
from xdsl.ir import Attribute, Operation, SSAValue

from kaoken.dialect.attributes import Activation, Function
from kaoken.dialect.kaoken_loop import ConvertOp
from kaoken.errors import KaokenError
from kaoken.passes.lowering.nest import Nest

BinaryOp = Callable[[SSAValue, SSAValue], Operation]
UnaryOp = Callable[[SSAValue], Operation]


def emit_activation(n: Nest, activation: Activation, x: SSAValue) -> SSAValue:
    """An epilogue's activation of one element."""
    match activation:
        case Activation.NONE:
            return x
        case Activation.RELU:
            return n.insert(arith.MaximumfOp(x, n.constant(0.0, x.type)))
        case Activation.TANH:
            return n.insert(math.TanhOp(x))
        case Activation.SIGMOID:
            return _sigmoid(n, x)
        case Activation.SILU:
            return n.insert(arith.MulfOp(x, _sigmoid(n, x)))
        case Activation.GELU:
            return _gelu(n, x)
        case Activation.GELU_TANH:
            return _gelu_tanh(n, x)


def _sigmoid(n: Nest, x: SSAValue) -> SSAValue:
    one = n.constant(1.0, x.type)
    decay = n.insert(math.ExpOp(n.insert(arith.NegfOp(x))))
    return n.insert(arith.DivfOp(one, n.insert(arith.AddfOp(one, decay))))


def _gelu(n: Nest, x: SSAValue) -> SSAValue:
    scaled = n.insert(arith.MulfOp(x, n.constant(pymath.sqrt(0.5), x.type)))
    half = n.insert(arith.MulfOp(x, n.constant(0.5, x.type)))
    return n.insert(math.FmaOp(half, n.insert(math.ErfOp(scaled)), half))


def _gelu_tanh(n: Nest, x: SSAValue) -> SSAValue:
    """0.5 x (1 + tanh(u)) is x sigmoid(2 u): one exponential and one division."""
    factor = pymath.sqrt(2 / pymath.pi)
    square = n.insert(arith.MulfOp(x, x))
    cubic, linear = (n.constant(2 * factor * c, x.type) for c in (0.044715, 1.0))
    inner = n.insert(math.FmaOp(square, cubic, linear))
    return n.insert(arith.MulfOp(x, _sigmoid(n, n.insert(arith.MulfOp(x, inner)))))


_FLOAT_BINARY: dict[Function, BinaryOp] = {
    Function.ADD: arith.AddfOp,
    Function.SUB: arith.SubfOp,
    Function.MUL: arith.MulfOp,
    Function.DIV: arith.DivfOp,
    Function.POW: math.PowFOp,
    Function.MAXIMUM: arith.MaximumfOp,
    Function.MINIMUM: arith.MinimumfOp,
}
_INTEGER_BINARY: dict[Function, BinaryOp] = {
    Function.ADD: arith.AddiOp,
    Function.SUB: arith.SubiOp,
    Function.MUL: arith.MuliOp,
    Function.FLOOR_DIV: arith.FloorDivSIOp,
    Function.MAXIMUM: arith.MaxSIOp,
    Function.MINIMUM: arith.MinSIOp,
    Function.AND: arith.AndIOp,
    Function.OR: arith.OrIOp,
    Function.XOR: arith.XOrIOp,
}
_FLOAT_UNARY: dict[Function, UnaryOp] = {
    Function.NEG: arith.NegfOp,
    Function.ABS: math.AbsFOp,
    Function.EXP: math.ExpOp,
    Function.LOG: math.LogOp,
    Function.SQRT: math.SqrtOp,
    Function.RSQRT: math.RsqrtOp,
    Function.ERF: math.ErfOp,
    Function.SIN: math.SinOp,
    Function.COS: math.CosOp,
    Function.FLOOR: math.FloorOp,
    Function.CEIL: math.CeilOp,
    Function.ROUND: math.RoundEvenOp,
}
_FLOAT_PREDICATES = {
    Function.EQ: "oeq",
    Function.NE: "une",
    Function.LT: "olt",
    Function.LE: "ole",
    Function.GT: "ogt",
    Function.GE: "oge",
}
_INTEGER_PREDICATES = {
    Function.EQ: "eq",
    Function.NE: "ne",
    Function.LT: "slt",
    Function.LE: "sle",
    Function.GT: "sgt",
    Function.GE: "sge",
}


def emit_function(n: Nest, function: Function, args: list[SSAValue]) -> SSAValue:
    """`kaoken.elementwise` of one element. Raises KaokenError where the type has no such one."""
    if function is Function.SELECT:
        condition, chosen, other = args
        return n.insert(arith.SelectOp(condition, chosen, other))
    is_float = isinstance(args[0].type, AnyFloat)
    if function.is_comparison:
        if is_float:
            return n.insert(arith.CmpfOp(args[0], args[1], _FLOAT_PREDICATES[function]))
        return n.insert(arith.CmpiOp(args[0], args[1], _INTEGER_PREDICATES[function]))
    if function.arity == 1:
        return _emit_unary(n, function, args[0])
    if is_float and function in (Function.REMAINDER, Function.FLOOR_DIV):
        return _float_division(n, function, *args)
    if function is Function.REMAINDER:
        quotient = n.insert(arith.FloorDivSIOp(args[0], args[1]))
        return n.insert(arith.SubiOp(args[0], n.insert(arith.MuliOp(quotient, args[1]))))
    table = _FLOAT_BINARY if is_float else _INTEGER_BINARY
    if function not in table:
        raise KaokenError(f"{function} of {args[0].type} has no lowering: cast to f32 first")
    lhs, rhs = args
    return n.insert(table[function](lhs, rhs))


def _emit_unary(n: Nest, function: Function, x: SSAValue) -> SSAValue:
    if isinstance(x.type, AnyFloat):
        if function not in _FLOAT_UNARY:
            raise KaokenError(f"{function} of {x.type} has no lowering: cast it first")
        return n.insert(_FLOAT_UNARY[function](x))
    match function:
        case Function.NOT:
            ones = n.constant(1 if x.type == i1 else -1, x.type)
            return n.insert(arith.XOrIOp(x, ones))
        case Function.NEG:
            return n.insert(arith.SubiOp(n.constant(0, x.type), x))
        case Function.ABS:
            return n.insert(math.AbsIOp(x))
        case _:
            raise KaokenError(f"{function} of {x.type} has no lowering: cast to f32 first")


def _float_division(n: Nest, function: Function, a: SSAValue, b: SSAValue) -> SSAValue:
    """Python's floored division and remainder."""
    quotient = n.insert(math.FloorOp(n.insert(arith.DivfOp(a, b))))
    if function is Function.FLOOR_DIV:
        return quotient
    return n.insert(arith.SubfOp(a, n.insert(arith.MulfOp(quotient, b))))


def emit_cast(n: Nest, x: SSAValue, to: Attribute) -> SSAValue:
    """`kaoken.cast` of one element."""
    of = x.type
    if of == to:
        return x
    if to == i1:
        zero = n.constant(0, of)
        function = Function.NE
        return emit_function(n, function, [x, zero])
    if isinstance(of, IntegerType) and isinstance(to, IntegerType):
        return n.insert(_resize_integer(x, of, to))
    if isinstance(of, IntegerType) and isinstance(to, AnyFloat):
        to_float = arith.UIToFPOp if of == i1 else arith.SIToFPOp
        return n.insert(to_float(x, to))
    if isinstance(of, AnyFloat) and isinstance(to, IntegerType):
        return n.insert(arith.FPToSIOp(x, to))
    return n.insert(ConvertOp(x, to))


def _resize_integer(x: SSAValue, of: IntegerType, to: IntegerType) -> Operation:
    if of.width.data > to.width.data:
        return arith.TruncIOp(x, to)
    return arith.ExtUIOp(x, to) if of == i1 else arith.ExtSIOp(x, to)
