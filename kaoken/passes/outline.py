"""`outline`: equal layers become one function, called once a layer with its own weights.

    %w0 = kaoken.weight "encoder.layer.0.w"
    %w1 = kaoken.weight "encoder.layer.1.w"
    %a = (ops of layer 0 on %x, %w0)
    %b = (ops of layer 1 on %a, %w1)
->
    func.func private @encoder_layer(%x, %w) { (ops of a layer); return }

    %a = func.call @encoder_layer(%x, %w0)
    %b = func.call @encoder_layer(%a, %w1)

The cost of all later passes, and of compiling the C, then follows the number of distinct layers.
Symbolic sizes keep their names; arguments say their shapes in them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FunctionType, ModuleOp
from xdsl.dialects.func import CallOp, FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter
from xdsl.transforms.dead_code_elimination import dce

from kaoken.analysis.repeats import Window, best_repeat, op_kinds
from kaoken.analysis.shapes import MAX, RESULT_SHAPES, SHAPE, Shapes, symbolic_shapes
from kaoken.dialect.attributes import ShapeAttr
from kaoken.dialect.base import HandleType, KaokenOp
from kaoken.dialect.decoder import CacheAppendOp, CacheOp
from kaoken.dialect.nn import WeightOp


@dataclass(frozen=True)
class OutlinePass(ModulePass):
    """Turn repeated sequences of ops into calls of one function."""

    name = "outline"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        pending = [f for f in op.ops if isinstance(f, FuncOp) and f.body.blocks]
        while pending:
            function = pending.pop()
            _hoist_weights(function.body.block)
            while (layer := _outline_best(op, function)) is not None:
                pending.append(layer)
        dce(op)


_NAMES = WeightOp | CacheOp
"""Ops that name what is there already: they stand first, and each call gets its own."""


def _hoist_weights(block: Block) -> None:
    weights = [op for op in block.ops if isinstance(op, _NAMES)]
    rest = next((op for op in block.ops if not isinstance(op, _NAMES)), None)
    for op in weights if rest is not None else ():
        op.detach()
        assert rest is not None
        block.insert_op_before(op, rest)


def _outline_best(module: ModuleOp, function: FuncOp) -> FuncOp | None:
    """Outline the repetition that saves most; None when there is none."""
    ops = [op for op in function.body.block.ops if not isinstance(op, _NAMES)]
    shapes = symbolic_shapes(function)
    repeat = best_repeat(ops, op_kinds(ops, shapes, KaokenOp | CacheAppendOp))
    if repeat is None:
        return None
    windows = repeat.windows(ops)
    outputs = sorted({place for window in windows for place in window.outputs()})
    if not outputs:
        return None
    layer = _make_function(module, function, windows, outputs, shapes)
    Rewriter.insert_op(layer, InsertPoint.before(function))
    for window in windows:
        _call(layer, window, outputs)
    return layer


def _make_function(
    module: ModuleOp,
    caller: FuncOp,
    windows: Sequence[Window],
    outputs: Sequence[tuple[int, int]],
    shapes: Shapes,
) -> FuncOp:
    """A private function with the ops of the first window."""
    window = windows[0]
    prefix = _common_prefix(window)
    block = Block(arg_types=[v.type for v in window.inputs])
    mapping: dict[SSAValue, SSAValue] = dict(zip(window.inputs, block.args, strict=True))
    _name_arguments(window, block, prefix)
    for number in window.numbers:
        assert isinstance(number.owner, Operation)
        block.add_op(number.owner.clone(mapping))
    copies = [op.clone(mapping) for op in window.ops]
    results = [copies[i].results[j] for i, j in outputs]
    block.add_ops([*copies, ReturnOp(*results)])
    function = FuncOp(
        _free_name(module, _layer_name(prefix)),
        FunctionType.from_lists(block.arg_types, [v.type for v in results]),
        Region(block),
        "private",
        arg_attrs=ArrayAttr([_shape_attributes(v, shapes) for v in window.inputs]),
    )
    returned = [window.ops[i].results[j] for i, j in outputs]
    function.attributes[RESULT_SHAPES] = ArrayAttr([ShapeAttr(shapes[v]) for v in returned])
    if (maxima := caller.attributes.get(MAX)) is not None:
        function.attributes[MAX] = maxima
    return function


def _shape_attributes(value: SSAValue, shapes: Shapes) -> DictionaryAttr:
    attributes: dict[str, Attribute] = {}
    if value in shapes and not isinstance(value.type, HandleType):
        attributes[SHAPE] = ShapeAttr(shapes[value])
    return DictionaryAttr(attributes)


def _call(layer: FuncOp, window: Window, outputs: Sequence[tuple[int, int]]) -> None:
    """Replace the ops of a window by a call."""
    call = CallOp(layer.sym_name.data, window.inputs, layer.function_type.outputs.data)
    Rewriter.insert_op(call, InsertPoint.before(window.ops[0]))
    for (i, j), result in zip(outputs, call.results, strict=True):
        old = window.ops[i].results[j]
        result.name_hint = old.name_hint
        old.replace_all_uses_with(result)
    for op in reversed(window.ops):
        op.detach()
        op.erase()


def _common_prefix(window: Window) -> list[str]:
    """The leading parts that the keys of all weights of a window share."""
    keys = [v.owner.key.data.split(".") for v in window.inputs if isinstance(v.owner, WeightOp)]
    shared: list[str] = []
    for parts in zip(*keys, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return shared


def _layer_name(prefix: Sequence[str]) -> str:
    """`encoder_layer` for the weights of `bert.encoder.layer.0`."""
    words = [word for word in prefix if not word.isdigit()][-2:]
    name = _identifier("_".join(words))
    return name if len(name) > 2 else f"{name}_layer".lstrip("_")


def _identifier(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_")


def _free_name(module: ModuleOp, name: str) -> str:
    taken = {op.sym_name.data for op in module.ops if isinstance(op, FuncOp)}
    numbered = (f"{name}_{i}" for i in range(2, len(taken) + 3))
    return name if name not in taken else next(n for n in numbered if n not in taken)


def _name_arguments(window: Window, block: Block, prefix: Sequence[str]) -> None:
    """Weights are named after their keys, without what all keys share."""
    for value, argument in zip(window.inputs, block.args, strict=True):
        name = value.name_hint or "x"
        if isinstance(value.owner, WeightOp):
            name = _identifier("_".join(value.owner.key.data.split(".")[len(prefix) :])) or "w"
        argument.name_hint = f"w_{name}" if name[0].isdigit() else name
