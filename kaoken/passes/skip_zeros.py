"""`skip-zeros`: list which inputs of a single row are not zero, where the schedule says `skip(k)`.

    %y = kaoken.linear %x, %w {density = 0.1 : f64, schedule = #kaoken.schedule<..., skip(k), ...>}
         : tensor<?x3072xf32>, tensor<768x3072xf32> -> tensor<?x768xf32>
->
    %z = kaoken.nonzeros %x {block = 256 : i64} : tensor<?x3072xf32> -> tensor<3101xi32>
    %y = kaoken.linear %x, %w nonzeros %z : tensor<3101xi32> {schedule = ...} : ...

A layer of one row then reads the weights of those steps alone: behind a ReLU that is often a tenth
of them. No result changes, as a term of zero changes no sum; a weight that is NaN or infinite would
show: such layers are left alone. More rows than one are multiplied as before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects import arith
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr, ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from kaoken.dialect.attributes import Directive, ScheduleAttr, int_attr
from kaoken.dialect.base import tensor_type
from kaoken.dialect.canonicalization.rules import linear_like
from kaoken.dialect.formats import WORD_BYTES
from kaoken.dialect.nn import BLOCK_EXTRA, LinearOp, WeightOp
from kaoken.dialect.sparsity import NonzerosOp
from kaoken.dtypes import dense_array
from kaoken.passes.choose_schedule import ChooseSchedulePass, numbers_of_step
from kaoken.passes.lowering.linear import SUM_BLOCK
from kaoken.weights import store_of


@dataclass(frozen=True)
class SkipZerosPass(ModulePass):
    """Give linear layers that skip zeros the list of what is left."""

    name = "skip-zeros"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        layers = [layer for layer in op.walk() if isinstance(layer, LinearOp)]
        if any(layer.density is not None and layer.schedule is None for layer in layers):
            ChooseSchedulePass().apply(ctx, op)
        for layer in layers:
            layer.density = None
            if layer.schedule is None or not layer.schedule.all("skip"):
                continue
            if layer.nonzeros is None and _is_finite(layer, op):
                _list_inputs(layer)


def _is_finite(layer: LinearOp, module: ModuleOp) -> bool:
    """Whether no number of the weight could show in a term of zero."""
    parts = (layer.weight, layer.weight_scale, layer.weight_min, layer.weight_supers)
    return all(_numbers_are_finite(part, module) for part in parts if part is not None)


def _numbers_are_finite(value: SSAValue, module: ModuleOp) -> bool:
    match value.owner:
        case WeightOp() as weight:
            numbers = store_of(module)[weight.key.data]
        case arith.ConstantOp(value=DenseIntOrFPElementsAttr() as dense):
            numbers = dense_array(dense)
        case _:
            return False
    return bool(np.isfinite(numbers.astype(np.float32)).all())


def _list_inputs(layer: LinearOp) -> None:
    block, words = _steps(layer)
    sizes = {"block": int_attr(block), "words": int_attr(words)}
    listed = NonzerosOp.make([layer.input], sizes)
    listed.result.name_hint = "nonzeros"
    listed.attributes["schedule"] = ScheduleAttr((Directive("parallel", ("m",)),))
    changed = linear_like(layer, layer.result.type, {"nonzeros": listed.result})
    Rewriter.replace_op(layer, [listed, changed], [changed.result])


def _steps(layer: LinearOp) -> tuple[int, int]:
    """Steps of a block of the sum, and numbers or words of a step."""
    numbers = numbers_of_step(layer) or 1
    if layer.format is None:
        return SUM_BLOCK, numbers
    words = tensor_type(layer.input).get_shape()[-1] - BLOCK_EXTRA
    return words * WORD_BYTES // numbers, numbers // WORD_BYTES
