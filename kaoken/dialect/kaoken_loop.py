"""The `kaoken_loop` dialect: what loop nests need and upstream dialects do not say.

Pointers into the weights file and the arena, the thread team, timers, and comparisons, choices and
conversions of vectors. Loops, memory accesses and other arithmetic are upstream: affine, memref,
vector, arith, math, scf, func. On loops the attribute `kaoken_loop.name` names the loop for
schedules, and `kaoken_loop.kind` says whether its iterations are `parallel` or a `reduction`, whose
order the compiler may change; `kaoken_loop.unroll` how often the C compiler is to unroll it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from xdsl.dialects.arith import CMPF_COMPARISON_OPERATIONS, CMPI_COMPARISON_OPERATIONS
from xdsl.dialects.builtin import (
    AnyFloat,
    ArrayAttr,
    DenseArrayBase,
    IndexType,
    IntegerAttr,
    MemRefType,
    StringAttr,
    UnitAttr,
    VectorType,
    i1,
    i32,
    i64,
)
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import (
    Attribute,
    Dialect,
    ParametrizedAttribute,
    SpacedOpaqueSyntaxAttribute,
    SSAValue,
    TypeAttribute,
)
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    ParsePropInAttrDict,
    VarConstraint,
    base,
    irdl_attr_definition,
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
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.hints import isa
from xdsl.utils.str_enum import StrEnum

NAME = "kaoken_loop.name"
KIND = "kaoken_loop.kind"
UNROLL = "kaoken_loop.unroll"
PARALLEL = StringAttr("parallel")
REDUCTION = StringAttr("reduction")

AnyMemRef = base(MemRefType)


@irdl_attr_definition
class TeamType(ParametrizedAttribute, TypeAttribute):
    """The threads that run a call together; each of them executes the whole program (SPMD)."""

    name = "kaoken_loop.team"


@irdl_attr_definition
class TimersType(ParametrizedAttribute, TypeAttribute):
    """The clock and timers of one thread, in a model that notes how long its kernels take."""

    name = "kaoken_loop.timers"


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


class TeamQueryOp(IRDLOperation):
    """A number that the team knows."""

    team = operand_def(TeamType())
    result = result_def(IndexType())

    traits = traits_def(Pure())
    assembly_format = "$team attr-dict"

    def __init__(self, team: SSAValue):
        super().__init__(operands=[team], result_types=[IndexType()])


@irdl_op_definition
class ThreadIdOp(TeamQueryOp):
    """Which member of the team runs this: 0 .. num_threads - 1."""

    name = "kaoken_loop.thread_id"


@irdl_op_definition
class NumThreadsOp(TeamQueryOp):
    """How many members the team has."""

    name = "kaoken_loop.num_threads"


@irdl_op_definition
class BarrierOp(IRDLOperation):
    """No member goes on before all have come here; what they wrote is then seen by all."""

    name = "kaoken_loop.barrier"

    team = operand_def(TeamType())

    assembly_format = "$team attr-dict"

    def __init__(self, team: SSAValue):
        super().__init__(operands=[team])


@irdl_op_definition
class LapOp(IRDLOperation):
    """Add the time since this thread's last lap to a timer: as work, or as time `waited`."""

    name = "kaoken_loop.lap"

    timers = operand_def(TimersType())
    timer = prop_def(IntegerAttr)
    waited = opt_prop_def(UnitAttr)

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$timers attr-dict"

    def __init__(self, timers: SSAValue, timer: int, waited: bool = False):
        super().__init__(
            operands=[timers],
            properties={
                "timer": IntegerAttr(timer, i64),
                "waited": UnitAttr() if waited else None,
            },
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


@irdl_op_definition
class ConvertOp(IRDLOperation):
    """A conversion between number types, of scalars or of vectors of any rank.

    Floats become integers by rounding halves to even and saturating; bf16 rounds likewise.
    (xDSL 0.74 verifies arith's conversions on scalars alone.)
    """

    name = "kaoken_loop.convert"

    input = operand_def()
    result = result_def()

    traits = traits_def(Pure())
    assembly_format = "$input attr-dict `:` type($input) `to` type($result)"

    def __init__(self, input_: SSAValue, type_: Attribute):
        super().__init__(operands=[input_], result_types=[type_])


class DotKind(StrEnum):
    """What a packed 32-bit word holds: four products of ui8 and i8, or two of bf16.

    With UI7_I8 the unsigned bytes are below 128, and the signed ones not -128: two products fit
    into 16 bits, and the unsigned bytes may be taken as signed. I8_I8 is of signed ones alone.
    """

    UI8_I8 = "ui8_i8"
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
    with `ui7_i8`, where they are in 0 .. 127 and -127 .. 127; with `i8_i8` all are signed;
    with `bf16` two pairs of bf16 are summed in f32.
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


@irdl_op_definition
class CompareOp(IRDLOperation):
    """`arith.cmpf` or `arith.cmpi` on vectors of any rank, by the predicate's name: olt, sle ...

    (xDSL 0.74 verifies those, and arith.select, on scalars alone.)
    """

    name = "kaoken_loop.compare"

    T: ClassVar = VarConstraint("T", base(VectorType))

    predicate = prop_def(StringAttr)
    lhs = operand_def(T)
    rhs = operand_def(T)
    result = result_def(VectorType)

    traits = traits_def(Pure())
    assembly_format = "$predicate $lhs `,` $rhs attr-dict `:` type($lhs) `->` type($result)"

    def __init__(self, predicate: str, lhs: SSAValue, rhs: SSAValue):
        assert isinstance(lhs.type, VectorType)
        super().__init__(
            operands=[lhs, rhs],
            properties={"predicate": StringAttr(predicate)},
            result_types=[VectorType(i1, lhs.type.shape)],
        )

    def verify_(self) -> None:
        type_ = self.lhs.type
        assert isinstance(type_, VectorType)
        is_float = isa(type_, VectorType[AnyFloat])
        known = CMPF_COMPARISON_OPERATIONS if is_float else CMPI_COMPARISON_OPERATIONS
        if self.predicate.data not in known:
            raise VerifyException(f"unknown predicate {self.predicate.data} for {type_}")
        if self.result.type != VectorType(i1, type_.shape):
            raise VerifyException(f"comparing {type_} does not give {self.result.type}")


@irdl_op_definition
class SelectOp(IRDLOperation):
    """`arith.select` where the condition is a vector: lane by lane one value or the other."""

    name = "kaoken_loop.select"

    T: ClassVar = VarConstraint("T", base(VectorType))

    condition = operand_def(VectorType)
    lhs = operand_def(T)
    rhs = operand_def(T)
    result = result_def(T)

    traits = traits_def(Pure())
    assembly_format = (
        "$condition `,` $lhs `,` $rhs attr-dict `:` type($condition) `,` type($result)"
    )

    def __init__(self, condition: SSAValue, lhs: SSAValue, rhs: SSAValue):
        super().__init__(operands=[condition, lhs, rhs], result_types=[lhs.type])

    def verify_(self) -> None:
        assert isinstance(self.result.type, VectorType)
        if self.condition.type != VectorType(i1, self.result.type.shape):
            raise VerifyException(f"{self.condition.type} chooses between {self.result.type}")


@irdl_op_definition
class StepOp(IRDLOperation):
    """`start` plus the number of each lane, times the stride of each dimension of the vector.

    With strides [0, 1], what a loop index is in all lanes that its loop has become.
    """

    name = "kaoken_loop.step"

    start = operand_def(IndexType())
    strides = prop_def(DenseArrayBase.constr(i64))
    result = result_def(VectorType)

    traits = traits_def(Pure())
    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$start attr-dict `:` type($result)"

    def __init__(self, start: SSAValue, strides: Sequence[int], shape: Sequence[int]):
        super().__init__(
            operands=[start],
            properties={"strides": DenseArrayBase.from_list(i64, list(strides))},
            result_types=[VectorType(i32, shape)],
        )

    def verify_(self) -> None:
        type_ = self.result.type
        assert isinstance(type_, VectorType)
        if type_.element_type != i32 or len(self.strides) != type_.get_num_dims():
            raise VerifyException(f"{len(self.strides)} strides do not give {type_}")


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

    `block` and `ahead` are about speed alone. All rows pass `block` words of k before the next
    words are read. And words of `rhs` are asked for so many steps of k before they are read: no
    farther than a block, into the first cache; farther, into the second.
    """

    name = "kaoken_loop.contract"

    kind = prop_def(DotKindAttr)
    columns = prop_def(IntegerAttr)
    block = opt_prop_def(IntegerAttr)
    ahead = opt_prop_def(DenseArrayBase.constr(i64))
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
    ):
        rows, columns, depth = sizes
        super().__init__(
            operands=[*lhs, *rhs, *target, rows, depth],
            properties={
                "kind": DotKindAttr(kind),
                "columns": IntegerAttr(columns, i64),
                "block": None if block is None else IntegerAttr(block, i64),
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


KaokenLoop = Dialect(
    "kaoken_loop",
    [
        WeightOp,
        StateOp,
        ViewOp,
        ThreadIdOp,
        NumThreadsOp,
        BarrierOp,
        LapOp,
        PrefetchOp,
        ConvertOp,
        DotOp,
        CompareOp,
        SelectOp,
        StepOp,
        ContractOp,
    ],
    [TeamType, TimersType, DotKindAttr],
)
