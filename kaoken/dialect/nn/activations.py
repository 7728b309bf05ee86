"""Functions of each element, and softmax of each row: the shape stays."""

from __future__ import annotations

from xdsl.irdl import ParsePropInAttrDict, irdl_op_definition, operand_def, prop_def

from kaoken.dialect.attributes import Approximation, ApproximationAttr, Shape
from kaoken.dialect.base import AnyTensor, KaokenOp


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
