"""`migrate-scales`: make the inputs of linear layers easier to quantise, in full precision.

    %n = kaoken.layer_norm %h, %g bias %b                     # 1. what makes the input takes 1/s
    %o = kaoken.observe %n, %r
    %y = kaoken.linear %o, %w
->
    %n = kaoken.layer_norm %h, (%g * %f) bias (%b * %f)       # %f = 1/s, a number for each channel
    %o = kaoken.observe %n, (%r * %f)
    %y = kaoken.linear %o, (%w * %s)

    %n = kaoken.layer_norm %h, %g bias %b                     # 2. others read the norm too
    %o = kaoken.observe %n, %r
->
    %m = kaoken.elementwise mul %n, %f                        # `quantize` takes it over
    %o = kaoken.observe %m, (%r * %f)

A few channels of a norm's result are many times as large as the rest, and set the step of the
row. s makes them smaller and their weights larger (SmoothQuant, Xiao et al., 2022, equation 4):
s[k] = max |x[k]| ** alpha / max |w[k]| ** (1 - alpha), divided by its geometric mean. The products
of the layer are the same numbers. Besides norms, 1/s goes into the values of an attention, into
one factor of a product (SwiGLU) and through a ReLU, where nothing else reads them. All of it is
folded into weights but the product of the second form. A table that is the layer's weight too stays
one with it: its rows are those of (%w * %s), times 1/s.

Applied again, s is 1, since its formula gives 1 for what it has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, f32
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from kaoken.analysis.constants import hoist_constants
from kaoken.analysis.tied import look_ups, root_of
from kaoken.backend.machine import TargetMachine
from kaoken.dialect.attributes import Activation, Function, FunctionAttr, Norm, ShapeAttr, int_attr
from kaoken.dialect.base import KaokenOp, shaped, tensor_type
from kaoken.dialect.canonicalization.rules import linear_like, reshape_to
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import AttentionOp, EmbeddingOp, LayerNormOp, LinearOp, RmsNormOp, WeightOp
from kaoken.dialect.quant import ObserveOp
from kaoken.dialect.tensor import ElementwiseOp, SliceOp
from kaoken.passes.baking.folding import source_key
from kaoken.passes.baking.scales import Columns, scalable_columns, scale_columns
from kaoken.passes.baking.workspace import Workspace
from kaoken.passes.calibrate import CalibratePass

_LEAST = 1e-3
"""Channels count as at least this part of the largest one: a silent channel is no reason to act."""
_SETTLED = 0.02
"""Scales that all are this near to 1 are left alone."""

Take = Callable[[SSAValue], None]
"""Makes what a value is made of take over a factor for each of its channels."""


@dataclass(frozen=True)
class MigrateScalesPass(ModulePass):
    """Move the scales of uneven channels from activations into weights."""

    name = "migrate-scales"

    alpha: float | None = None
    """How much of a channel's size goes into the weights: 0 none of it, 1 all. By default 0.7, and
    0.5 where the target has `quantize` make weights of seven bits, whose steps are coarser."""

    target: str | None = None
    """What runs the model, if it is known."""

    @property
    def _alpha(self) -> float:
        if self.alpha is not None:
            return self.alpha
        is_quick = self.target is None or TargetMachine.parse(self.target).has_quick_bytes
        return 0.7 if is_quick else 0.5

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        CalibratePass().apply(ctx, op)
        work = Workspace(op)
        for function in op.ops:
            if isinstance(function, FuncOp):
                for block in function.body.blocks:
                    for observe in [o for o in block.ops if isinstance(o, ObserveOp)]:
                        _migrate(observe, self._alpha, work)
        work.commit()


def _migrate(op: ObserveOp, alpha: float, work: Workspace) -> None:
    readers = [use.operation for use in op.result.uses]
    if not all(isinstance(r, LinearOp) and r.input is op.result for r in readers):
        return
    found = _producer(op.input)
    if found is None or tensor_type(op.input).element_type != f32:
        return
    take, heads = found
    linears = [r for r in readers if isinstance(r, LinearOp)]
    weights = list(dict.fromkeys(r.weight for r in linears))
    range_ = work.value(op.range)
    sizes = np.abs(range_[:2]).max(0)
    columns = np.max([np.abs(work.value(w)).max(0) for w in weights], axis=0)
    s = _scales(_shared(sizes, heads), _shared(columns, heads), alpha)
    if np.abs(np.log(s)).max() < _SETTLED:
        return
    _apply(op, take, linears, s, work)


def _scales(x: np.ndarray, w: np.ndarray, alpha: float) -> np.ndarray:
    """s for channels of these sizes, as float32."""
    x, w = (
        np.log(np.maximum(v, v.max() * _LEAST + 1e-30)) for v in (x.astype("f8"), w.astype("f8"))
    )
    powers = alpha * x - (1 - alpha) * w
    return np.exp(powers - powers.mean()).astype(np.float32)


def _shared(sizes: np.ndarray, heads: tuple[int, int]) -> np.ndarray:
    """The largest of the channels that must have one scale: the heads of one key head."""
    kv_heads, group = heads
    by_head = sizes.reshape(kv_heads, group, -1).max(1, keepdims=True)
    return np.broadcast_to(by_head, (kv_heads, group, by_head.shape[-1])).reshape(-1)


def _apply(
    op: ObserveOp, take: Take, linears: list[LinearOp], s: np.ndarray, work: Workspace
) -> None:
    block = op.parent
    assert block is not None
    key = source_key(linears[0].weight)
    up = _constant(op, work.add(f"{key}.migrated", s), s)
    down = _constant(op, work.add(f"{key}.migrated_inverse", 1 / s), s)
    hoist_constants(block)
    take(down)
    range_ = _product(op, op.range, down)
    op.operands[1] = range_
    products: dict[SSAValue, SSAValue] = {}
    for linear in linears:
        if linear.weight not in products:
            products[linear.weight] = _product(op, linear.weight, up)
        linear.operands[1] = products[linear.weight]
    for weight, product in products.items():
        for look_up in look_ups(root_of(op), weight):
            _keep_tied(look_up, product, down)


def _keep_tied(op: EmbeddingOp, table: SSAValue, down: SSAValue) -> None:
    """Rows of the table that the layer has now, times what gives those that it had.

    The encoder of a T5 looks rows up in the table that the decoder's layer of logits multiplies.
    """
    block = op.parent
    assert block is not None
    table, down = (_in_block(value, op) for value in (table, down))
    rows = _insert(op, EmbeddingOp.make([table, op.indices]))
    Rewriter.replace_op(op, [], [_product(op, rows, down)])
    hoist_constants(block)


def _in_block(value: SSAValue, before: Operation) -> SSAValue:
    """A constant of any function as a value of this op's block."""
    owner = value.owner
    assert isinstance(owner, KaokenOp)
    if owner.parent is before.parent:
        return value
    return _insert(before, owner.clone({v: _in_block(v, before) for v in owner.operands}))


