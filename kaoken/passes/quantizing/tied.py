"""Tied tables take the numbers of the layer that multiplies them too, so that one copy is stored.

    %x = kaoken.embedding %w, %ids : tensor<49152x576xf32>, tensor<1x?xi64> -> tensor<1x?x576xf32>
    %y = kaoken.linear %h, %w                                     # will read bf16
->
    %n = kaoken.cast %w : tensor<49152x576xf32> -> tensor<49152x576xbf16>
    %r = kaoken.embedding %n, %ids : ... -> tensor<1x?x576xbf16>
    %x = kaoken.cast %r : tensor<1x?x576xbf16> -> tensor<1x?x576xf32>

or with eight bits (or seven, as the layer's), where each row has a scale:

    %s = kaoken.row_scale %w : tensor<49152x576xf32> -> tensor<49152xf32>
    %q = kaoken.quantize %w scale %s : ... -> tensor<49152x576xi8>
    %x = kaoken.elementwise mul (kaoken.cast (kaoken.embedding %q, %ids)),
           (kaoken.embedding (kaoken.reshape %s to <[49152, 1]>), %ids)

Tables of few bits are codes already (`quantizing/few_bits.py`).
"""

from __future__ import annotations

from collections.abc import Iterable

from xdsl.dialects.builtin import ModuleOp, bf16, f32
from xdsl.ir import SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from kaoken.analysis.tied import identity, look_ups
from kaoken.dialect.attributes import Function, FunctionAttr, int_attr
from kaoken.dialect.base import KaokenOp, tensor_type
from kaoken.dialect.canonicalization.rules import reshape_to
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import EmbeddingOp, LinearOp
from kaoken.dialect.quant import QuantizeOp, RowScaleOp
from kaoken.dialect.tensor import CastOp, ElementwiseOp


def narrow_tied_tables(module: ModuleOp, layers: Iterable[LinearOp], dtype: str, bits: int) -> None:
    """Let look-ups read what `layers`, which are to be narrowed to a dtype, will read: to so many
    bits where it is int8."""
    weights = {identity(layer.weight): layer.weight for layer in layers}
    for op in [op for weight in weights.values() for op in look_ups(module, weight)]:
        if tensor_type(op.table).element_type == f32 and not op.is_packed:
            value = _rounded(op) if dtype == "bf16" else _scaled(op, bits)
            value.name_hint = op.result.name_hint
            Rewriter.replace_op(op, [], [value])


def _rounded(op: EmbeddingOp) -> SSAValue:
    table = _insert(op, CastOp.to(op.table, bf16))
    return _insert(op, CastOp.to(_insert(op, EmbeddingOp.make([table, op.indices])), f32))


def steps_of_rows(weight: SSAValue, bits: int) -> tuple[RowScaleOp, QuantizeOp]:
    """What a step of each row of a weight is worth, and the rows as signed codes of `bits`."""
    properties = {"bits": int_attr(bits)}
    scale = RowScaleOp.make([weight], properties)
    return scale, QuantizeOp.make([weight, scale.result], properties)


def _scaled(op: EmbeddingOp, bits: int) -> SSAValue:
    scale, steps = (_insert(op, new) for new in steps_of_rows(op.table, bits))
    column = _insert(op, reshape_to(scale, (Dim.of(op.table_shape[0]), Dim.of(1))))
    rows, scales = (_insert(op, EmbeddingOp.make([table, op.indices])) for table in (steps, column))
    factors = [_insert(op, CastOp.to(rows, f32)), scales]
    return _insert(op, ElementwiseOp.make([factors], {"function": FunctionAttr(Function.MUL)}))


def _insert(before: EmbeddingOp, op: KaokenOp) -> SSAValue:
    Rewriter.insert_op(op, InsertPoint.before(before))
    return op.result
