"""`quantize`: narrow the products of linear layers to bf16 or to eight bits.

    %y = kaoken.linear %x, %w bias %b : tensor<?x384xf32>, tensor<1536x384xf32> -> ...
->  (dtype=int8)
    %ws = kaoken.row_scale %w : tensor<1536x384xf32> -> tensor<1536xf32>
    %wq = kaoken.quantize %w, %ws : ... -> tensor<1536x384xi8>
    %xs = kaoken.row_scale %x : tensor<?x384xf32> -> tensor<?xf32>
    %xq = kaoken.quantize %x, %xs {zero_point = 128} : ... -> tensor<?x384xui8>
    %y = kaoken.linear %xq, %wq bias %b input_scale %xs weight_scale %ws : ...

Weights have one scale a column, activations one a token, taken while the program runs; each
activation is quantised once for all the layers that read it. What is said of weights alone `bake`
folds. Sums, epilogues and everything between linear layers stay f32 (i32 for the products of
eight bits). Attention's products take bf16 factors with either dtype. Layers whose weights are not
known, or whose inputs do not fill 32-bit lanes, stay as they are. With dtype=f32 nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, UnitAttr, bf16, f32
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from kaoken.analysis.constants import is_constant
from kaoken.dialect.base import KaokenOp, tensor_type
from kaoken.dialect.canonicalization.rules import linear_like
from kaoken.dialect.nn import AttentionOp, LinearOp, int_attr
from kaoken.dialect.quant import QuantizeOp, RowScaleOp
from kaoken.dialect.tensor import CastOp
from kaoken.errors import KaokenError
from kaoken.passes.baking.scales import fold_attention_scale
from kaoken.passes.lowering.cached_attention import reads_caches

DTYPES = ("f32", "bf16", "int8")
_GROUP = {"bf16": 2, "int8": 4}


@dataclass(frozen=True)
class QuantizePass(ModulePass):
    """Narrow the inputs and weights of linear layers."""

    name = "quantize"

    dtype: str = "int8"
    """`f32`, `bf16` or `int8`."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            known = ", ".join(DTYPES)
            raise KaokenError(f"quantize has no dtype {self.dtype!r}: choose one of {known}")

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if self.dtype == "f32":
            return
        for function in op.ops:
            if isinstance(function, FuncOp):
                for block in function.body.blocks:
                    self._quantize(block)

    def _quantize(self, block: Block) -> None:
        """Scales go into the weights while these still are f32."""
        for op in list(block.ops):
            if isinstance(op, AttentionOp):
                fold_attention_scale(op)
                _narrow_attention(op)
        narrowed: dict[SSAValue, tuple[SSAValue, SSAValue | None]] = {}
        for op in list(block.ops):
            if isinstance(op, LinearOp) and _can_narrow(op, _GROUP[self.dtype]):
                self._narrow(op, narrowed)

    def _narrow(
        self, op: LinearOp, narrowed: dict[SSAValue, tuple[SSAValue, SSAValue | None]]
    ) -> None:
        for value, zero_point in ((op.input, 128), (op.weight, 0)):
            if value not in narrowed:
                narrowed[value] = self._narrow_value(op, value, zero_point)
        (x, x_scale), (w, w_scale) = narrowed[op.input], narrowed[op.weight]
        operands = {"input": x, "weight": w, "input_scale": x_scale, "weight_scale": w_scale}
        Rewriter.replace_op(op, linear_like(op, op.result.type, operands))

    def _narrow_value(
        self, op: LinearOp, value: SSAValue, zero_point: int
    ) -> tuple[SSAValue, SSAValue | None]:
        """The narrow value and its scale, computed before the layer."""
        if self.dtype == "bf16":
            return _insert(op, CastOp.to(value, bf16)), None
        scale = _insert(op, RowScaleOp.make([value]))
        quantized = QuantizeOp.make([value, scale], {"zero_point": int_attr(zero_point)})
        return _insert(op, quantized), scale


def _narrow_attention(op: AttentionOp) -> None:
    """Scores and their products with the values in bf16, whatever the linear layers have."""
    if reads_caches(op):
        return
    head_size = tensor_type(op.query).get_shape()[-1] // op.heads
    if head_size % 2 == 0:
        op.bf16_products = UnitAttr()


def _insert(before: LinearOp, op: KaokenOp) -> SSAValue:
    Rewriter.insert_op(op, InsertPoint.before(before))
    return op.result


def _can_narrow(op: LinearOp, group: int) -> bool:
    is_f32 = tensor_type(op.input).element_type == tensor_type(op.weight).element_type == f32
    return is_f32 and not op.is_packed and op.k % group == 0 and is_constant(op.weight)
