"""Products that instructions or units make: of words lane by lane, and of whole tiles."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import (
    DenseArrayBase,
    IndexType,
    IntegerAttr,
    MemRefType,
    UnitAttr,
    i64,
)
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import SpacedOpaqueSyntaxAttribute, SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    ParsePropInAttrDict,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.str_enum import StrEnum

from kaoken.dialect.kaoken_loop.memory import AnyMemRef


class DotKind(StrEnum):
    """What a packed 32-bit word holds: four products of ui8 and i8, or two of bf16.

    With UI7_I8 the unsigned bytes are below 128, and the signed ones not -128: two products fit
    into 16 bits, and the unsigned bytes may be taken as signed. With UI8_I7 the signed ones are
    within -64 .. 63, and two products fit as well. I8_I8 is of signed ones alone.
    """

    UI8_I8 = "ui8_i8"
    UI8_I7 = "ui8_i7"
    I8_I8 = "i8_i8"
    UI7_I8 = "ui7_i8"
    BF16 = "bf16"


@irdl_attr_definition
class DotKindAttr(EnumAttribute[DotKind], SpacedOpaqueSyntaxAttribute):
    name = "kaoken_loop.dot_kind"


@irdl_op_definition
class DotOp(IRDLOperation):
    """`acc` plus the products of the numbers that two i32 words hold, lane by lane.

    With `ui8_i8` four unsigned bytes of lhs meet four signed ones of rhs, summed exactly in i32; so
    with `ui8_i7`, where the signed ones are in -64 .. 63, and with `ui7_i8`, where they are in
    0 .. 127 and -127 .. 127; with `i8_i8` all are signed; with `bf16` two pairs of bf16 are summed
    in f32.
    """

    name = "kaoken_loop.dot"

    kind = prop_def(DotKindAttr)
    lhs = operand_def()
    rhs = operand_def()
    acc = operand_def()
    result = result_def()

    traits = traits_def(Pure())
    assembly_format = (
        "$kind $lhs `,` $rhs `,` $acc attr-dict "
        "`:` type($lhs) `,` type($rhs) `,` type($acc) `->` type($result)"
    )

    def __init__(self, kind: DotKind, lhs: SSAValue, rhs: SSAValue, acc: SSAValue):
        super().__init__(
            operands=[lhs, rhs, acc],
            properties={"kind": DotKindAttr(kind)},
            result_types=[acc.type],
        )


class BytePart(StrEnum):
    """Which bytes of sums a table holds: the low ones, unsigned, or the high ones, signed."""

    LOW = "low"
    HIGH = "high"


@irdl_attr_definition
class BytePartAttr(EnumAttribute[BytePart], SpacedOpaqueSyntaxAttribute):
    name = "kaoken_loop.byte_part"


@irdl_op_definition
class LookupOp(IRDLOperation):
    """`acc` plus what a table says for a nibble of each of the four bytes of an i32, lane by lane.

    The 16 words of `table` from `at` on hold a byte for each value of a nibble, in the place of the
    byte that it stands in: `nibble` 0 is the lower one. All lanes look up in the same table.
    """

    name = "kaoken_loop.lookup"

    part = prop_def(BytePartAttr)
    nibble = prop_def(IntegerAttr)
    table = operand_def(AnyMemRef)
    at = operand_def(IndexType)
    word = operand_def()
    acc = operand_def()
    result = result_def()

    traits = traits_def(Pure())
    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = (
        "$part $table `[` $at `]` `,` $word `,` $acc attr-dict "
        "`:` type($table) `,` type($word) `,` type($acc) `->` type($result)"
    )

    def __init__(
        self, part: BytePart, nibble: int, table: SSAValue, at: SSAValue, *values: SSAValue
    ):
        super().__init__(
            operands=[table, at, *values],
            properties={"part": BytePartAttr(part), "nibble": IntegerAttr(nibble, i64)},
            result_types=[values[-1].type],
        )


@irdl_op_definition
class ContractOp(IRDLOperation):
    """A product of two matrices of words: what a matrix unit computes.

    With `a` from `lhs` and `b` from `rhs`, matrices that begin at the given indices and lie along
    the last two dimensions of their memory,

        for i in range(rows): for j in range(columns):
            target[i, j] = sum of dot(a[i, k], b[k, j]) for k in range(depth)

    in an order of summation that depends on neither `rows` nor i and j. As with `kaoken_loop.dot`,
    words are of two bf16 or four bytes, sums are f32 or i32. `target` is memory of its own, `rows`
    at least 1.

    With `lhs_in_panels` the columns of `lhs` lie in panels, as its last three dimensions say:
    a[i, k] is lhs[p + k / c, i, k % c], where c is its last size, and it begins with a panel.

    `block` and `ahead` are about speed alone. All rows pass `block` words of k before the next
    words are read. And words of `rhs` are asked for so many steps of k before they are read: no
    farther than a block, into the first cache; farther, into the second.
    """

    name = "kaoken_loop.contract"

    kind = prop_def(DotKindAttr)
    columns = prop_def(IntegerAttr)
    block = opt_prop_def(IntegerAttr)
    ahead = opt_prop_def(DenseArrayBase.constr(i64))
    lhs_in_panels = opt_prop_def(UnitAttr)
    lhs = operand_def(AnyMemRef)
    lhs_indices = var_operand_def(IndexType())
    rhs = operand_def(AnyMemRef)
    rhs_indices = var_operand_def(IndexType())
    target = operand_def(AnyMemRef)
    target_indices = var_operand_def(IndexType())
    rows = operand_def(IndexType())
    depth = operand_def(IndexType())

    irdl_options = (AttrSizedOperandSegments(as_property=True), ParsePropInAttrDict())
    assembly_format = (
        "$kind $lhs `[` $lhs_indices `]` `,` $rhs `[` $rhs_indices `]` `into` $target "
        "`[` $target_indices `]` `rows` $rows `depth` $depth attr-dict "
        "`:` type($lhs) `,` type($rhs) `,` type($target)"
    )

    def __init__(
        self,
        kind: DotKind,
        lhs: tuple[SSAValue, Sequence[SSAValue]],
        rhs: tuple[SSAValue, Sequence[SSAValue]],
        target: tuple[SSAValue, Sequence[SSAValue]],
        sizes: tuple[SSAValue, int, SSAValue],
        block: int | None = None,
        lhs_in_panels: bool = False,
    ):
        rows, columns, depth = sizes
        super().__init__(
            operands=[*lhs, *rhs, *target, rows, depth],
            properties={
                "kind": DotKindAttr(kind),
                "columns": IntegerAttr(columns, i64),
                "block": None if block is None else IntegerAttr(block, i64),
                "lhs_in_panels": UnitAttr() if lhs_in_panels else None,
            },
        )

    def verify_(self) -> None:
        for memory, indices in (
            (self.lhs, self.lhs_indices),
            (self.rhs, self.rhs_indices),
            (self.target, self.target_indices),
        ):
            assert isinstance(memory.type, MemRefType)
            rank = memory.type.get_num_dims()
            if rank < 2 or len(indices) != rank:
                raise VerifyException(f"{memory.type} needs {max(rank, 2)} indices of a matrix")
        assert isinstance(self.lhs.type, MemRefType)
        if self.lhs_in_panels is not None and self.lhs.type.get_num_dims() < 3:
            raise VerifyException(f"{self.lhs.type} has no panels: it needs three dimensions")
        if self.most_rows < 0:
            raise VerifyException("the target must say how many rows it has")
        if min([1, *self.distances]) < 1 or (self.block_words or 1) < 1:
            raise VerifyException("block and ahead count words, at least 1")

    @property
    def most_rows(self) -> int:
        """The most that `rows` can be: those that the target has."""
        assert isinstance(self.target.type, MemRefType)
        return self.target.type.get_shape()[-2]

    @property
    def block_words(self) -> int | None:
        return None if self.block is None else self.block.value.data

    @property
    def distances(self) -> tuple[int, ...]:
        """How many words ahead the right factor is asked for."""
        return () if self.ahead is None else tuple(map(int, self.ahead.get_values()))
