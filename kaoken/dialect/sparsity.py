"""The `kaoken` op that tells which inputs of a product are not zero."""

from __future__ import annotations

from xdsl.dialects.builtin import IntegerAttr, i32, i64
from xdsl.ir import Attribute
from xdsl.irdl import ParsePropInAttrDict, irdl_op_definition, operand_def, prop_def
from xdsl.utils.exceptions import VerifyException

from kaoken.dialect.attributes import Shape
from kaoken.dialect.base import AnyTensor, KaokenOp, tensor_type
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import BLOCK_EXTRA

LIST_PADDING = 16
"""Zeros behind a list: what is fetched ahead looks so far behind its end at most."""


@irdl_op_definition
class NonzerosOp(KaokenOp):
    """The steps of a row in which a number is not zero; of more rows than one nothing.

    A row, f32 [..., K] or blocks of words i32 [..., G, W], is seen as blocks of up to `block` steps
    of `words` numbers or words each. The result is i32: for each block where its part of the list
    begins, then where the last part ends; then the list: steps, counted from their block's first;
    then zeros.
    """

    name = "kaoken.nonzeros"

    input = operand_def(AnyTensor)
    block = prop_def(IntegerAttr)
    words = prop_def(IntegerAttr, default_value=IntegerAttr(1, i64))

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$input attr-dict `:` type($input) `->` type($result)"

    @property
    def is_blocked(self) -> bool:
        """Whether the input is what `kaoken.quantize_blocks` gives."""
        return tensor_type(self.input).element_type == i32

    @property
    def row_words(self) -> int:
        """Numbers or words of a row, what blocks have besides included."""
        *_, groups, last = (1, *tensor_type(self.input).get_shape())
        return groups * last if self.is_blocked else last

    @property
    def block_words(self) -> int:
        """From a block's begin to that of the next."""
        extra = BLOCK_EXTRA if self.is_blocked else 0
        return self.block.value.data * self.words.value.data + extra

    @property
    def blocks(self) -> int:
        return -(-self.row_words // self.block_words)

    @property
    def steps(self) -> int:
        """All steps of a row."""
        whole, rest = divmod(self.row_words, self.block_words)
        return whole * self.block.value.data + rest // self.words.value.data

    def infer_shape(self, *operands: Shape) -> Shape:
        if not operands[0] or operands[0][-1].constant is None:
            raise VerifyException("input is [..., K] with K known")
        if self.block.value.data < 1 or self.words.value.data < 1:
            raise VerifyException("a block has a step or more, a step a number or more")
        return (Dim.of(self.blocks + 1 + self.steps + LIST_PADDING),)

    def infer_element_type(self) -> Attribute:
        return i32


SPARSITY_OPS = [NonzerosOp]
