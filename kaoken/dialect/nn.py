"""The `kaoken` ops that transformers are made of: weights, linear layers, attention, norms."""

from __future__ import annotations

from xdsl.dialects.builtin import (
    BoolAttr,
    FloatAttr,
    IntegerAttr,
    IntegerType,
    Signedness,
    StringAttr,
    UnitAttr,
    bf16,
    f32,
    f64,
    i1,
    i64,
)
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

from kaoken.dialect.attributes import (
    Activation,
    ActivationAttr,
    Approximation,
    ApproximationAttr,
    Norm,
    NormAttr,
    ScheduleAttr,
    Shape,
)
from kaoken.dialect.base import AnyTensor, KaokenOp, tensor_type, type_shape, unify
from kaoken.dialect.dims import Dim
from kaoken.dialect.formats import WORD_BYTES, FormatAttr

UI8 = IntegerType(8, Signedness.UNSIGNED)
MIDDLE = 128
"""The zero point of a quantised input, unless it says another."""
BLOCK_EXTRA = 2
"""The words of a block of inputs after its numbers: what a step is worth, and their sum."""
NARROW = (bf16, UI8)
"""The element types of inputs that a linear layer sums in a wider type."""


@irdl_op_definition
class WeightOp(KaokenOp):
    """A tensor of the weight store, by name; its bytes never enter the IR."""

    name = "kaoken.weight"

    key = prop_def(StringAttr)

    assembly_format = "$key attr-dict `:` type($result)"

    def __init__(self, key: str, type_: Attribute):
        super().__init__(properties={"key": StringAttr(key)}, result_types=[type_])

    def infer_shape(self, *operands: Shape) -> Shape:
        shape = type_shape(tensor_type(self.result))
        if any(dim.constant is None for dim in shape):
            raise VerifyException("a weight's sizes are all known")
        return shape

    def infer_element_type(self) -> Attribute:
        return tensor_type(self.result).element_type


