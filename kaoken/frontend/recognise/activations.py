"""Activations written out in arithmetic.

0.5 * x * (1 + erf(x / sqrt(2)))                             -> kaoken.gelu
0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))     -> kaoken.gelu tanh
x * sigmoid(x), x / (1 + exp(-x))                            -> kaoken.silu
1 / (1 + exp(-x))                                            -> kaoken.sigmoid
maximum(x, 0)                                                -> kaoken.relu
exp(x - max(x)) / sum(exp(x - max(x)))                       -> kaoken.softmax
"""

from __future__ import annotations

import math

from xdsl.ir import SSAValue

from kaoken.dialect.attributes import Approximation, ApproximationAttr, Function, Reduction
from kaoken.dialect.canonicalization.rules import owner
from kaoken.dialect.nn import GeluOp, ReluOp, SigmoidOp, SiluOp, SoftmaxOp, TanhOp
from kaoken.dialect.tensor import ElementwiseOp
from kaoken.frontend.aten.registry import is_float
from kaoken.frontend.graph import Graph
from kaoken.frontend.recognise.matching import (
    Recogniser,
    below,
    inputs_of,
    is_column,
    is_polynomial,
    number,
    polynomial,
    row_reduction,
)

F = Function
_HALF_PLUS_HALF = {(1, 0): 0.5, (1, 1): 0.5}
"""x/2 + x*t/2 with t the erf or tanh."""
_ERF_ARGUMENT = {(1,): math.sqrt(0.5)}
_TANH_ARGUMENT = {(1,): math.sqrt(2 / math.pi), (3,): 0.044715 * math.sqrt(2 / math.pi)}


def gelu(g: Graph, op: ElementwiseOp) -> SSAValue | None:
    if op.function.data not in (F.MUL, F.DIV, F.ADD):
        return None
    for t in below(op.result)[1:]:
        curve = _curve(t)
        if curve is None:
            continue
        argument, wanted, form = curve
        for x in below(argument):
            if not is_polynomial(polynomial(argument, [x]), wanted):
                continue
            if is_polynomial(polynomial(op.result, [x, t]), _HALF_PLUS_HALF):
                return g.make(GeluOp, [x], {"approximate": ApproximationAttr(form)})
    return None


def _curve(t: SSAValue) -> tuple[SSAValue, dict[tuple[int, ...], float], Approximation] | None:
    if (parts := inputs_of(t, F.ERF)) is not None:
        return parts[0], _ERF_ARGUMENT, Approximation.NONE
    if (tanh := owner(t, TanhOp)) is not None:
        return tanh.input, _TANH_ARGUMENT, Approximation.TANH
    return None


def silu(g: Graph, op: ElementwiseOp) -> SSAValue | None:
    if op.function.data is not F.MUL:
        return None
    for x, gate in (tuple(op.inputs), tuple(reversed(op.inputs))):
        sigmoid = owner(gate, SigmoidOp)
        if sigmoid is not None and sigmoid.input is x:
            return g.make(SiluOp, [x])
    return None


def sigmoid(g: Graph, op: ElementwiseOp) -> SSAValue | None:
    """n / (1 + exp(-x)) as n * sigmoid(x)."""
    if op.function.data is not F.DIV:
        return None
    numerator, denominator = op.inputs
    for e in below(denominator, 2):
        parts = inputs_of(e, F.EXP)
        negative = None if parts is None else inputs_of(parts[0], F.NEG)
        if negative is None or not is_polynomial(polynomial(denominator, [e]), {(0,): 1, (1,): 1}):
            continue
        if g.shape(negative[0]) != g.shape(op.result):
            continue
        gate = g.make(SigmoidOp, [negative[0]])
        return gate if number(numerator) == 1 else g.elementwise(F.MUL, numerator, gate)
    return None


def relu(g: Graph, op: ElementwiseOp) -> SSAValue | None:
    if op.function.data is not F.MAXIMUM or not is_float(g.dtype(op.result)):
        return None
    for x, bound in (tuple(op.inputs), tuple(reversed(op.inputs))):
        if number(bound) == 0 and g.shape(x) == g.shape(op.result):
            return g.make(ReluOp, [x])
    return None


def softmax(g: Graph, op: ElementwiseOp) -> SSAValue | None:
    if op.function.data is not F.DIV:
        return None
    powers, total = op.inputs
    parts = inputs_of(powers, F.EXP)
    if parts is None or row_reduction(total, Reduction.SUM) is not powers:
        return None
    if not is_column(total, powers):
        return None
    x = parts[0]
    centred = inputs_of(x, F.SUB)
    if centred is not None and row_reduction(centred[1], Reduction.MAX) is centred[0]:
        x = centred[0] if is_column(centred[1], centred[0]) else x
    return g.make(SoftmaxOp, [x])


RULES = [Recogniser(ElementwiseOp, rule) for rule in (gelu, sigmoid, silu, relu, softmax)]
