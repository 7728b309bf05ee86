"""The `kaoken` ops that take numbers to few bits (Jacob et al., 2018), and back."""

from __future__ import annotations

from xdsl.dialects.builtin import FloatAttr, IntegerAttr, bf16, f16, f32, i8, i32, i64
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    ParsePropInAttrDict,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    prop_def,
)
from xdsl.utils.exceptions import VerifyException

from kaoken.dialect.attributes import Rounding, RoundingAttr, Shape
from kaoken.dialect.base import AnyTensor, KaokenOp, tensor_type, unify
from kaoken.dialect.dims import Dim
from kaoken.dialect.formats import WORD_BYTES, FormatAttr
from kaoken.dialect.nn import BLOCK_EXTRA, BYTE_BITS, MIDDLE, UI8, check_bits

LIMIT = 127
"""The largest magnitude of a quantised number: -127 .. 127, so that negation is exact."""
MAX_BLOCK = 1 << 17
"""The largest block: sums of its numbers are exact in f32."""
LEAST_SCALE = 1e-30
"""The scale of a row of zeros."""
BITNET_LEAST = 1e-5
"""The largest magnitude that BitNet takes a row to have at least."""


def steps_above(zero_point: int, bits: int = BYTE_BITS) -> int:
    """How many steps there are above a zero point: 127 above 128, and above 0 in i8; there 63 in
    codes of seven bits."""
    return 255 - zero_point if zero_point not in (0, MIDDLE) else largest_code(bits)


def steps_below(zero_point: int, bits: int = BYTE_BITS) -> int:
    """How many steps there are below a zero point, as many as above where it is the middle."""
    return zero_point if zero_point not in (0, MIDDLE) else largest_code(bits)


def largest_code(bits: int) -> int:
    """The largest signed code: 127 of eight bits, 63 of seven."""
    return (1 << bits - 1) - 1


@irdl_op_definition
class ObserveOp(KaokenOp):
    """The input itself, with what `calibrate` saw of it in `range`, [2 or 3, K].

    The rows of `range` are the least and the largest number of each channel and, where real
    inputs were seen, the mean. `zero_point` is the one that suits the rows seen. `quantize` takes
    these ops away.
    """

    name = "kaoken.observe"

    input = operand_def(AnyTensor)
    range = operand_def(AnyTensor)
    zero_point = prop_def(IntegerAttr, default_value=IntegerAttr(MIDDLE, i64))

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = (
        "$input `,` $range attr-dict `:` type($input) `,` type($range) `->` type($result)"
    )

    def infer_shape(self, *operands: Shape) -> Shape:
        x, range_ = operands
        if not x or len(range_) != 2 or range_[0] not in (Dim.of(2), Dim.of(3)):
            raise VerifyException("range is [2, K] or [3, K] for an input [..., K]")
        unify(x[-1], range_[1], "range")
        _check_zero_point(self.zero_point)
        return x


@irdl_op_definition
class RowScaleOp(KaokenOp):
    """What one step of a quantised row is worth, [..., K] to [...].

    `max(|x|) / 127`, or `/ 63` for codes of seven `bits`; with another zero point than 128 the
    least scale that fits the largest number into the steps above it and the least one into those
    below it. With a `factor` [K], x is multiplied by it first.
    """

    name = "kaoken.row_scale"

    input = operand_def(AnyTensor)
    factor = opt_operand_def(AnyTensor)
    zero_point = prop_def(IntegerAttr, default_value=IntegerAttr(MIDDLE, i64))
    bits = prop_def(IntegerAttr, default_value=IntegerAttr(BYTE_BITS, i64))

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = (
        "$input (`factor` $factor^ `:` type($factor))? attr-dict "
        "`:` type($input) `->` type($result)"
    )

    def infer_shape(self, *operands: Shape) -> Shape:
        x = operands[0]
        if not x:
            raise VerifyException("input needs at least one dimension")
        _check_zero_point(self.zero_point)
        check_bits(self.bits, self.zero_point.value.data == MIDDLE)
        if self.factor is not None:
            _expect_factor(operands[1], x)
        return x[:-1]


@irdl_op_definition
class QuantizeOp(KaokenOp):
    """`round(x * factor * (1 / scale) + zero_point)`, halves to even, saturating.

    input is [..., K], scale [...], factor [K]; one of them may be missing and counts as 1. The
    zero point is 0, which gives i8, or 1 .. 255, which gives ui8. Codes of i8 may have fewer
    `bits`: with seven they are -64 .. 63.
    """

    name = "kaoken.quantize"

    input = operand_def(AnyTensor)
    scale = opt_operand_def(AnyTensor)
    factor = opt_operand_def(AnyTensor)
    zero_point = prop_def(IntegerAttr, default_value=IntegerAttr(0, i64))
    bits = prop_def(IntegerAttr, default_value=IntegerAttr(BYTE_BITS, i64))

    irdl_options = (AttrSizedOperandSegments(as_property=True), ParsePropInAttrDict())
    assembly_format = (
        "$input (`scale` $scale^ `:` type($scale))? (`factor` $factor^ `:` type($factor))? "
        "attr-dict `:` type($input) `->` type($result)"
    )

    def infer_shape(self, *operands: Shape) -> Shape:
        x, *rest = operands
        if not x or not rest:
            raise VerifyException("a row needs a scale or a factor")
        if self.scale is not None:
            scale = rest.pop(0)
            if len(scale) != len(x) - 1:
                raise VerifyException("scale has one number for each row of the input")
            x = (*(unify(a, b, "scale") for a, b in zip(x[:-1], scale, strict=True)), x[-1])
        if self.factor is not None:
            _expect_factor(rest.pop(0), x)
        if not 0 <= self.zero_point.value.data <= 255:
            raise VerifyException("zero_point is from 0 to 255")
        check_bits(self.bits, self.zero_point.value.data == 0)
        return x

    def infer_element_type(self) -> Attribute:
        return UI8 if self.zero_point.value.data else i8


