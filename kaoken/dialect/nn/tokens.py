"""Where a model begins and ends: rows for token ids, and the mean over tokens."""

from __future__ import annotations

from xdsl.dialects.builtin import IntegerAttr, bf16
from xdsl.ir import Attribute
from xdsl.irdl import ParsePropInAttrDict, irdl_op_definition, operand_def, opt_prop_def
from xdsl.utils.exceptions import VerifyException

from kaoken.dialect.attributes import Shape
from kaoken.dialect.base import AnyTensor, KaokenOp, tensor_type
from kaoken.dialect.dims import Dim
from kaoken.dialect.formats import WORD_BYTES, FormatAttr
from kaoken.dialect.nn.checks import expect_integers, expect_shape
from kaoken.dialect.nn.linear import UI8


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
        expect_shape(mask, x[:2], "mask")
        return (x[0], x[2])
