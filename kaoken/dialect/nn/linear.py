"""Matrix products: `kaoken.linear`, by a weight and with an epilogue, and `kaoken.matmul`."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import (
    BoolAttr,
    FloatAttr,
    IntegerAttr,
    IntegerType,
    Signedness,
    bf16,
    f32,
    i64,
)
from xdsl.ir import Attribute
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

from kaoken.dialect.attributes import (
    Activation,
    ActivationAttr,
    Norm,
    NormAttr,
    ScheduleAttr,
    Shape,
)
from kaoken.dialect.base import AnyTensor, KaokenOp, tensor_type, unify
from kaoken.dialect.dims import Dim
from kaoken.dialect.formats import WORD_BYTES, FormatAttr
from kaoken.dialect.nn.checks import (
    BYTE_BITS,
    broadcast_shapes,
    check_bits,
    expect_shape,
    expect_vector,
)

UI8 = IntegerType(8, Signedness.UNSIGNED)
MIDDLE = 128
"""The zero point of a quantised input, unless it says another."""
BLOCK_EXTRA = 2
"""The words of a block of inputs after its numbers: what a step is worth, and their sum."""
NARROW = (bf16, UI8)
"""The element types of inputs that a linear layer sums in a wider type."""


@irdl_op_definition
class LinearOp(KaokenOp):
    """`norm(activation(input @ weight.T + bias) + residual)` over the last dimension.

    weight is [N, K] as PyTorch stores it, or packed by `bake` into panels [ceil(N/R), K, R]
    padded with zeros, where R is the schedule's panel width; `out_features` then says N.

    Inputs and weights may be f32, or weights bf16, or both, summed in f32. Or the input is ui8
    around `input_zero_point`, with one `input_scale` a row or none (the same for all rows: the
    weight's scales hold it), the weight i8 with one `weight_scale` a column; the products are
    summed exactly in i32. The result is f32; of bf16 and i8 weights it may be bf16 where no norm
    follows, rounded at the end. Panels of bf16 hold pairs, [ceil(N/R), K/2, R, 2], those of i8
    fours, [ceil(N/R), 1 + K/4, R, 4], after the column's sum times the negated zero point as i32.
    Where `weight_bits` are fewer than 8, weights of i8 are that small: -64 .. 63 with seven, which
    some CPUs multiply by ui8 more quickly.

    With a `format` the weight is codes of few bits, ui8 [N, K], with `weight_scale`, and perhaps
    `weight_min`, a number for each group, [N, G]; the input is what `kaoken.quantize_blocks` gives.
    The sum of a group is exact in i32, and groups are added in f32 from first to last (see
    `kaoken.quantized.multiply`). Where the format has super-blocks, `weight_supers` says what the
    integers that are scales and minima are worth, [N, S] or [N, 2 S]. Panels of codes hold bytes
    that are full of them, by words, [ceil(N/R), words, R, 4], those of scales and minima are
    [ceil(N/R), G, R], of super-blocks [ceil(N/R), S or 2 S, R].

    Two operands make a single row quicker and change no result: `nonzeros` lists which of its steps
    are not zero (`kaoken.nonzeros`), `tables` are its sums for all codes (`kaoken.lookup_tables`).
    `density` is the share of a single row's inputs that is not zero, where that is known.
    """

    name = "kaoken.linear"

    input = operand_def(AnyTensor)
    weight = operand_def(AnyTensor)
    bias = opt_operand_def(AnyTensor)
    residual = opt_operand_def(AnyTensor)
    norm_weight = opt_operand_def(AnyTensor)
    norm_bias = opt_operand_def(AnyTensor)
    input_scale = opt_operand_def(AnyTensor)
    weight_scale = opt_operand_def(AnyTensor)
    weight_min = opt_operand_def(AnyTensor)
    weight_supers = opt_operand_def(AnyTensor)
    nonzeros = opt_operand_def(AnyTensor)
    tables = opt_operand_def(AnyTensor)

    activation = prop_def(ActivationAttr, default_value=ActivationAttr(Activation.NONE))
    norm = prop_def(NormAttr, default_value=NormAttr(Norm.NONE))
    eps = opt_prop_def(FloatAttr)
    out_features = opt_prop_def(IntegerAttr)
    input_zero_point = prop_def(IntegerAttr, default_value=IntegerAttr(MIDDLE, i64))
    weight_bits = prop_def(IntegerAttr, default_value=IntegerAttr(BYTE_BITS, i64))
    format = opt_prop_def(FormatAttr)
    density = opt_prop_def(FloatAttr)
    schedule = opt_prop_def(ScheduleAttr)

    irdl_options = (AttrSizedOperandSegments(as_property=True), ParsePropInAttrDict())

    assembly_format = (
        "$input `,` $weight (`bias` $bias^ `:` type($bias))? "
        "(`residual` $residual^ `:` type($residual))? "
        "(`norm_weight` $norm_weight^ `:` type($norm_weight))? "
        "(`norm_bias` $norm_bias^ `:` type($norm_bias))? "
        "(`input_scale` $input_scale^ `:` type($input_scale))? "
        "(`weight_scale` $weight_scale^ `:` type($weight_scale))? "
        "(`weight_min` $weight_min^ `:` type($weight_min))? "
        "(`weight_supers` $weight_supers^ `:` type($weight_supers))? "
        "(`nonzeros` $nonzeros^ `:` type($nonzeros))? "
        "(`tables` $tables^ `:` type($tables))? "
        "attr-dict `:` type($input) `,` type($weight) `->` type($result)"
    )

    @property
    def is_packed(self) -> bool:
        return tensor_type(self.weight).get_num_dims() > 2

    @property
    def n(self) -> int:
        """How many outputs a row has."""
        return tensor_type(self.result).get_shape()[-1]

    @property
    def k(self) -> int:
        """How many inputs a row has, those counted that fill up its last block."""
        sizes = tensor_type(self.input).get_shape()
        if self.format is None:
            return sizes[-1]
        return sizes[-2] * (sizes[-1] - BLOCK_EXTRA) * WORD_BYTES

    def infer_element_type(self) -> Attribute:
        element = tensor_type(self.input).element_type
        if element in NARROW and self.norm.data is Norm.NONE and self.is_rounded:
            return bf16
        return f32 if element in NARROW or self.format is not None else element

    @property
    def is_rounded(self) -> bool:
        """Whether the result is bf16."""
        return tensor_type(self.result).element_type == bf16

    def infer_shape(self, *operands: Shape) -> Shape:
        x, w = operands[0], operands[1]
        if not x:
            raise VerifyException("input needs at least one dimension")
        rank = len(w)
        if rank not in (2, 3, 4):
            raise VerifyException("weight is [N, K], or [N/R, K, R] when packed")
        if self.format is not None:
            x = self._rows_of_blocks(x, w)
        elif rank < 4:
            unify(x[-1], w[1], "input's last size and weight's K")
        n = self._outputs(w)
        result = (*x[:-1], n)
        rest = self._without_helpers(operands[2:])
        if self.bias is not None:
            expect_vector(rest.pop(0), n, "bias")
        if self.residual is not None:
            expect_shape(rest.pop(0), result, "residual")
        for vector, what in ((self.norm_weight, "norm_weight"), (self.norm_bias, "norm_bias")):
            if vector is not None:
                expect_vector(rest.pop(0), n, what)
        if self.format is None:
            self._verify_scales(rest, x[:-1], n)
        else:
            self._verify_groups(rest, w, n)
        check_bits(self.weight_bits, self.weight_scale is not None and self.format is None)
        self._verify_norm()
        return result

    def _without_helpers(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The shapes of operands but those that only make a single row quicker."""
        helpers = sum(v is not None for v in (self.nonzeros, self.tables))
        kept = list(shapes[: len(shapes) - helpers])
        if any(len(shape) != 1 for shape in shapes[len(kept) :]):
            raise VerifyException("nonzeros and tables are lists")
        if self.tables is not None and self.format is None:
            raise VerifyException("tables belong to a weight with a format")
        return kept

    def _rows_of_blocks(self, x: Shape, w: Shape) -> Shape:
        """The input's shape without the blocks that its rows are in."""
        assert self.format is not None
        words = (x[-1].constant or 0) - BLOCK_EXTRA
        if len(x) < 2 or x[-2].constant is None or words < 1:
            raise VerifyException("with a format the input is rows of blocks of words")
        block = words * WORD_BYTES
        if self.format.data.group not in (0, block):
            raise VerifyException(f"blocks of {block} do not fit {self.format}")
        k = x[-2].constant * block
        rest = k - (w[1].constant or 0)
        if len(w) == 2 and not 0 <= rest < block:
            raise VerifyException(f"{x[-2]} blocks of {block} are no {w[1]} inputs")
        if len(w) == 4 and w[1].constant != self.format.data.words(k):
            raise VerifyException(f"{w[1]} words do not hold {k} codes")
        return (*x[:-2], Dim.of(k))

    def _verify_groups(self, scales: list[Shape], w: Shape, n: Dim) -> None:
        if self.weight_scale is None or self.input_scale is not None:
            raise VerifyException("with a format there is a weight_scale and no input_scale")
        assert self.format is not None
        format_ = self.format.data
        if bool(format_.groups_of_super) != (self.weight_supers is not None):
            raise VerifyException("weight_supers belongs to a format with super-blocks")
        groups = format_.groups(self.k)
        names = ["weight_scale", *(["weight_min"] if self.weight_min is not None else [])]
        sizes = dict.fromkeys(names, groups)
        if self.weight_supers is not None:
            sizes["weight_supers"] = format_.super_blocks(self.k) * len(names)
        for scale, (what, size) in zip(scales, sizes.items(), strict=True):
            count = Dim.of(size)
            wanted = (w[0], count, w[2]) if self.is_packed else (n, count)
            expect_shape(scale, wanted, what)

    def _verify_scales(self, scales: list[Shape], rows: Shape, n: Dim) -> None:
        if self.weight_min is not None or self.weight_supers is not None:
            raise VerifyException("weight_min and weight_supers belong to a weight with a format")
        element = tensor_type(self.input).element_type
        if (element == UI8) != (self.weight_scale is not None):
            raise VerifyException("weight_scale belongs to an input of ui8")
        if scales and self.weight_scale is None:
            raise VerifyException("input_scale without weight_scale")
        if self.input_scale is not None:
            expect_shape(scales[0], rows, "input_scale")
        if self.weight_scale is not None:
            expect_vector(scales[-1], n, "weight_scale")

    def _outputs(self, w: Shape) -> Dim:
        if self.out_features is None:
            return w[0] * w[2] if self.is_packed else w[0]
        n = Dim.of(self.out_features.value.data)
        if len(w) == 2:
            return unify(w[0], n, "weight's N and out_features")
        panels, width = w[0].constant or 0, w[2].constant or 1
        if panels != -(-(n.constant or 0) // width):
            raise VerifyException(f"{n} outputs do not fill {panels} panels of {width}")
        return n

    def _verify_norm(self) -> None:
        norm = self.norm.data
        if norm is not Norm.NONE and (self.eps is None or self.norm_weight is None):
            raise VerifyException(f"a {norm} epilogue needs eps and norm_weight")
        if norm is Norm.NONE and self.norm_weight is not None:
            raise VerifyException("norm_weight without a norm")


@irdl_op_definition
class MatmulOp(KaokenOp):
    """Batched matrix product with numpy broadcasting of the leading dimensions.

    lhs is [..., M, K]; rhs is [..., K, N], or [..., N, K] with `transpose_rhs`.
    """

    name = "kaoken.matmul"

    lhs = operand_def(AnyTensor)
    rhs = operand_def(AnyTensor)
    transpose_rhs = prop_def(BoolAttr, default_value=BoolAttr.from_bool(False))
    schedule = opt_prop_def(ScheduleAttr)

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$lhs `,` $rhs attr-dict `:` type($lhs) `,` type($rhs) `->` type($result)"

    def infer_shape(self, *operands: Shape) -> Shape:
        a, b = operands
        if len(a) < 2 or len(b) < 2:
            raise VerifyException("both operands need two dimensions or more")
        k, n = (b[-1], b[-2]) if self.transpose_rhs.value.data else (b[-2], b[-1])
        unify(a[-1], k, "K of lhs and rhs")
        return (*broadcast_shapes(a[:-2], b[:-2]), a[-2], n)