@irdl_op_definition
class DequantizeOp(KaokenOp):
    """Weights of few bits as numbers: `(step * code - offset) * scale + min`, in f32.

    input is codes ui8 [..., K], scale f32, f16 or bf16 with a number for each group of the format,
    [..., G], min the same. With super-blocks, scale and min are ui8 or i8, and supers, of floats,
    what they are worth: [..., S], or [..., 2 S] with min (see `kaoken.quantized`).
    """

    name = "kaoken.dequantize"

    input = operand_def(AnyTensor)
    scale = operand_def(AnyTensor)
    min = opt_operand_def(AnyTensor)
    supers = opt_operand_def(AnyTensor)
    format = prop_def(FormatAttr)

    irdl_options = (AttrSizedOperandSegments(as_property=True), ParsePropInAttrDict())
    assembly_format = (
        "$input `scale` $scale `:` type($scale) (`min` $min^ `:` type($min))? "
        "(`supers` $supers^ `:` type($supers))? attr-dict "
        "`:` type($input) `->` type($result)"
    )

    def infer_shape(self, *operands: Shape) -> Shape:
        codes, *rest = operands
        k = codes[-1].constant if codes else None
        if k is None or tensor_type(self.input).element_type != UI8:
            raise VerifyException("input is codes of ui8, [..., K] with K known")
        format_ = self.format.data
        if bool(format_.groups_of_super) != (self.supers is not None):
            raise VerifyException("supers belong to a format with super-blocks")
        of_groups = [v for v in (self.scale, self.min) if v is not None]
        types = (f32, f16, bf16) if self.supers is None else (UI8, i8)
        counts = [(v, format_.groups(k), types) for v in of_groups]
        if self.supers is not None:
            count = format_.super_blocks(k) * len(of_groups)
            counts.append((self.supers, count, (f32, f16, bf16)))
        for (value, count, types), shape in zip(counts, rest, strict=True):
            if tensor_type(value).element_type not in types:
                raise VerifyException(
                    "scale and min are f32, f16 or bf16; with super-blocks ui8 or i8, supers floats"
                )
            if len(shape) != len(codes):
                raise VerifyException("scale and min have a number for each group of the input")
            unify(shape[-1], Dim.of(count), "groups" if value is not self.supers else "supers")
            for a, b in zip(codes[:-1], shape[:-1], strict=True):
                unify(a, b, "rows")
        return codes

    def infer_element_type(self) -> Attribute:
        return f32


@irdl_op_definition
class FakeQuantizeOp(KaokenOp):
    """Rows rounded to eight bits and back, [..., K]: steps of each row times what they are worth.

    A model that was trained with rounded inputs says so with this op before its layers; where their
    weights are of few bits too, `quantize` makes both into products of integers.
    """

    name = "kaoken.fake_quantize"

    input = operand_def(AnyTensor)
    rounding = prop_def(RoundingAttr, default_value=RoundingAttr(Rounding.STEP))

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$input attr-dict `:` type($input) `->` type($result)"

    def infer_shape(self, *operands: Shape) -> Shape:
        if not operands[0] or operands[0][-1].constant is None:
            raise VerifyException("input is [..., K] with K known")
        return operands[0]


@irdl_op_definition
class QuantizeBlocksOp(KaokenOp):
    """Rows in blocks of eight bits, [..., K] to i32 [..., ceil(K / block), block / 4 + 2].

    A block is its numbers as i8, four in a word, in steps of its largest magnitude / 127, what a
    step is worth (an f32), and the sum of the numbers (see `kaoken.quantized.quantize_blocks`).
    With `eps`, numbers are meant as divided by their row's `sqrt(mean(x^2) + eps)`: steps are worth
    so much less, and codes stay what they are.
    """

    name = "kaoken.quantize_blocks"

    input = operand_def(AnyTensor)
    block = prop_def(IntegerAttr)
    rounding = prop_def(RoundingAttr, default_value=RoundingAttr(Rounding.STEP))
    eps = opt_prop_def(FloatAttr)

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$input attr-dict `:` type($input) `->` type($result)"

    def infer_shape(self, *operands: Shape) -> Shape:
        x, block = operands[0], self.block.value.data
        if not x or (k := x[-1].constant) is None:
            raise VerifyException("input is [..., K] with K known")
        if block < WORD_BYTES or block % WORD_BYTES or block > MAX_BLOCK:
            raise VerifyException(f"a block has a multiple of 4 numbers, at most {MAX_BLOCK}")
        words = block // WORD_BYTES + BLOCK_EXTRA
        return (*x[:-1], Dim.of(-(-k // block)), Dim.of(words))

    def infer_element_type(self) -> Attribute:
        return i32


def _expect_factor(factor: Shape, x: Shape) -> None:
    if len(factor) != 1:
        raise VerifyException("factor has one number for each channel of the input")
    unify(factor[0], x[-1], "factor")


def _check_zero_point(zero_point: IntegerAttr) -> None:
    if not 1 <= zero_point.value.data <= 255:
        raise VerifyException("zero_point is from 1 to 255")


def observed(value: SSAValue) -> ObserveOp | None:
    """What was seen of a value."""
    return value.owner if isinstance(value.owner, ObserveOp) else None


QUANT_OPS = [
    ObserveOp,
    RowScaleOp,
    QuantizeOp,
    DequantizeOp,
    FakeQuantizeOp,
    QuantizeBlocksOp,
]
