"""What an op takes at least: floating-point operations, and bytes that are read and written.

    kaoken.linear : tensor<?x384xf32>, tensor<1536x384xf32> -> tensor<?x1536xf32>

takes `2 * 384 * 1536 * tokens` operations on `4 * (384 * 1536 + (384 + 1536) * tokens)` bytes. As
is usual, matrix products count alone where there are any; of other ops each step on an element
counts one, exp and erf as well. Every operand is read once; of a table only the rows looked up, of
a cache those that are filled, in the type that it holds.

The ratio of the two, the arithmetic intensity, is an op's place on a roofline (Williams et al.,
2009).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from xdsl.dialects.builtin import DictionaryAttr, StringAttr, bf16
from xdsl.ir import Attribute, SSAValue

from kaoken.analysis.shapes import Shapes
from kaoken.dialect.attributes import Norm
from kaoken.dialect.base import KaokenOp, element_type_of
from kaoken.dialect.decoder import CacheAppendOp, CacheReadOp, CacheType, cache_type
from kaoken.dialect.dims import Dim, product
from kaoken.dialect.nn import (
    UI8,
    ActivationOp,
    AttentionOp,
    EmbeddingOp,
    GeluOp,
    LayerNormOp,
    LinearOp,
    MatmulOp,
    MeanPoolOp,
    NormalizeOp,
    RmsNormOp,
    SiluOp,
    SoftmaxOp,
)
from kaoken.dialect.quant import FakeQuantizeOp, QuantizeOp, RowScaleOp
from kaoken.dialect.tensor import BroadcastOp, CumsumOp, ElementwiseOp, ReduceOp, SliceOp
from kaoken.dtypes import numpy_dtype

_STEPS: dict[type[KaokenOp], int] = {
    LayerNormOp: 7,  # mean 1, variance 3, scaling 1, weight and bias 2
    RmsNormOp: 4,
    SoftmaxOp: 5,  # max, difference, exp, sum, quotient
    NormalizeOp: 3,
    GeluOp: 4,
    SiluOp: 4,
    QuantizeOp: 3,
    FakeQuantizeOp: 4,
    RowScaleOp: 2,
    MeanPoolOp: 2,
    ElementwiseOp: 1,
    ReduceOp: 1,
    CumsumOp: 1,
    ActivationOp: 1,
}
"""Steps on each element of the first operand; the first class that fits counts."""


@dataclass(frozen=True)
class Cost:
    """Operations and bytes as polynomials in the open sizes."""

    flops: Dim
    bytes: Dim
    precision: str = "fp32"
    """Of the operations: which of the machine's peaks applies."""

    def attribute(self) -> DictionaryAttr:
        texts = {"flops": str(self.flops), "bytes": str(self.bytes), "precision": self.precision}
        return DictionaryAttr({key: StringAttr(text) for key, text in texts.items()})


def cost_texts(attribute: Attribute | None) -> Mapping[str, str]:
    """What `Cost.attribute` holds, as texts; nothing where it is missing."""
    if not isinstance(attribute, DictionaryAttr):
        return {}
    return {k: v.data for k, v in attribute.data.items() if isinstance(v, StringAttr)}


def cost_of(op: KaokenOp, shapes: Shapes) -> Cost:
    """What an op takes, the norm epilogue of a linear layer not counted."""
    count = _PRODUCTS.get(type(op))
    flops = _steps(op, shapes) if count is None else count(op, shapes)
    return Cost(flops, _bytes_moved(op, shapes), _precision(op))


def norm_cost_of(op: LinearOp, shapes: Shapes) -> Cost:
    """What the norm epilogue of a linear layer takes: it works in place."""
    steps = _STEPS[LayerNormOp if op.norm.data is Norm.LAYER_NORM else RmsNormOp]
    bytes_ = _nbytes(op.result, shapes) * 2
    for vector in (op.norm_weight, op.norm_bias):
        bytes_ = bytes_ if vector is None else bytes_ + _nbytes(vector, shapes)
    return Cost(product(shapes[op.result]) * steps, bytes_)


def append_cost_of(op: CacheAppendOp, shapes: Shapes) -> Cost:
    """What writing rows to a cache takes."""
    rows = product(shapes[op.input][:-1])
    return Cost(Dim.of(0), _nbytes(op.input, shapes) + rows * _row_bytes(cache_type(op.cache)))


def combine_cost_of(op: AttentionOp, shapes: Shapes) -> Cost:
    """What putting together the parts of cached attention takes where there is one part: its sums,
    and for each head of a token the largest score and the total, are read again."""
    tokens, numbers = product(shapes[op.query][:-1]), product(shapes[op.result])
    return Cost(numbers, _nbytes(op.result, shapes) * 2 + tokens * (2 * 4 * op.heads))


def _row_bytes(cache: CacheType) -> int:
    """The bytes of a row in a cache, with its scales."""
    scales = 4 * cache.heads.data if cache.has_scales else 0
    return cache.width * numpy_dtype(cache.element_type).itemsize + scales


def _steps(op: KaokenOp, shapes: Shapes) -> Dim:
    steps = next((steps for kind, steps in _STEPS.items() if isinstance(op, kind)), 0)
    return product(shapes[op.operands[0]]) * steps if steps else Dim.of(0)


def _linear(op: LinearOp, shapes: Shapes) -> Dim:
    return product(shapes[op.result]) * (2 * op.k)


def _matmul(op: MatmulOp, shapes: Shapes) -> Dim:
    return product(shapes[op.result]) * shapes[op.lhs][-1] * 2


def _attention(op: AttentionOp, shapes: Shapes) -> Dim:
    """Both products; causal attention needs those of the keys that are seen alone."""
    batch, queries, width = shapes[op.query]
    keys, values = shapes[op.key][1], shapes[op.result][2]
    pairs = queries * keys * 2
    if op.causal.value.data:
        pairs = pairs - queries * queries + queries
    return batch * pairs * (width + values)


_PRODUCTS: dict[type[KaokenOp], Callable[[Any, Shapes], Dim]] = {
    LinearOp: _linear,
    MatmulOp: _matmul,
    AttentionOp: _attention,
}


def _bytes_moved(op: KaokenOp, shapes: Shapes) -> Dim:
    total = _nbytes(op.result, shapes)
    for value in _read(op):
        total = total + _nbytes(value, shapes)
    return total


def _read(op: KaokenOp) -> list[SSAValue]:
    """What an op reads once, or values as large."""
    match op:
        case EmbeddingOp():
            return [op.indices, op.result]
        case SliceOp() | BroadcastOp():
            return [op.result]
        case LinearOp():
            scales = [op.input_scale, op.weight_scale, op.weight_min, op.weight_supers]
            others = [op.bias, op.residual, *scales]
            return [op.input, op.weight, *(v for v in others if v is not None)]
        case _:
            return list(dict.fromkeys(op.operands))


def _nbytes(value: SSAValue, shapes: Shapes) -> Dim:
    if isinstance(read := value.owner, CacheReadOp):
        return product(shapes[value][:-1]) * _row_bytes(cache_type(read.cache))
    return product(shapes[value]) * numpy_dtype(element_type_of(value)).itemsize


def _precision(op: KaokenOp) -> str:
    element = element_type_of(op.operands[0]) if op.operands else None
    if not isinstance(op, LinearOp):
        narrow = isinstance(op, AttentionOp) and op.bf16_products is not None
        return "bf16" if narrow else "fp32"
    return {bf16: "bf16", UI8: "int8"}.get(element, "fp32")  # pyright: ignore[reportArgumentType, reportCallIssue]
