"""Which rules simplify which op: what xDSL's `canonicalize` runs on the `kaoken` dialect.

    %h = kaoken.reshape %x to <[batch, tokens, 12, 32]>            # heads taken apart ..
    %t = kaoken.transpose %h array<i64: 0, 2, 1, 3>
    %u = kaoken.transpose %t array<i64: 0, 2, 1, 3>
    %y = kaoken.reshape %u to <[batch, tokens, 384]>               # .. and put together again
->
    %x

The rules sit in kaoken/dialect/canonicalization: `movement`, `arithmetic`, `layers`. None undoes
what another does: movements only vanish or sink towards the results.
"""

from __future__ import annotations

from functools import cache

from xdsl.ir import Operation
from xdsl.pattern_rewriter import RewritePattern

from kaoken.dialect import nn, tensor
from kaoken.dialect.canonicalization import arithmetic, layers, movement
from kaoken.dialect.canonicalization.rules import Rule

_RULES = {
    tensor.ReshapeOp: (
        movement.drop_reshape,
        movement.merge_reshapes,
        movement.fold_full,
    ),
    tensor.TransposeOp: (
        movement.drop_transpose,
        movement.merge_transposes,
        movement.fold_full,
        movement.merge_transposes_around_reshape,
    ),
    tensor.SliceOp: (
        movement.drop_slice,
        movement.merge_slices,
        movement.slice_one_input,
        movement.fold_full,
    ),
    tensor.ConcatOp: (movement.simplify_concat,),
    tensor.BroadcastOp: (
        movement.drop_broadcast,
        movement.merge_broadcasts,
        movement.fold_full,
    ),
    tensor.CastOp: (
        arithmetic.drop_cast,
        arithmetic.merge_casts,
        arithmetic.fold_cast_of_full,
    ),
    tensor.ElementwiseOp: (
        arithmetic.fold_fulls,
        arithmetic.drop_neutral,
        arithmetic.absorb,
        arithmetic.drop_select,
        arithmetic.drop_repetition,
        arithmetic.shrink_operands,
        layers.absorb_bias,
        layers.sink_reshapes_below_elementwise,
    ),
    nn.LinearOp: (layers.sink_reshape_below_linear,),
    nn.MatmulOp: (layers.absorb_transpose, layers.matmul_by_weight),
    nn.AttentionOp: (layers.shrink_mask,),
    nn.ActivationOp: (layers.sink_reshape_below_row_op,),
    nn.LayerNormOp: (layers.sink_reshape_below_row_op,),
    nn.RmsNormOp: (layers.sink_reshape_below_row_op,),
}


@cache
def patterns_of(op_type: type[Operation]) -> tuple[RewritePattern, ...]:
    """The canonicalization patterns of an op class."""
    return tuple(
        Rule(function)
        for kind, functions in _RULES.items()
        if issubclass(op_type, kind)
        for function in functions
    )
