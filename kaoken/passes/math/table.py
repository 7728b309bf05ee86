"""Which formula stands for which op at which precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from xdsl.dialects import math
from xdsl.ir import Operation

from kaoken.passes.math.emit import Value
from kaoken.passes.math.exponential import exp, exp2
from kaoken.passes.math.logarithm import log
from kaoken.passes.math.power import power
from kaoken.passes.math.rational import erf, rsqrt, tanh
from kaoken.passes.math.trigonometric import cos, sin

Formula = Callable[..., Value]

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

# A coarser set is a copy of EXACT with some entries replaced.
FORMULAS: Mapping[str, Mapping[type[Operation], Formula]] = {"exact": EXACT}
