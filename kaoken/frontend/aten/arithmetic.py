"""Elementwise aten ops: arithmetic, functions, comparisons, logic, selection, casts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from xdsl.dialects.builtin import f32, i1, i64
from xdsl.ir import Attribute, SSAValue

from kaoken.dialect.attributes import Approximation, ApproximationAttr, Function
from kaoken.dialect.nn import GeluOp, ReluOp, SigmoidOp, SiluOp, TanhOp
from kaoken.errors import KaokenError
from kaoken.frontend.aten.registry import (
    Importer,
    Operand,
    Scalar,
    aten,
    is_float,
)

F = Function


def _register_unary(name: str, function: Function) -> None:
    @aten(name)
    def build(g: Importer, x: SSAValue) -> SSAValue:
        return g.elementwise(function, *g.floats(x))


for _name in ("exp", "log", "sqrt", "rsqrt", "erf", "sin", "cos"):
    _register_unary(_name, Function(_name))


def _register_same_type(name: str, function: Function) -> None:
    @aten(name)
    def build(g: Importer, x: SSAValue) -> SSAValue:
        return g.elementwise(function, x)


for _name in ("neg", "abs"):
    _register_same_type(_name, Function(_name))


def _register_rounding(name: str, function: Function) -> None:
    @aten(f"{name}.default")
    def build(g: Importer, x: SSAValue) -> SSAValue:
        return g.elementwise(function, x) if is_float(g.dtype(x)) else x


for _name in ("floor", "ceil", "round"):
    _register_rounding(_name, Function(_name))


def _register_comparison(name: str, function: Function) -> None:
    @aten(name)
    def build(g: Importer, a: Operand, b: Operand) -> SSAValue:
        return g.apply(function, a, b)


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _register_comparison(_name, Function(_name))


@aten("add")
def add(g: Importer, a: Operand, b: Operand, alpha: Scalar = 1) -> SSAValue:
    dtype = g.promoted(a, b)
    if dtype == i1:
        return g.apply(F.OR, a, b)
    return g.elementwise(F.ADD, g.tensor(a, dtype), _scaled(g, b, alpha, dtype))


@aten("sub", "subtract")
def sub(g: Importer, a: Operand, b: Operand, alpha: Scalar = 1) -> SSAValue:
    dtype = g.promoted(a, b)
    return g.elementwise(F.SUB, g.tensor(a, dtype), _scaled(g, b, alpha, dtype))


@aten("rsub")
def rsub(g: Importer, a: Operand, b: Operand, alpha: Scalar = 1) -> SSAValue:
    return sub(g, b, a, alpha)


def _scaled(g: Importer, value: Operand, alpha: Scalar, dtype: Attribute) -> SSAValue:
    tensor = g.tensor(value, dtype)
    return tensor if alpha == 1 else g.elementwise(F.MUL, tensor, g.tensor(alpha, dtype))


@aten("mul", "multiply")
def mul(g: Importer, a: Operand, b: Operand) -> SSAValue:
    function = F.AND if g.promoted(a, b) == i1 else F.MUL
    return g.apply(function, a, b)


@aten("div", "true_divide", "divide")
def div(g: Importer, a: Operand, b: Operand, rounding_mode: str | None = None) -> SSAValue:
    if rounding_mode == "floor":
        return g.apply(F.FLOOR_DIV, a, b)
    if rounding_mode == "trunc":
        return _divide_truncated(g, a, b)
    return g.elementwise(F.DIV, *g.floats(a, b))


def _divide_truncated(g: Importer, a: Operand, b: Operand) -> SSAValue:
    x, y = g.promote(a, b)
    if is_float(g.dtype(x)):
        return trunc(g, g.elementwise(F.DIV, x, y))
    size = g.elementwise(F.FLOOR_DIV, g.elementwise(F.ABS, x), g.elementwise(F.ABS, y))
    zero = g.full(0, g.dtype(x))
    differ = g.elementwise(F.XOR, g.elementwise(F.LT, x, zero), g.elementwise(F.LT, y, zero))
    return g.elementwise(F.SELECT, differ, g.elementwise(F.NEG, size), size)


@aten("floor_divide")
def floor_divide(g: Importer, a: Operand, b: Operand) -> SSAValue:
    return g.apply(F.FLOOR_DIV, a, b)


@aten("remainder")
def remainder(g: Importer, a: Operand, b: Operand) -> SSAValue:
    return g.apply(F.REMAINDER, a, b)


@aten("fmod")
def fmod(g: Importer, a: Operand, b: Operand) -> SSAValue:
    x, y = g.promote(a, b)
    return sub(g, x, mul(g, _divide_truncated(g, x, y), y))


@aten("maximum", "max.other")
def maximum(g: Importer, a: Operand, b: Operand) -> SSAValue:
    return g.apply(F.MAXIMUM, a, b)


@aten("minimum", "min.other")
def minimum(g: Importer, a: Operand, b: Operand) -> SSAValue:
    return g.apply(F.MINIMUM, a, b)


_POWERS: dict[float, Callable[[Importer, SSAValue], SSAValue]] = {
    0.5: lambda g, x: g.elementwise(F.SQRT, x),
    -0.5: lambda g, x: g.elementwise(F.RSQRT, x),
    1: lambda g, x: x,
    2: lambda g, x: g.elementwise(F.MUL, x, x),
    3: lambda g, x: g.elementwise(F.MUL, g.elementwise(F.MUL, x, x), x),
    -1: lambda g, x: reciprocal(g, x),
}
"""Powers that torch computes by simpler functions too."""


@aten("pow")
def power(g: Importer, base: Operand, exponent: Operand) -> SSAValue:
    x, y = g.promote(base, exponent)
    short = _POWERS.get(exponent) if isinstance(exponent, int | float) else None
    if short is not None and (is_float(g.dtype(x)) or exponent in (1, 2, 3)):
        return short(g, x)
    return g.elementwise(F.POW, x, y)


@aten("square")
def square(g: Importer, x: SSAValue) -> SSAValue:
    return g.elementwise(F.MUL, x, x)


@aten("reciprocal")
def reciprocal(g: Importer, x: SSAValue) -> SSAValue:
    (x,) = g.floats(x)
    return g.elementwise(F.DIV, g.full(1, g.dtype(x)), x)


@aten("trunc")
def trunc(g: Importer, x: SSAValue) -> SSAValue:
    if not is_float(g.dtype(x)):
        return x
    below = g.elementwise(F.LT, x, g.full(0, g.dtype(x)))
    up, down = g.elementwise(F.CEIL, x), g.elementwise(F.FLOOR, x)
    return g.elementwise(F.SELECT, below, up, down)


@aten("sign", "sgn")
def sign(g: Importer, x: SSAValue) -> SSAValue:
    zero, dtype = g.full(0, g.dtype(x)), g.dtype(x)
    above = g.cast(g.elementwise(F.GT, x, zero), dtype)
    return g.elementwise(F.SUB, above, g.cast(g.elementwise(F.LT, x, zero), dtype))


@aten("log1p")
def log1p(g: Importer, x: SSAValue) -> SSAValue:
    return g.elementwise(F.LOG, add(g, g.floats(x)[0], 1))


@aten("expm1")
def expm1(g: Importer, x: SSAValue) -> SSAValue:
    return sub(g, g.elementwise(F.EXP, *g.floats(x)), 1)


@aten("log2")
def log2(g: Importer, x: SSAValue) -> SSAValue:
    return div(g, g.elementwise(F.LOG, *g.floats(x)), math.log(2))


@aten("log10")
def log10(g: Importer, x: SSAValue) -> SSAValue:
    return div(g, g.elementwise(F.LOG, *g.floats(x)), math.log(10))


@aten("exp2")
def exp2(g: Importer, x: SSAValue) -> SSAValue:
    return g.elementwise(F.EXP, mul(g, x, math.log(2)))


@aten("clamp", "clip")
def clamp(
    g: Importer, x: SSAValue, min: Operand | None = None, max: Operand | None = None
) -> SSAValue:
    dtype = g.promoted(x, *[bound for bound in (min, max) if bound is not None])
    x = g.tensor(x, dtype)
    if min is not None:
        x = g.elementwise(F.MAXIMUM, x, g.tensor(min, dtype))
    return x if max is None else g.elementwise(F.MINIMUM, x, g.tensor(max, dtype))


@aten("clamp_min")
def clamp_min(g: Importer, x: SSAValue, min: Operand) -> SSAValue:
    return clamp(g, x, min)


@aten("clamp_max")
def clamp_max(g: Importer, x: SSAValue, max: Operand) -> SSAValue:
    return clamp(g, x, None, max)


@aten("hardtanh")
def hardtanh(g: Importer, x: SSAValue, min_val: Scalar = -1.0, max_val: Scalar = 1.0) -> SSAValue:
    return clamp(g, x, min_val, max_val)


@aten("relu6")
def relu6(g: Importer, x: SSAValue) -> SSAValue:
    return clamp(g, x, 0, 6)


@aten("relu")
def relu(g: Importer, x: SSAValue) -> SSAValue:
    return g.make(ReluOp, [x])


@aten("gelu")
def gelu(g: Importer, x: SSAValue, approximate: str = "none") -> SSAValue:
    form = ApproximationAttr(Approximation(approximate))
    return g.make(GeluOp, [x], {"approximate": form})


@aten("silu")
def silu(g: Importer, x: SSAValue) -> SSAValue:
    return g.make(SiluOp, [x])


@aten("tanh")
def tanh(g: Importer, x: SSAValue) -> SSAValue:
    return g.make(TanhOp, g.floats(x))


@aten("sigmoid")
def sigmoid(g: Importer, x: SSAValue) -> SSAValue:
    return g.make(SigmoidOp, g.floats(x))


@aten("leaky_relu")
def leaky_relu(g: Importer, x: SSAValue, negative_slope: float = 0.01) -> SSAValue:
    above = g.apply(F.GT, x, 0)
    return g.elementwise(F.SELECT, above, x, mul(g, x, negative_slope))


@aten("elu")
def elu(
    g: Importer, x: SSAValue, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0
) -> SSAValue:
    below = mul(g, expm1(g, mul(g, x, input_scale)), alpha * scale)
    return g.elementwise(F.SELECT, g.apply(F.GT, x, 0), mul(g, x, scale), below)


@aten("softplus")
def softplus(g: Importer, x: SSAValue, beta: float = 1.0, threshold: float = 20.0) -> SSAValue:
    scaled = mul(g, x, beta)
    curve = div(g, log1p(g, g.elementwise(F.EXP, scaled)), beta)
    return g.elementwise(F.SELECT, g.apply(F.GT, scaled, threshold), x, curve)


@aten("mish")
def mish(g: Importer, x: SSAValue) -> SSAValue:
    return mul(g, x, tanh(g, softplus(g, x)))


@aten("hardsigmoid")
def hardsigmoid(g: Importer, x: SSAValue) -> SSAValue:
    return div(g, clamp(g, add(g, x, 3.0), 0.0, 6.0), 6.0)


@aten("hardswish")
def hardswish(g: Importer, x: SSAValue) -> SSAValue:
    return mul(g, x, hardsigmoid(g, x))


@aten("bitwise_and", "__and__")
def bitwise_and(g: Importer, a: Operand, b: Operand) -> SSAValue:
    return g.apply(F.AND, a, b)


@aten("bitwise_or", "__or__")
def bitwise_or(g: Importer, a: Operand, b: Operand) -> SSAValue:
    return g.apply(F.OR, a, b)


@aten("bitwise_xor", "__xor__")
def bitwise_xor(g: Importer, a: Operand, b: Operand) -> SSAValue:
    return g.apply(F.XOR, a, b)


@aten("bitwise_not")
def bitwise_not(g: Importer, x: SSAValue) -> SSAValue:
    if g.dtype(x) == i1:
        return g.elementwise(F.NOT, x)
    return sub(g, g.elementwise(F.NEG, x), 1)


@aten("logical_not")
def logical_not(g: Importer, x: SSAValue) -> SSAValue:
    return g.elementwise(F.NOT, g.cast(x, i1))


def _register_logical(name: str, function: Function) -> None:
    @aten(name)
    def build(g: Importer, a: SSAValue, b: SSAValue) -> SSAValue:
        return g.elementwise(function, g.cast(a, i1), g.cast(b, i1))


for _name in ("and", "or", "xor"):
    _register_logical(f"logical_{_name}", Function(_name))


@aten("isnan")
def isnan(g: Importer, x: SSAValue) -> SSAValue:
    return g.elementwise(F.NE, x, x)


@aten("isinf")
def isinf(g: Importer, x: SSAValue) -> SSAValue:
    return g.apply(F.EQ, g.elementwise(F.ABS, x), math.inf)


@aten("where")
def where(g: Importer, condition: SSAValue, a: Operand, b: Operand) -> SSAValue:
    return g.elementwise(F.SELECT, g.cast(condition, i1), *g.promote(a, b))


@aten("masked_fill")
def masked_fill(g: Importer, x: SSAValue, mask: SSAValue, value: Operand) -> SSAValue:
    return g.elementwise(F.SELECT, mask, g.tensor(value, g.dtype(x)), x)


@aten("addcmul")
def addcmul(g: Importer, x: SSAValue, a: SSAValue, b: SSAValue, value: Scalar = 1) -> SSAValue:
    return add(g, x, mul(g, a, b), value)


@aten("addcdiv")
def addcdiv(g: Importer, x: SSAValue, a: SSAValue, b: SSAValue, value: Scalar = 1) -> SSAValue:
    return add(g, x, div(g, a, b), value)


@aten("lerp")
def lerp(g: Importer, a: SSAValue, b: SSAValue, weight: Operand) -> SSAValue:
    return add(g, a, mul(g, weight, sub(g, b, a)))


@aten("_to_copy", "to.dtype", "to.dtype_layout")
def to_copy(g: Importer, x: SSAValue, dtype: Any = None, **_: Any) -> SSAValue:
    return x if dtype is None else g.cast(x, dtype)


@aten("to.device")
def to_device(g: Importer, x: SSAValue, device: Any, dtype: Any = None, **_: Any) -> SSAValue:
    return to_copy(g, x, dtype)


@aten("to.other", "type_as")
def type_as(g: Importer, x: SSAValue, other: SSAValue, **_: Any) -> SSAValue:
    return g.cast(x, g.dtype(other))


@aten("float")
def to_float(g: Importer, x: SSAValue) -> SSAValue:
    return g.cast(x, f32)


@aten("long")
def to_long(g: Importer, x: SSAValue) -> SSAValue:
    return g.cast(x, i64)


@aten(
    "clone",
    "alias",
    "detach",
    "detach_",
    "contiguous",
    "lift_fresh",
    "lift_fresh_copy",
    "positive",
    "resolve_conj",
    "resolve_neg",
)
def identity(g: Importer, x: SSAValue, *_: Any, **__: Any) -> SSAValue:
    return x


@aten("dropout", "native_dropout", "feature_dropout", "alpha_dropout")
def dropout(g: Importer, x: SSAValue, p: float, train: bool | None = False) -> SSAValue:
    if train and p:
        raise KaokenError("the module is in training mode, with dropout: call module.eval() first")
    return x
