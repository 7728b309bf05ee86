"""`kaoken.weight`: a tensor of the weight store."""

from __future__ import annotations

from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Attribute
from xdsl.irdl import irdl_op_definition, prop_def
from xdsl.utils.exceptions import VerifyException

from kaoken.dialect.attributes import Shape
from kaoken.dialect.base import KaokenOp, tensor_type, type_shape


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
