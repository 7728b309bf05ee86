"""Pointers into the weights file, the state and the arena, and asking for memory ahead."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import (
    ArrayAttr,
    DenseArrayBase,
    IndexType,
    IntegerAttr,
    MemRefType,
    StringAttr,
    i64,
)
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    ParsePropInAttrDict,
    base,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.traits import Pure

AnyMemRef = base(MemRefType)


@irdl_op_definition
class WeightOp(IRDLOperation):
    """The place of a weight in the mapped weights file."""

    name = "kaoken_loop.weight"

    key = prop_def(StringAttr)
    result = result_def(AnyMemRef)

    traits = traits_def(Pure())
    assembly_format = "$key attr-dict `:` type($result)"

    def __init__(self, key: str, type_: Attribute):
        super().__init__(properties={"key": StringAttr(key)}, result_types=[type_])


@irdl_op_definition
class StateOp(IRDLOperation):
    """Memory of the context that keeps its contents between calls, by name.

    `plan-memory` gives it a place at the start of the arena. `parts` tell which of its bytes belong
    to how many tokens, in lists of offset, blocks, stride, tokens and bytes: each of the blocks,
    `stride` bytes apart from `offset` on, has `bytes` bytes for each so many tokens. A sixth number
    says of which sequence, where a context has several.
    """

    name = "kaoken_loop.state"

    key = prop_def(StringAttr)
    parts = opt_prop_def(ArrayAttr)
    result = result_def(AnyMemRef)

    traits = traits_def(Pure())
    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$key attr-dict `:` type($result)"

    def __init__(self, key: str, type_: Attribute, parts: Sequence[tuple[int, ...]] | None = None):
        listed = None
        if parts is not None:
            listed = ArrayAttr([DenseArrayBase.from_list(i64, part) for part in parts])
        super().__init__(properties={"key": StringAttr(key), "parts": listed}, result_types=[type_])


@irdl_op_definition
class ViewOp(IRDLOperation):
    """The memory of `source`, from `offset` (plus `extra`) bytes on, under another type.

    Row-major and contiguous on both sides: in C a cast of a pointer, which costs nothing.
    """

    name = "kaoken_loop.view"

    source = operand_def(AnyMemRef)
    extra = opt_operand_def(IndexType())
    offset = prop_def(IntegerAttr, default_value=IntegerAttr(0, i64))
    result = result_def(AnyMemRef)

    traits = traits_def(Pure())
    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$source (`plus` $extra^)? attr-dict `:` type($source) `->` type($result)"

    def __init__(
        self, source: SSAValue, type_: Attribute, offset: int = 0, extra: SSAValue | None = None
    ):
        super().__init__(
            operands=[source, extra],
            properties={"offset": IntegerAttr(offset, i64)},
            result_types=[type_],
        )


@irdl_op_definition
class PrefetchOp(IRDLOperation):
    """Ask for the cache line of an element that will be read soon. A hint: it changes no value.

    The element may lie past the end of the memref; no address can make it fail. `locality` is
    MLIR's: 3 asks for it in the nearest cache, 2 in the second one, 0 for a single use.
    (MLIR's memref.prefetch, which xDSL 0.74 lacks.)
    """

    name = "kaoken_loop.prefetch"

    memref = operand_def(AnyMemRef)
    indices = var_operand_def(IndexType())
    locality = prop_def(IntegerAttr, default_value=IntegerAttr(3, i64))

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$memref `[` $indices `]` attr-dict `:` type($memref)"

    def __init__(self, memref: SSAValue, indices: Sequence[SSAValue], locality: int = 3):
        super().__init__(
            operands=[memref, indices], properties={"locality": IntegerAttr(locality, i64)}
        )
