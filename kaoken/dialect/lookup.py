"""The `kaoken` op that multiplies a row's numbers by all codes ahead of a product with few bits."""

from __future__ import annotations

from xdsl.dialects.builtin import IntegerAttr, i32
from xdsl.ir import Attribute
from xdsl.irdl import ParsePropInAttrDict, irdl_op_definition, operand_def, prop_def
from xdsl.utils.exceptions import VerifyException

from kaoken.dialect.attributes import Shape
from kaoken.dialect.base import AnyTensor, KaokenOp, tensor_type
from kaoken.dialect.dims import Dim
from kaoken.dialect.formats import WORD_BYTES
from kaoken.dialect.nn import BLOCK_EXTRA

VALUES = 16
"""The values of a nibble."""
TABLES = 4
"""The tables of a word of codes: for each of two nibbles the low and the high bytes of sums."""


@irdl_op_definition
class LookupTablesOp(KaokenOp):
    """Sums of numbers times codes for all values of a nibble (T-MAC, arXiv 2407.00088).

    input is what `kaoken.quantize_blocks` gives, [..., G, W]. A word of codes of 1 or 2 `bits` has
    for each of its four bytes two nibbles of 4 or 2 codes. A sum of those times the numbers that
    they meet takes 16 bits: the result, i32, has for each word, its lower and its upper nibble, the
    low and the high bytes of the sum, and each value of the nibble the sums' bytes for the four
    bytes of the word. It is made for a single row; of more rows it is zeros.
    """

    name = "kaoken.lookup_tables"

    input = operand_def(AnyTensor)
    bits = prop_def(IntegerAttr)

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$input attr-dict `:` type($input) `->` type($result)"

    @property
    def codes(self) -> int:
        """The codes of a nibble."""
        return 4 // self.bits.value.data

    @property
    def groups(self) -> int:
        return tensor_type(self.input).get_shape()[-2]

    @property
    def block_words(self) -> int:
        """The words of numbers in a block."""
        return tensor_type(self.input).get_shape()[-1] - BLOCK_EXTRA

    @property
    def chunks(self) -> int:
        """The words of codes in a group."""
        return self.block_words // (2 * self.codes)

    def infer_shape(self, *operands: Shape) -> Shape:
        x = operands[0]
        if tensor_type(self.input).element_type != i32 or len(x) < 2:
            raise VerifyException("input is rows of blocks of words")
        if self.bits.value.data not in (1, 2):
            raise VerifyException("a nibble is looked up for codes of 1 or 2 bits")
        if self.block_words % (2 * self.codes):
            raise VerifyException(f"blocks do not fill words of {8 * WORD_BYTES} bits")
        return (Dim.of(self.groups * self.chunks * TABLES * VALUES),)

    def infer_element_type(self) -> Attribute:
        return i32


LOOKUP_OPS = [LookupTablesOp]
