"""Tied tables: weights of a linear layer in which rows are looked up as well."""

from __future__ import annotations

from xdsl.ir import Operation, SSAValue

from kaoken.dialect.base import KaokenOp
from kaoken.dialect.nn import EmbeddingOp, LinearOp, WeightOp


def look_ups(root: Operation, weight: SSAValue) -> list[EmbeddingOp]:
    """The look-ups inside `root` in a weight, which must be a plain one, [V, H]."""
    name = identity(weight)
    return [op for op in root.walk() if isinstance(op, EmbeddingOp) and identity(op.table) == name]


def is_tied(op: LinearOp) -> bool:
    """Whether rows of the layer's weight are looked up anywhere in its module."""
    return bool(look_ups(root_of(op), op.weight))


def root_of(op: Operation) -> Operation:
    """The module around an op."""
    while (parent := op.parent_op()) is not None:
        op = parent
    return op


def identity(weight: SSAValue) -> object:
    """What tells constants apart: keys in the store and what is made of them, or the value."""
    owner = weight.owner
    if isinstance(owner, WeightOp):
        return owner.key.data
    if not isinstance(owner, KaokenOp):
        return weight
    return owner.name, tuple(owner.properties.items()), tuple(map(identity, owner.operands))