@irdl_op_definition
class LinearOp(KaokenOp):
    """`norm(activation(input @ weight.T + bias) + residual)` over the last dimension.

    weight is [N, K] as PyTorch stores it, or packed by `bake` into panels [ceil(N/R), K, R]
    padded with zeros, where R is the schedule's panel width; `out_features` then says N.

    Inputs and weights may be f32, or both bf16, summed in f32. Or the input is ui8 around
    `input_zero_point`, with one `input_scale` a row or none (the same for all rows: the weight's
    scales hold it), the weight i8 with one `weight_scale` a column; the products are summed exactly
    in i32. The result is f32; of bf16 and i8 weights it may be bf16 where no norm follows, rounded
    at the end. Panels of bf16 hold pairs, [ceil(N/R), K/2, R, 2], those of i8 fours,
    [ceil(N/R), 1 + K/4, R, 4], after the column's sum times the negated zero point as i32.

    With a `format` the weight is codes of few bits, ui8 [N, K], with `weight_scale`, and perhaps
    `weight_min`, a number for each group, [N, G]; the input is what `kaoken.quantize_blocks` gives.
    The sum of a group is exact in i32, and groups are added in f32 from first to last (see
    `kaoken.quantized.multiply`). Where the format has super-blocks, `weight_supers` says what the
    integers that are scales and minima are worth, [N, S] or [N, 2 S]. Panels of codes hold bytes
    that are full of them, by words, [ceil(N/R), words, R, 4], those of scales and minima are
    [ceil(N/R), G, R], of super-blocks [ceil(N/R), S or 2 S, R].
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

    activation = prop_def(ActivationAttr, default_value=ActivationAttr(Activation.NONE))
    norm = prop_def(NormAttr, default_value=NormAttr(Norm.NONE))
    eps = opt_prop_def(FloatAttr)
    out_features = opt_prop_def(IntegerAttr)
    input_zero_point = prop_def(IntegerAttr, default_value=IntegerAttr(MIDDLE, i64))
    format = opt_prop_def(FormatAttr)
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
        rest = list(operands[2:])
        if self.bias is not None:
            _expect_vector(rest.pop(0), n, "bias")
        if self.residual is not None:
            _expect_shape(rest.pop(0), result, "residual")
        for vector, what in ((self.norm_weight, "norm_weight"), (self.norm_bias, "norm_bias")):
            if vector is not None:
                _expect_vector(rest.pop(0), n, what)
        if self.format is None:
            self._verify_scales(rest, x[:-1], n)
        else:
            self._verify_groups(rest, w, n)
        self._verify_norm()
        return result

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
            _expect_shape(scale, wanted, what)

    def _verify_scales(self, scales: list[Shape], rows: Shape, n: Dim) -> None:
        if self.weight_min is not None or self.weight_supers is not None:
            raise VerifyException("weight_min and weight_supers belong to a weight with a format")
        element = tensor_type(self.input).element_type
        if (element == UI8) != (self.weight_scale is not None):
            raise VerifyException("weight_scale belongs to an input of ui8")
        if scales and self.weight_scale is None:
            raise VerifyException("input_scale without weight_scale")
        if self.input_scale is not None:
            _expect_shape(scales[0], rows, "input_scale")
        if self.weight_scale is not None:
            _expect_vector(scales[-1], n, "weight_scale")

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


@irdl_op_definition
class AttentionOp(KaokenOp):
    """`softmax(scale * q @ k.T + mask) @ v` for each head.

    q is [B, S, H*D], k [B, T, G*D], v [B, T, G*E]: a head's numbers lie side by side in a row,
    and each of the G key heads serves H/G query heads. The result is [B, S, H*E]. mask broadcasts
    to [B, H, S, T]: a bool mask is true where a key may be seen, a float one is added to scores.
    With `causal`, query i sees keys 0 .. i + T - S, and with `window` only the last `window` of
    these. A row whose keys are all hidden gives zeros.
    `softcap` c keeps scores between -c and c, as c * tanh(score / c), before masks and biases
    (Gemma 2, arXiv 2408.00118).
    position_bias [H, L] is what distances add to scores (Raffel et al., arXiv 1910.10683): query i
    and key j in head h have `position_bias[h, bias_origin + j - (i + T - S)]`.
    With `bf16_products`, q, k, v and exp(score - max) are rounded to bf16, sums stay f32; then q, k
    and v may also come in bf16, and the result is f32.
    """

    name = "kaoken.attention"

    query = operand_def(AnyTensor)
    key = operand_def(AnyTensor)
    value = operand_def(AnyTensor)
    mask = opt_operand_def(AnyTensor)
    position_bias = opt_operand_def(AnyTensor)

    num_heads = prop_def(IntegerAttr)
    num_kv_heads = opt_prop_def(IntegerAttr)
    scale = prop_def(FloatAttr)
    causal = prop_def(BoolAttr, default_value=BoolAttr.from_bool(False))
    window = opt_prop_def(IntegerAttr)
    bias_origin = opt_prop_def(IntegerAttr)
    softcap = opt_prop_def(FloatAttr)
    bf16_products = opt_prop_def(UnitAttr)
    schedule = opt_prop_def(ScheduleAttr)

    irdl_options = (AttrSizedOperandSegments(as_property=True), ParsePropInAttrDict())
    assembly_format = (
        "$query `,` $key `,` $value (`mask` $mask^ `:` type($mask))? "
        "(`position_bias` $position_bias^ `:` type($position_bias))? attr-dict "
        "`:` type($query) `,` type($key) `,` type($value) `->` type($result)"
    )

    @property
    def heads(self) -> int:
        return self.num_heads.value.data

    @property
    def kv_heads(self) -> int:
        """How many key and value heads there are; by default as many as query heads."""
        return self.heads if self.num_kv_heads is None else self.num_kv_heads.value.data

    def infer_element_type(self) -> Attribute:
        kinds = {tensor_type(x).element_type for x in (self.query, self.key, self.value)}
        if bf16 in kinds and self.bf16_products is not None:
            return f32
        return super().infer_element_type()

    def infer_shape(self, *operands: Shape) -> Shape:
        q, k, v = operands[:3]
        if not len(q) == len(k) == len(v) == 3:
            raise VerifyException("query, key and value are [batch, tokens, heads * head size]")
        if self.heads % self.kv_heads:
            raise VerifyException(f"{self.kv_heads} key heads do not divide {self.heads} heads")
        batch = unify(unify(q[0], k[0], "batch"), v[0], "batch")
        unify(k[1], v[1], "tokens of key and value")
        head_size = _head_size(q[2], self.heads, "query")
        if head_size != _head_size(k[2], self.kv_heads, "key"):
            raise VerifyException("query and key heads differ in size")
        value_size = _head_size(v[2], self.kv_heads, "value")
        if self.mask is not None:
            full = (batch, Dim.of(self.heads), q[1], k[1])
            _expect_shape(broadcast_shapes(operands[3], full), full, "mask")
        if self.window is not None and not self.causal.value.data:
            raise VerifyException("a window belongs to causal attention")
        if self.softcap is not None and not self.softcap.value.data > 0:
            raise VerifyException("softcap is above 0")
        if self.position_bias is not None:
            self._verify_bias(operands[-1])
        return (batch, q[1], Dim.of(self.heads * value_size))

    def _verify_bias(self, bias: Shape) -> None:
        if len(bias) != 2:
            raise VerifyException("position_bias is [heads, distances]")
        unify(bias[0], Dim.of(self.heads), "rows of position_bias and heads")
        if self.bias_origin is None:
            raise VerifyException("position_bias needs bias_origin, the column of distance 0")


class RowNormOp(KaokenOp):
    """A normalisation of the last dimension; the shape stays."""

    eps = prop_def(FloatAttr)

    def infer_shape(self, *operands: Shape) -> Shape:
        x, *vectors = operands
        if not x:
            raise VerifyException("input needs at least one dimension")
        for vector in vectors:
            _expect_vector(vector, x[-1], "weight and bias")
        return x


@irdl_op_definition
class LayerNormOp(RowNormOp):
    """`(x - mean) / sqrt(variance + eps) * weight + bias` over the last dimension.

    Ba et al., "Layer Normalization", 2016.
    """

    name = "kaoken.layer_norm"

    input = operand_def(AnyTensor)
    weight = operand_def(AnyTensor)
    bias = opt_operand_def(AnyTensor)

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = (
        "$input `,` $weight (`bias` $bias^ `:` type($bias))? attr-dict "
        "`:` type($input) `,` type($weight) `->` type($result)"
    )


@irdl_op_definition
class RmsNormOp(RowNormOp):
    """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension (Zhang and Sennrich, 2019)."""

    name = "kaoken.rms_norm"

    input = operand_def(AnyTensor)
    weight = operand_def(AnyTensor)

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = (
        "$input `,` $weight attr-dict `:` type($input) `,` type($weight) `->` type($result)"
    )


class ActivationOp(KaokenOp):
    """A function of each element alone."""

    input = operand_def(AnyTensor)

    assembly_format = "$input attr-dict `:` type($input) `->` type($result)"

    def infer_shape(self, *operands: Shape) -> Shape:
        return operands[0]


@irdl_op_definition
class GeluOp(ActivationOp):
    """`x * Phi(x)`: exact by erf, or the tanh approximation (Hendrycks and Gimpel, 2016)."""

    name = "kaoken.gelu"

    approximate = prop_def(ApproximationAttr, default_value=ApproximationAttr(Approximation.NONE))

    irdl_options = (ParsePropInAttrDict(),)


@irdl_op_definition
class ReluOp(ActivationOp):
    """`max(x, 0)`."""

    name = "kaoken.relu"


@irdl_op_definition
class SiluOp(ActivationOp):
    """`x * sigmoid(x)`."""

    name = "kaoken.silu"


@irdl_op_definition
class TanhOp(ActivationOp):
    """`tanh(x)`."""

    name = "kaoken.tanh"


@irdl_op_definition
class SigmoidOp(ActivationOp):
    """`1 / (1 + exp(-x))`."""

    name = "kaoken.sigmoid"


@irdl_op_definition
class SoftmaxOp(ActivationOp):
    """`exp(x - max) / sum(exp(x - max))` over the last dimension."""

    name = "kaoken.softmax"


@irdl_op_definition
class EmbeddingOp(KaokenOp):
    """Rows of `table` [V, H] chosen by `indices`; one outside 0..V-1 is an error at run time.

    A table that a linear layer multiplies too is read where `bake` packed it for that layer, in the
    panels of `kaoken.linear`: of f32 or of groups' scales [ceil(V/R), H, R], of bf16, of i8, or of
    codes with their `format`, whose rows are ui8. `rows` and `columns` then say V and H.
    """

    name = "kaoken.embedding"

    table = operand_def(AnyTensor)
    indices = operand_def(AnyTensor)

    rows = opt_prop_def(IntegerAttr)
    columns = opt_prop_def(IntegerAttr)
    format = opt_prop_def(FormatAttr)

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = (
        "$table `,` $indices attr-dict `:` type($table) `,` type($indices) `->` type($result)"
    )

    @property
    def is_packed(self) -> bool:
        return tensor_type(self.table).get_num_dims() > 2

    @property
    def table_shape(self) -> tuple[int, int]:
        """V and H."""
        if self.rows is None or self.columns is None:
            rows, columns = tensor_type(self.table).get_shape()
            return rows, columns
        return self.rows.value.data, self.columns.value.data

    def infer_element_type(self) -> Attribute:
        return UI8 if self.format is not None else tensor_type(self.table).element_type

    def infer_shape(self, *operands: Shape) -> Shape:
        table, indices = operands
        expect_integers(self.indices, "indices")
        if len(table) == 2 and self.rows is None:
            return (*indices, table[1])
        if len(table) not in (3, 4) or self.rows is None or self.columns is None:
            raise VerifyException("table is [rows, columns], or panels with `rows` and `columns`")
        rows, columns = self.table_shape
        panels, lines, width = (dim.constant or 0 for dim in table[:3])
        if panels != -(-rows // width):
            raise VerifyException(f"{rows} rows do not fill {panels} panels of {width}")
        if lines != self._lines(columns):
            raise VerifyException(f"{columns} columns are not {lines} lines of a panel")
        return (*indices, Dim.of(columns))

    def _lines(self, columns: int) -> int:
        """How many lines of R words, or of R numbers, a panel has."""
        if self.format is not None:
            format_ = self.format.data
            return format_.words(format_.groups(columns) * format_.block(columns))
        if tensor_type(self.table).get_num_dims() == 3:
            return columns
        pair = tensor_type(self.table).element_type == bf16
        return columns // 2 if pair else 1 + columns // WORD_BYTES


@irdl_op_definition
class MeanPoolOp(KaokenOp):
    """The mean over tokens of the rows that `mask` [B, S] keeps: [B, S, H] to [B, H].

    Sentence encoders end so; a sequence without a kept row gives zeros.
    """

    name = "kaoken.mean_pool"

    input = operand_def(AnyTensor)
    mask = operand_def(AnyTensor)

    assembly_format = (
        "$input `,` $mask attr-dict `:` type($input) `,` type($mask) `->` type($result)"
    )

    def infer_shape(self, *operands: Shape) -> Shape:
        x, mask = operands
        if len(x) != 3:
            raise VerifyException("input is [batch, tokens, features]")
        _expect_shape(mask, x[:2], "mask")
        return (x[0], x[2])


@irdl_op_definition
class NormalizeOp(KaokenOp):
    """`x / max(|x|, eps)`, the Euclidean length over the last dimension."""

    name = "kaoken.normalize"

    input = operand_def(AnyTensor)
    eps = prop_def(FloatAttr, default_value=FloatAttr(1e-12, f64))

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$input attr-dict `:` type($input) `->` type($result)"

    def infer_shape(self, *operands: Shape) -> Shape:
        if not operands[0]:
            raise VerifyException("input needs at least one dimension")
        return operands[0]


def broadcast_shapes(*shapes: Shape) -> Shape:
    """numpy's broadcast of shapes. Raises VerifyException when two known sizes clash."""
    rank = max((len(shape) for shape in shapes), default=0)
    one = Dim.of(1)
    result = [one] * rank
    for shape in shapes:
        for i, dim in enumerate(shape, start=rank - len(shape)):
            if dim == one:
                continue
            result[i] = dim if result[i] == one else unify(result[i], dim, "broadcast")
    return tuple(result)


