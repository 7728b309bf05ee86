"""Which dimension of each value counts the tokens of a text, where every token is on its own.

    %1 = kaoken.embedding %table, %ids : ... -> tensor<1x?x64xf32>          # tokens along 1
    %2 = kaoken.transpose %1 [0, 2, 1] : ... -> tensor<1x64x?xf32>          # tokens along 2
    %3 = kaoken.reduce sum %2 over [2] : ... -> tensor<1x64xf32>            # mixes tokens

Row i of a value, along its token dimension, depends on row i of the op's operands alone. Causal
attention is the one exception; a mask of it that follows from positions alone may be causal, and is
left to whoever can look at its numbers. So a text may be given in pieces, and only attention needs
to know what came before.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects.func import FuncOp
from xdsl.ir import SSAValue

from kaoken.analysis.value_shapes import shape_of
from kaoken.dialect.attributes import Shape
from kaoken.dialect.base import KaokenOp
from kaoken.dialect.decoder import RopeOp
from kaoken.dialect.dims import Dim, product
from kaoken.dialect.nn import (
    ActivationOp,
    AttentionOp,
    EmbeddingOp,
    LinearOp,
    MatmulOp,
    NormalizeOp,
    RowNormOp,
    SoftmaxOp,
    WeightOp,
)
from kaoken.dialect.quant import FakeQuantizeOp
from kaoken.dialect.tensor import (
    BroadcastOp,
    CastOp,
    ConcatOp,
    CumsumOp,
    ElementwiseOp,
    FullOp,
    GatherOp,
    IotaOp,
    ReduceOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
)


@dataclass(frozen=True)
class Mixed:
    """A value in which tokens are not on their own, and the op that mixes them."""

    op: KaokenOp
    reason: str


TokenDim = int | Mixed | None
"""Which dimension; None for a value that has no token in it."""

_BY_SHAPE = (
    ElementwiseOp,
    BroadcastOp,
    TransposeOp,
    CastOp,
    MatmulOp,
    ReduceOp,
    LinearOp,
    IotaOp,
    FullOp,
    SliceOp,
    WeightOp,
    RopeOp,
)
"""Ops that keep tokens apart whenever the shape of their result has tokens along one dimension."""


def token_dims(function: FuncOp, tokens: Dim) -> dict[SSAValue, TokenDim]:
    """The token dimension of every tensor in a function whose texts have `tokens` tokens."""
    found: dict[SSAValue, TokenDim] = {}
    varying = depends_on_arguments(function)
    for argument in function.args:
        places = _places(shape_of(argument), tokens)
        found[argument] = places[0] if places else None
    for op in function.body.block.ops:
        if isinstance(op, KaokenOp):
            own = [v for v in op.operands if not _is_mask_of_positions(op, v, varying)]
            found[op.result] = _of_op(op, [found[v] for v in own], tokens, varying)
        else:
            found.update(dict.fromkeys(op.results))
    return found


def _places(shape: Shape, tokens: Dim) -> list[int]:
    """Where a shape has the number of tokens in it."""
    return [i for i, dim in enumerate(shape) if dim.symbols & tokens.symbols]


def _is_mask_of_positions(op: KaokenOp, value: SSAValue, varying: set[SSAValue]) -> bool:
    """Whether a value is an attention's mask that follows from positions alone."""
    return isinstance(op, AttentionOp) and value is op.mask and value not in varying


def _of_op(op: KaokenOp, operands: list[TokenDim], tokens: Dim, varying: set[SSAValue]) -> TokenDim:
    for dim in operands:
        if isinstance(dim, Mixed):
            return dim
    shape = shape_of(op.result)
    places = _places(shape, tokens)
    if not places and all(dim is None for dim in operands):
        return None
    if len(places) != 1 or shape[places[0]] != tokens:
        return Mixed(op, "mixes tokens")
    at = places[0]
    reason = _objection(op, at, varying)
    return at if reason is None else Mixed(op, reason)


def _objection(op: KaokenOp, at: int, varying: set[SSAValue]) -> str | None:
    """Why an op whose result has tokens along `at` mixes them, or None."""
    if isinstance(op, AttentionOp):
        return _attention_objection(op, op.mask in varying)
    if isinstance(op, _BY_SHAPE) or _is_apart(op, at):
        return None
    return "mixes tokens"


def _is_apart(op: KaokenOp, at: int) -> bool:
    rank = len(shape_of(op.result))
    if isinstance(op, ReshapeOp):
        return _keeps_rows(shape_of(op.input), shape_of(op.result), at)
    if isinstance(op, ConcatOp | CumsumOp):
        return op.dim.value.data != at
    if isinstance(op, EmbeddingOp | GatherOp):
        table = op.table if isinstance(op, EmbeddingOp) else op.input
        return not _places(shape_of(table), shape_of(op.result)[at])
    if isinstance(op, SoftmaxOp | RowNormOp | NormalizeOp | FakeQuantizeOp):
        return at != rank - 1
    return isinstance(op, ActivationOp)


def _keeps_rows(before: Shape, after: Shape, at: int) -> bool:
    """Whether a reshape leaves what belongs to a token with that token."""
    (first,) = _places(before, after[at]) or [None]
    return first is not None and product(before[:first]) == product(after[:at])


def _attention_objection(op: AttentionOp, mask_varies: bool) -> str | None:
    tokens = shape_of(op.query)[1]
    if shape_of(op.key)[1] != tokens:
        hides = op.mask is not None and _places(shape_of(op.mask), tokens)
        return "has a mask that depends on the token" if hides else None
    if mask_varies:
        return "has a mask that depends on the text"
    if op.mask is None and not op.causal.value.data:
        return "sees the tokens to come: the model is an encoder"
    return None


def depends_on_arguments(function: FuncOp) -> set[SSAValue]:
    """The values that are not the same at every call of equal sizes."""
    found: set[SSAValue] = set(function.args)
    for op in function.body.block.ops:
        if any(v in found for v in op.operands):
            found.update(op.results)
    return found
