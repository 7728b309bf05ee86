"""`lower-math`: transcendental functions of f32 become arithmetic that C and SIMD have words for.

    %1 = math.rsqrt %0 : vector<8x48xf32>

becomes

    %one = arith.constant dense<1.000000e+00> : vector<8x48xf32>
    %root = math.sqrt %0 : vector<8x48xf32>
    %1 = arith.divf %one, %root : vector<8x48xf32>

and exp, exp2, log, erf, tanh, sin, cos and powf become polynomials in the same way, on scalars and
on vectors of any rank, so that a remainder loop gives the bits of the vector loop. Ops that use:
arith on f32 and i32, arith.bitcast, and math.fma, sqrt, absf, roundeven. Equal ops in a block,
constants above all, are written once.

Largest error in units in the last place, measured over the whole range (the test holds them), and
number of ops per element; constants and bitcasts, which cost nothing, are not counted:

    exp   1.0  14     erf   3.0  16    sin  1.6  24    rsqrt  1.5   2
    exp2  1.0  13     tanh  3.0  14    cos  1.6  25    powf   6.0  93 (1-3 for common constants)
    log   1.0  35

exp, exp2 and powf give 0 below 2**-125.5. Other types than f32 are left alone, f64 for libm.

`precision=quake1` and `quake2` put QuAKE's powers of two in place of exp, exp2, 1 / (1 + exp(x))
and GELU: coarser, with fewer ops and no division; passes/math/quake.py tells how coarse.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import Float32Type, ModuleOp
from xdsl.ir import Block, Operation
from xdsl.passes import ModulePass
from xdsl.transforms.dead_code_elimination import is_trivially_dead

from kaoken.errors import KaokenError
from kaoken.passes.math.emit import Emitter, Known, Value, element_of
from kaoken.passes.math.table import FORMULAS, Formula


@dataclass(frozen=True)
class LowerMathPass(ModulePass):
    """Writes transcendental functions of f32 as polynomials.

    `precision` names a set of formulas: `exact` is accurate to float32, `quake1` and `quake2` give
    exponentials, and the logistic function and GELU with them, about two and three digits.
    """

    name = "lower-math"

    precision: str = "exact"

    def __post_init__(self) -> None:
        if self.precision not in FORMULAS:
            known = ", ".join(FORMULAS)
            raise KaokenError(
                f"lower-math knows no precision `{self.precision}`: choose one of {known}"
            )

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        formulas = FORMULAS[self.precision]
        for table in (formulas.groups, formulas.functions):
            known: dict[Block, Known] = {}
            for inner in list(op.walk()) if table else ():
                formula = table.get(type(inner))
                block = inner.parent
                if formula and block and isinstance(element_of(inner.results[0].type), Float32Type):
                    lower(inner, formula, known.setdefault(block, {}))


def lower(op: Operation, formula: Formula, known: Known) -> None:
    """Puts the formula's ops in place of `op`, and of those before it that only `op` needed."""
    emitter = Emitter(op, known)
    result = formula(*(Value(operand, emitter) for operand in op.operands))
    if result is None:
        return
    name = op.results[0].name_hint
    if name and not result.ssa.name_hint:
        result.ssa.name_hint = name
    op.results[0].replace_all_uses_with(result.ssa)
    erase_unused(op)


def erase_unused(op: Operation) -> None:
    """Erases an op without uses, and then those of its operands that have none left."""
    operands = [operand.owner for operand in op.operands]
    op.detach()
    op.erase()
    for owner in dict.fromkeys(operands):
        if isinstance(owner, Operation) and is_trivially_dead(owner):
            erase_unused(owner)
