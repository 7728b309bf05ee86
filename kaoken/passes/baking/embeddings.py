"""Look-ups whose ids are known: the movements of the ids move to the result, the rest folds.

    %ids = kaoken.slice %position_ids <[0, tokens]> {dim = 1}      # 0, 1, 2 ... for every call
    %y = kaoken.embedding %table, %ids
->
    %all = kaoken.embedding %table, %position_ids                  # a weight, after folding
    %y = kaoken.slice %all <[0, tokens]> {dim = 1}
"""

from __future__ import annotations

from xdsl.dialects.builtin import DictionaryAttr, IntegerAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue

from kaoken.analysis.constants import is_constant
from kaoken.analysis.value_shapes import shape_of
from kaoken.dialect.attributes import ShapeAttr, int_attr
from kaoken.dialect.canonicalization.rules import Replacement, like
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import EmbeddingOp
from kaoken.dialect.tensor import BroadcastOp, IotaOp, ReshapeOp, SliceOp

_Movement = SliceOp | ReshapeOp | BroadcastOp


def lift_movement_of_ids(op: EmbeddingOp) -> Replacement:
    """embedding(table, move(ids)) -> move(embedding(table, ids)) where the ids are known."""
    if is_constant(op.indices) or not is_constant(op.table) or not _is_known(op.indices):
        return None
    move = op.indices.owner
    if isinstance(move, IotaOp):
        return _rows(op, move)
    assert isinstance(move, _Movement)
    inner = EmbeddingOp.make([op.table, move.input], op.properties)
    if isinstance(move, SliceOp):
        return [inner, like(op, SliceOp, [inner], move.properties)]
    shape = ShapeAttr(shape_of(op.result))
    return [inner, like(op, type(move), [inner], {"shape": shape})]


def _is_known(value: SSAValue) -> bool:
    """Whether a value is a constant, or 0, 1, 2 ..., sliced, reshaped or broadcast."""
    while isinstance(value.owner, _Movement) and not is_constant(value):
        value = value.owner.input
    return isinstance(value.owner, IotaOp) or is_constant(value)


def _rows(op: EmbeddingOp, iota: IotaOp) -> Replacement:
    """The first rows of the table, where the declared maxima say that there are enough."""
    start = Dim.of(iota.start.value.data)
    stop = start + iota.shape.data[0]
    last = _maximum(op, stop)
    if last is None or last > op.table_shape[0] or iota.start.value.data < 0 or op.is_packed:
        return None
    properties = {"dim": int_attr(0), "range": ShapeAttr((start, stop))}
    return [like(op, SliceOp, [op.table], properties)]


def _maximum(op: Operation, size: Dim) -> int | None:
    """The largest value of a size, from the function's `kaoken.max`."""
    function = op.parent_op()
    declared = function.attributes.get("kaoken.max") if isinstance(function, FuncOp) else None
    values = declared.data if isinstance(declared, DictionaryAttr) else {}
    maxima = {k: v.value.data for k, v in values.items() if isinstance(v, IntegerAttr)}
    if not size.symbols <= maxima.keys() or any(c < 0 for _, c in size.terms):
        return None
    return size.evaluate(maxima)
