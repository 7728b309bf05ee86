"""Comparisons, choices, conversions and steps of vectors of any shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from xdsl.dialects.arith import CMPF_COMPARISON_OPERATIONS, CMPI_COMPARISON_OPERATIONS
from xdsl.dialects.builtin import (
    AnyFloat,
    DenseArrayBase,
    IndexType,
    StringAttr,
    VectorType,
    i1,
    i32,
    i64,
)
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    ParsePropInAttrDict,
    VarConstraint,
    base,
    irdl_op_definition,
    operand_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.hints import isa


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
