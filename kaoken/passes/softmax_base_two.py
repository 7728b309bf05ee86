"""`softmax-base-two`: attention takes powers of two, which cost less than those of e.

    %y = kaoken.attention %q, %k, %v {scale = 0.125}
->
    %y = kaoken.attention %q, %k, %v {scale = 0.18033688, base_two}     # 0.125 * log2(e)

exp(s - max) is 2 ** (log2(e) s - log2(e) max), so the factor goes where scores come from: the
scale, which `bake` folds into the query's weights, and a bias of distances. An exponential then
needs no products with ln 2 in two parts. Attention stays as it is where another factor would cost
a pass of its own or accuracy: float masks, capped scores, factors rounded to bf16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from xdsl.builder import Builder
from xdsl.context import Context
from xdsl.dialects.builtin import Float32Type, ModuleOp, UnitAttr, i1
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint

from kaoken.analysis.constants import is_constant
from kaoken.dialect.attributes import Function, FunctionAttr, float_attr
from kaoken.dialect.base import tensor_type
from kaoken.dialect.nn import AttentionOp
from kaoken.dialect.tensor import ElementwiseOp
from kaoken.frontend.graph import Graph

LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class SoftmaxBaseTwoPass(ModulePass):
    """Have attention's softmax take powers of two."""

    name = "softmax-base-two"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for inner in list(op.walk()):
            if isinstance(inner, AttentionOp) and _may_change(inner):
                _change(inner)


def _may_change(op: AttentionOp) -> bool:
    if op.base_two or op.softcap is not None or op.bf16_products is not None:
        return False
    factors = (op.query, op.key, op.value)
    is_wide = all(isinstance(tensor_type(x).element_type, Float32Type) for x in factors)
    has_bool_mask = op.mask is None or tensor_type(op.mask).element_type == i1
    return is_wide and has_bool_mask and (op.position_bias is None or is_constant(op.position_bias))


def _change(op: AttentionOp) -> None:
    if op.position_bias is not None:
        index = list(op.operands).index(op.position_bias)
        op.operands[index] = _times_log2_e(op.position_bias, op)
    op.scale = float_attr(op.scale.value.data * LOG2_E)
    op.base_two = UnitAttr()


def _times_log2_e(value: SSAValue, before: AttentionOp) -> SSAValue:
    graph = Graph(Builder(InsertPoint.before(before)))
    factor = graph.full(LOG2_E, tensor_type(value).element_type)
    return graph.make(ElementwiseOp, [[value, factor]], {"function": FunctionAttr(Function.MUL)})
