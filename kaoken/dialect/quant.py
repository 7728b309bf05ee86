"""The `kaoken` ops that take numbers to eight bits, a row at a time (Jacob et al., 2018)."""

from __future__ import annotations

from xdsl.dialects.builtin import IntegerAttr, i8, i64
from xdsl.ir import Attribute
from xdsl.irdl import ParsePropInAttrDict, irdl_op_definition, operand_def, prop_def
from xdsl.utils.exceptions import VerifyException

from kaoken.dialect.attributes import Shape
from kaoken.dialect.base import AnyTensor, KaokenOp, unify
from kaoken.dialect.nn import UI8

LIMIT = 127
"""The largest magnitude of a quantised number: -127 .. 127, so that negation is exact."""
LEAST_SCALE = 1e-30
"""The scale of a row of zeros."""


@irdl_op_definition
class RowScaleOp(KaokenOp):
    """What one step of a quantised row is worth: `max(|x|) / 127`, [..., K] to [...]."""

    name = "kaoken.row_scale"

    input = operand_def(AnyTensor)

    assembly_format = "$input attr-dict `:` type($input) `->` type($result)"

    def infer_shape(self, *operands: Shape) -> Shape:
        if not operands[0]:
            raise VerifyException("input needs at least one dimension")
        return operands[0][:-1]


@irdl_op_definition
class QuantizeOp(KaokenOp):
    """`round(x * (1 / scale) + zero_point)`, halves to even, saturating at the type's limits.

    input is [..., K], scale [...]. The zero point is 0, which gives i8, or 128, which gives ui8.
    """

    name = "kaoken.quantize"

    input = operand_def(AnyTensor)
    scale = operand_def(AnyTensor)
    zero_point = prop_def(IntegerAttr, default_value=IntegerAttr(0, i64))

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = (
        "$input `,` $scale attr-dict `:` type($input) `,` type($scale) `->` type($result)"
    )

    def infer_shape(self, *operands: Shape) -> Shape:
        x, scale = operands
        if not x or len(scale) != len(x) - 1:
            raise VerifyException("scale has one number for each row of the input")
        if self.zero_point.value.data not in (0, 128):
            raise VerifyException("zero_point is 0 or 128")
        return (*(unify(a, b, "scale") for a, b in zip(x[:-1], scale, strict=True)), x[-1])

    def infer_element_type(self) -> Attribute:
        return UI8 if self.zero_point.value.data else i8


QUANT_OPS = [RowScaleOp, QuantizeOp]