def _constant(before: Operation, key: str, array: np.ndarray) -> SSAValue:
    return _insert(before, WeightOp(key, shaped((Dim.of(len(array)),), f32)))


def _product(before: Operation, value: SSAValue, factor: SSAValue) -> SSAValue:
    multiply = {"function": FunctionAttr(Function.MUL)}
    return _insert(before, ElementwiseOp.make([[value, factor]], multiply))


def _insert(before: Operation, op: KaokenOp) -> SSAValue:
    Rewriter.insert_op(op, InsertPoint.before(before))
    return op.result


# ---- what can take over a factor ----


def _producer(value: SSAValue) -> tuple[Take, tuple[int, int]] | None:
    """How what makes a value takes over factors, and (key heads, heads that share each)."""
    owner = value.owner
    if isinstance(owner, LayerNormOp | RmsNormOp):
        return (_norm(owner) if value.has_one_use() else _multiplied(value)), (1, 1)
    if isinstance(owner, LinearOp) and owner.norm.data is not Norm.NONE:
        return (_norm_epilogue(owner) if value.has_one_use() else _multiplied(value)), (1, 1)
    if not value.has_one_use():
        return None
    if isinstance(owner, AttentionOp):
        columns = scalable_columns(owner.value)
        heads = owner.kv_heads, owner.heads // owner.kv_heads
        return None if columns is None else (_columns(columns, heads), heads)
    if isinstance(owner, ElementwiseOp) and owner.function.data is Function.MUL:
        choices = (scalable_columns(factor) for factor in owner.inputs)
    else:
        choices = iter([scalable_columns(value, through=Activation.RELU)])
    columns = next((c for c in choices if c is not None), None)
    return None if columns is None else (_columns(columns, (1, 1)), (1, 1))


def _norm(op: LayerNormOp | RmsNormOp) -> Take:
    def take(factor: SSAValue) -> None:
        for i in range(1, len(op.operands)):
            op.operands[i] = _product(op, op.operands[i], factor)

    return take


def _norm_epilogue(op: LinearOp) -> Take:
    def take(factor: SSAValue) -> None:
        assert op.norm_weight is not None
        operands = {"norm_weight": _product(op, op.norm_weight, factor)}
        if op.norm_bias is not None:
            operands["norm_bias"] = _product(op, op.norm_bias, factor)
        Rewriter.replace_op(op, linear_like(op, op.result.type, operands))

    return take


def _multiplied(value: SSAValue) -> Take:
    """Others read the value as it is: a product of its own, for the observed one alone."""

    def take(factor: SSAValue) -> None:
        observe = next(use.operation for use in value.uses if isinstance(use.operation, ObserveOp))
        observe.operands[0] = _product(observe, value, factor)

    return take


def _columns(columns: Columns, heads: tuple[int, int]) -> Take:
    linear, start, stop = columns
    groups, group = heads
    size = (stop - start) // groups

    def take(factor: SSAValue) -> None:
        if group > 1:  # All heads of a group have the same factors: those of the first one.
            by_group = _insert(linear, reshape_to(factor, (Dim.of(groups), Dim.of(group * size))))
            first = {"dim": int_attr(1), "range": ShapeAttr((Dim.of(0), Dim.of(size)))}
            part = _insert(linear, SliceOp.make([by_group], first))
            factor = _insert(linear, reshape_to(part, (Dim.of(stop - start),)))
        scale_columns(columns, factor)

    return take
