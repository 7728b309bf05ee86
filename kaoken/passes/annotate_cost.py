"""`annotate-cost`: write on each op how many operations and bytes it takes, for its timer.

    %y = kaoken.linear %x, %w : tensor<?x384xf32>, tensor<1536x384xf32> -> tensor<?x1536xf32>
->
    %y = kaoken.linear %x, %w {kaoken.cost = {flops = "1179648*tokens",
           bytes = "7680*tokens + 2359296", precision = "fp32"}} : ...

`lower-to-loops` hands the attribute on to the call of the op's kernel. `instrument` needs it; no
other pass looks at it. It comes after `outline`, which must not see it.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.passes import ModulePass

from kaoken.analysis.cost import append_cost_of, combine_cost_of, cost_of, norm_cost_of
from kaoken.analysis.shapes import symbolic_shapes
from kaoken.dialect.attributes import Norm
from kaoken.dialect.base import KaokenOp
from kaoken.dialect.decoder import CacheAppendOp
from kaoken.dialect.nn import AttentionOp, LinearOp, WeightOp
from kaoken.dialect.tensor import ReshapeOp
from kaoken.passes.lowering.cached_attention import reads_caches

COST = "kaoken.cost"
NORM_COST = "kaoken.norm_cost"
"""Of the norm epilogue of a linear layer, which has a kernel of its own."""
COMBINE_COST = "kaoken.combine_cost"
"""Of putting together the parts of cached attention, which has one too."""


@dataclass(frozen=True)
class AnnotateCostPass(ModulePass):
    """Write each op's floating-point operations and bytes on it."""

    name = "annotate-cost"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for function in op.ops:
            if isinstance(function, FuncOp) and function.body.blocks:
                _annotate(function)


def _annotate(function: FuncOp) -> None:
    inner = [op for op in function.walk() if isinstance(op, KaokenOp | CacheAppendOp)]
    ops = [op for op in inner if not isinstance(op, WeightOp | ReshapeOp)]
    if not ops or not any(isinstance(t, TensorType) for t in function.function_type.outputs):
        return
    shapes = symbolic_shapes(function)
    for op in ops:
        if isinstance(op, CacheAppendOp):
            op.attributes[COST] = append_cost_of(op, shapes).attribute()
            continue
        op.attributes[COST] = cost_of(op, shapes).attribute()
        if isinstance(op, LinearOp) and op.norm.data is not Norm.NONE:
            op.attributes[NORM_COST] = norm_cost_of(op, shapes).attribute()
        if isinstance(op, AttentionOp) and reads_caches(op):
            op.attributes[COMBINE_COST] = combine_cost_of(op, shapes).attribute()
