"""Matrix products between reshapes, as torch's `bmm` form of attention has them.

reshape(matmul(reshape(a [B, H, S, K] to [B*H, S, K]), reshape(b)))  -> matmul(a, b)
"""

from __future__ import annotations

from xdsl.ir import SSAValue

from kaoken.dialect.canonicalization.rules import owner
from kaoken.dialect.nn import MatmulOp
from kaoken.dialect.tensor import BroadcastOp, ReshapeOp
from kaoken.frontend.graph import Graph
from kaoken.frontend.recognise.matching import Recogniser


def batched(g: Graph, op: MatmulOp) -> SSAValue | None:
    """A product of two tensors whose leading dimensions were merged, on the unmerged ones."""
    sides = [owner(v, ReshapeOp) for v in (op.lhs, op.rhs)]
    left, right = sides
    if left is None or right is None or not (_merges(g, left) and _merges(g, right)):
        return None
    if g.shape(left.input)[:-2] != g.shape(right.input)[:-2]:
        return None
    flag = bool(op.transpose_rhs.value.data)
    product = g.matmul(_unexpanded(g, left.input), _unexpanded(g, right.input), flag)
    return g.reshape(product, g.shape(op.result))


def _merges(g: Graph, op: ReshapeOp) -> bool:
    """True if a reshape only merges dimensions before the last two."""
    before, after = g.shape(op.input), g.shape(op.result)
    return len(before) > len(after) == 3 and before[-2:] == after[-2:]


def _unexpanded(g: Graph, value: SSAValue) -> SSAValue:
    """The source of a broadcast to the same rank, which a product does by itself."""
    op = owner(value, BroadcastOp)
    return op.input if op is not None and g.rank(op.input) == g.rank(value) else value


RULES = [Recogniser(MatmulOp, batched)]