def expect_integers(value: SSAValue, what: str) -> None:
    """Raise VerifyException unless the tensor holds integers."""
    element = tensor_type(value).element_type
    if not isinstance(element, IntegerType) or element == i1:
        raise VerifyException(f"{what} must be integers, not {element}")


def float_attr(value: float) -> FloatAttr:
    """A scalar parameter such as eps or scale, kept in double precision."""
    return FloatAttr(value, f64)


def int_attr(value: int) -> IntegerAttr:
    return IntegerAttr(value, i64)


def _head_size(width: Dim, heads: int, what: str) -> int:
    if (n := width.constant) is None or n % heads:
        raise VerifyException(f"{what}'s row of {width} does not split into {heads} heads")
    return n // heads


def _expect_vector(shape: Shape, size: Dim, what: str) -> None:
    _expect_shape(shape, (size,), what)


def _expect_shape(shape: Shape, wanted: Shape, what: str) -> None:
    if len(shape) != len(wanted):
        raise VerifyException(f"{what} has {len(shape)} dimensions, not {len(wanted)}")
    for a, b in zip(shape, wanted, strict=True):
        unify(a, b, what)


NN_OPS = [
    WeightOp,
    LinearOp,
    MatmulOp,
    AttentionOp,
    LayerNormOp,
    RmsNormOp,
    GeluOp,
    ReluOp,
    SiluOp,
    TanhOp,
    SigmoidOp,
    SoftmaxOp,
    EmbeddingOp,
    MeanPoolOp,
    NormalizeOp,
]
