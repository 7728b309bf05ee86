"""Normalisations of rows: `layer_norm`, `rms_norm`, `normalize`."""

from __future__ import annotations

from xdsl.dialects.builtin import FloatAttr, f64
from xdsl.irdl import (
    ParsePropInAttrDict,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    prop_def,
)
from xdsl.utils.exceptions import VerifyException

from kaoken.dialect.attributes import Shape
from kaoken.dialect.base import AnyTensor, KaokenOp
from kaoken.dialect.nn.checks import expect_vector


class RowNormOp(KaokenOp):
    """A normalisation of the last dimension; the shape stays."""

    eps = prop_def(FloatAttr)

    def infer_shape(self, *operands: Shape) -> Shape:
        x, *vectors = operands
        if not x:
            raise VerifyException("input needs at least one dimension")
        for vector in vectors:
            expect_vector(vector, x[-1], "weight and bias")
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
