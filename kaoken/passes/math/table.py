"""Which formula stands for which op at which precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from xdsl.dialects import arith, math, vector
from xdsl.ir import Operation

from kaoken.passes.math.emit import Value
from kaoken.passes.math.exponential import exp, exp2
from kaoken.passes.math.logarithm import log
from kaoken.passes.math.power import power
from kaoken.passes.math.quake import ORDER_ONE, ORDER_TWO, Quake
from kaoken.passes.math.rational import erf, rsqrt, tanh
from kaoken.passes.math.trigonometric import cos, sin

Formula = Callable[..., Value | None]
"""The op's result from its operands, or None to leave the op as it is."""

EXACT: Mapping[type[Operation], Formula] = {
    math.ExpOp: exp,
    math.Exp2Op: exp2,
    math.LogOp: log,
    math.ErfOp: erf,
    math.TanhOp: tanh,
    math.SinOp: sin,
    math.CosOp: cos,
    math.RsqrtOp: rsqrt,
    math.PowFOp: power,
}


@dataclass(frozen=True)
class Formulas:
    """The formulas of one precision."""

    functions: Mapping[type[Operation], Formula] = field(default_factory=lambda: EXACT)
    groups: Mapping[type[Operation], Formula] = field(default_factory=dict)
    """For the last op of a group, such as the division of 1 / (1 + exp(x)); tried first."""


def _quake(order: Quake) -> Formulas:
    return Formulas(
        {**EXACT, math.ExpOp: order.exp, math.Exp2Op: order.exp2},
        {
            arith.DivfOp: order.divide,
            math.FmaOp: order.multiply_add,
            vector.FMAOp: order.multiply_add,
        },
    )


FORMULAS: Mapping[str, Formulas] = {
    "exact": Formulas(),
    "quake1": _quake(ORDER_ONE),
    "quake2": _quake(ORDER_TWO),
}
