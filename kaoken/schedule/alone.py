"""A module of one op alone, to try schedules on: its loops, or its speed.

    %y = kaoken.linear %x, %w : tensor<?x384xf32>, tensor<1536x384xf32> -> tensor<?x1536xf32>
->
    func.func @main(%x: tensor<?x384xf32>) -> (tensor<?x1536xf32>, tensor<?x1536xf32>) {
      %w = kaoken.weight "w0" : tensor<1536x384xf32>
      %y0 = kaoken.linear %x, %w {schedule = (the first)} : ...
      %y1 = kaoken.linear %x, %w {schedule = (the second)} : ...
      return %y0, %y1 : ...
    }
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from xdsl.dialects import func
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    FunctionType,
    IntegerAttr,
    ModuleOp,
    i64,
)
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from kaoken.analysis.constants import is_constant, is_stored
from kaoken.analysis.shapes import MAX, Shapes, declared_maxima
from kaoken.dialect.attributes import Directive, ScheduleAttr, Shape, ShapeAttr
from kaoken.dialect.base import tensor_type
from kaoken.dialect.nn import WeightOp
from kaoken.dtypes import numpy_dtype
from kaoken.schedule.facts import Part
from kaoken.weights import WeightStore, attach_store

Fill = Callable[[Sequence[int], np.dtype], np.ndarray]
"""The numbers of a weight of some shape and type."""
_SOME_SIZE = 512
_PLAIN = ScheduleAttr((Directive("parallel", ("m",)),))


def module_of(
    part: Part, schedules: Sequence[ScheduleAttr], shapes: Shapes, fill: Fill = np.zeros
) -> ModuleOp:
    """A module whose @main computes the op once with each schedule, from the same inputs.

    Of the norm epilogue of a linear layer, the layer itself has a plain schedule.
    """
    op, block, store = part.op, Block(), WeightStore()
    values: dict[SSAValue, SSAValue] = {}
    for value in dict.fromkeys(op.operands):
        values[value] = (
            _weight(value, block, store, fill)
            if is_constant(value)
            else block.insert_arg(value.type, len(block.args))
        )
    copies: list[Operation] = []
    for schedule in schedules:
        copy = op.clone(values)
        if part.is_norm:
            Part(copy).schedule = _PLAIN
        Part(copy, part.is_norm).schedule = schedule
        copies.append(copy)
    block.add_ops([*copies, func.ReturnOp(*(copy.results[0] for copy in copies))])
    outer = op.parent_op()
    maxima = declared_maxima(outer) if isinstance(outer, func.FuncOp) else {}
    arguments = [v for v in values if v in shapes and not is_constant(v)]
    module = ModuleOp([_main(block, [shapes[v] for v in arguments], maxima)])
    attach_store(module, store)
    return module


def _weight(value: SSAValue, block: Block, store: WeightStore, fill: Fill) -> SSAValue:
    if is_stored(value) and not isinstance(value.owner, WeightOp):
        constant = value.owner.clone()  # pyright: ignore[reportAttributeAccessIssue]
        block.add_op(constant)
        return constant.results[0]
    type_ = tensor_type(value)
    array = fill(type_.get_shape(), numpy_dtype(type_.element_type))
    weight = WeightOp(store.add(f"w{len(list(store.keys()))}", array), type_)
    block.add_op(weight)
    return weight.result


def _main(block: Block, shapes: list[Shape], maxima: dict[str, int]) -> func.FuncOp:
    used = {s for shape in shapes for dim in shape for s in dim.symbols}
    attributes: list[dict[str, Attribute]] = [{"kaoken.shape": ShapeAttr(s)} for s in shapes]
    result = block.last_op
    assert result is not None
    main = func.FuncOp(
        "main",
        FunctionType.from_lists(block.arg_types, [v.type for v in result.operands]),
        Region(block),
        arg_attrs=ArrayAttr([DictionaryAttr(a) for a in attributes]),
    )
    sizes = {name: _SOME_SIZE for name in sorted(used - set(maxima))} | maxima
    main.attributes[MAX] = DictionaryAttr({k: IntegerAttr(v, i64) for k, v in sizes.items()})
    return main
