"""`panel-inputs`: what a matrix unit reads lies as its tiles do, in panels of columns.

    %c = kaoken.cast %x : tensor<?x768xf32> -> tensor<?x768xbf16>
    %y = kaoken.linear %c, %w {schedule = #kaoken.schedule<... tensorize(m_in_in, n1, k) ...>}
->
    %c = kaoken.cast %x {kaoken.panel = 32 : i64} : tensor<?x768xf32> -> tensor<?x768xbf16>

A tile of the unit holds some rows of one cache line each. Rows of a model's width lie so far apart
that those of a tile share a few sets of the first cache, and a CPU does not fetch them ahead; in
panels, memory [columns / 32, rows, 32], a tile is one piece. Whoever writes panel after panel, as a
linear layer does, also writes one piece. On a Sapphire Rapids BERT-base of bf16 gains a tenth with
two threads; with one it is the reading of weights that takes the time.

The type of the tensor stays; `lower-to-loops` obeys the attribute, in the kernel that writes the
tensor and in those that read it. All of these must be linear layers whose sums go to the unit.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, bf16, i64
from xdsl.ir import SSAValue, Use
from xdsl.passes import ModulePass

from kaoken.dialect.base import KaokenOp, tensor_type
from kaoken.dialect.nn import NARROW, AttentionOp, LinearOp
from kaoken.dialect.quant import QuantizeOp
from kaoken.dialect.tensor import CastOp
from kaoken.dtypes import numpy_dtype
from kaoken.passes.bake import BakePass
from kaoken.passes.choose_schedule import target_of
from kaoken.passes.lowering.cached_attention import reads_caches
from kaoken.passes.lowering.linear import WORD_BYTES
from kaoken.passes.lowering.panels import PANEL


@dataclass(frozen=True)
class PanelInputsPass(ModulePass):
    """Have the inputs of layers that a matrix unit computes lie in panels."""

    name = "panel-inputs"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        unit = target_of(op).matrix_unit
        if unit is None:
            return
        BakePass().apply(ctx, op)
        for inner in op.walk():
            if not isinstance(inner, KaokenOp) or not _may_be_read_so(inner.result):
                continue
            element = tensor_type(inner.result).element_type
            columns = unit.depth * WORD_BYTES // numpy_dtype(element).itemsize
            if _can_write(inner, columns):
                inner.attributes[PANEL] = IntegerAttr(columns, i64)


def _may_be_read_so(value: SSAValue) -> bool:
    """Whether all users are layers of the matrix unit, and read it as their input alone."""
    return tensor_type(value).element_type in NARROW and all(map(_is_input, value.uses))


def _is_input(use: Use) -> bool:
    op = use.operation
    if not isinstance(op, LinearOp) or op.operands[use.index] is not op.input or use.index:
        return False
    on_unit = op.schedule is not None and bool(op.schedule.all("tensorize"))
    return on_unit and op.is_packed and op.format is None


def _can_write(op: KaokenOp, columns: int) -> bool:
    """Whether the kernel of an op knows how to write panels of so many columns."""
    shape = tensor_type(op.result).get_shape()
    if len(shape) < 2 or shape[-1] < 0 or shape[-1] % columns:
        return False
    if isinstance(op, LinearOp):
        return op.is_packed and tensor_type(op.weight).get_shape()[2] == columns
    if isinstance(op, AttentionOp):
        panels = [] if op.schedule is None else [d.args[0] for d in op.schedule.all("panel")]
        value_size = tensor_type(op.value).get_shape()[-1] // op.kv_heads
        return panels == [columns] and value_size % columns == 0 and not reads_caches(op)
    return isinstance(op, QuantizeOp) or (
        isinstance(op, CastOp) and tensor_type(op.result).element_type == bf16
    )
