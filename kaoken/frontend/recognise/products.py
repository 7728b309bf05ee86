"""Matrix products in torch's `bmm` form: leading dimensions merged, operands expanded.

reshape(matmul(a [B*H, S, K], b [B*H, K, T]) to [B, H, S, T])
                              -> matmul(reshape a to [B, H, S, K], reshape b to [B, H, K, T])
matmul(a, broadcast(b))       -> matmul(a, b)
"""

from __future__ import annotations

from xdsl.ir import SSAValue

from kaoken.dialect.canonicalization.rules import owner
from kaoken.dialect.nn import MatmulOp, broadcast_shapes
from kaoken.dialect.tensor import BroadcastOp, ReshapeOp
from kaoken.frontend.graph import Graph
from kaoken.frontend.recognise.matching import Recogniser


def split_batch(g: Graph, op: ReshapeOp) -> SSAValue | None:
    """A product whose leading dimension is split afterwards, of operands split before."""
    matmul = owner(op.input, MatmulOp)
    if matmul is None or not op.input.has_one_use():
        return None
    before, after = g.shape(op.input), g.shape(op.result)
    if len(before) != 3 or len(after) < 4 or before[-2:] != after[-2:]:
        return None
    operands = (matmul.lhs, matmul.rhs)
    if any(g.shape(v)[:-2] != before[:-2] for v in operands):
        return None
    lhs, rhs = (g.reshape(v, (*after[:-2], *g.shape(v)[-2:])) for v in operands)
    return g.matmul(lhs, rhs, bool(matmul.transpose_rhs.value.data))


def unexpanded(g: Graph, op: MatmulOp) -> SSAValue | None:
    """A product without the broadcasts of leading dimensions that it does itself."""
    lhs, rhs = _source(g, op.lhs), _source(g, op.rhs)
    if lhs is op.lhs and rhs is op.rhs:
        return None
    lead = broadcast_shapes(g.shape(lhs)[:-2], g.shape(rhs)[:-2])
    if lead != g.shape(op.result)[:-2]:
        return None
    return g.matmul(lhs, rhs, bool(op.transpose_rhs.value.data))


def _source(g: Graph, value: SSAValue) -> SSAValue:
    op = owner(value, BroadcastOp)
    if op is None or g.rank(op.input) < 2 or g.shape(op.input)[-2:] != g.shape(value)[-2:]:
        return value
    return op.input


RULES = [Recogniser(ReshapeOp, split_batch), Recogniser(MatmulOp, unexpanded)]
