"""`kaoken.attention`: all heads at once, with masks, windows and biases."""

from __future__ import annotations

from xdsl.dialects.builtin import BoolAttr, FloatAttr, IntegerAttr, UnitAttr, bf16, f32
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

from kaoken.dialect.attributes import ScheduleAttr, Shape
from kaoken.dialect.base import AnyTensor, KaokenOp, tensor_type, unify
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn.checks import broadcast_shapes, expect_shape, head_size


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
    With `base_two`, softmax takes powers of two instead of e: scale, float masks and position_bias
    then hold the factor log2(e).
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
    base_two = opt_prop_def(UnitAttr)
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

    @property
    def is_rounded(self) -> bool:
        """Whether products of bf16 give a result of bf16, too."""
        return self.bf16_products is not None and tensor_type(self.result).element_type == bf16

    def infer_element_type(self) -> Attribute:
        kinds = {tensor_type(x).element_type for x in (self.query, self.key, self.value)}
        if self.is_rounded:
            return bf16
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
        size = head_size(q[2], self.heads, "query")
        if size != head_size(k[2], self.kv_heads, "key"):
            raise VerifyException("query and key heads differ in size")
        value_size = head_size(v[2], self.kv_heads, "value")
        if self.mask is not None:
            full = (batch, Dim.of(self.heads), q[1], k[1])
            expect_shape(broadcast_shapes(operands[3], full), full, "mask")
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
