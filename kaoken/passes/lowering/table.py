"""Which function lowers which op. A new op adds its line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xdsl.ir import Operation

from kaoken.dialect import decoder, nn, quant, sparsity, tensor
from kaoken.dialect.lookup import LookupTablesOp
from kaoken.passes.lowering import attention, embedding, linear, lookup, pointwise, rows, skipping
from kaoken.passes.lowering import decoder as decoder_lowering
from kaoken.passes.lowering import quant as quant_lowering
from kaoken.passes.lowering.kernel import Kernel

LOWERINGS: dict[type[Operation], Callable[[Any, Kernel], None]] = {
    nn.LinearOp: linear.lower_linear,
    nn.MatmulOp: linear.lower_matmul,
    nn.AttentionOp: attention.lower_attention,
    nn.LayerNormOp: rows.lower_layer_norm,
    nn.RmsNormOp: rows.lower_layer_norm,
    nn.SoftmaxOp: rows.lower_softmax,
    nn.EmbeddingOp: embedding.lower_embedding,
    nn.MeanPoolOp: rows.lower_mean_pool,
    nn.NormalizeOp: rows.lower_normalize,
    decoder.CacheAppendOp: decoder_lowering.lower_cache_append,
    decoder.CacheReadOp: decoder_lowering.lower_cache_read,
    decoder.RopeOp: decoder_lowering.lower_rope,
    quant.RowScaleOp: quant_lowering.lower_row_scale,
    quant.QuantizeOp: quant_lowering.lower_quantize,
    quant.QuantizeBlocksOp: quant_lowering.lower_quantize_blocks,
    quant.DequantizeOp: quant_lowering.lower_dequantize,
    quant.FakeQuantizeOp: quant_lowering.lower_fake_quantize,
    sparsity.NonzerosOp: skipping.lower_nonzeros,
    LookupTablesOp: lookup.lower_lookup_tables,
    nn.GeluOp: pointwise.lower_activation,
    nn.ReluOp: pointwise.lower_activation,
    nn.SiluOp: pointwise.lower_activation,
    nn.TanhOp: pointwise.lower_activation,
    nn.SigmoidOp: pointwise.lower_activation,
    tensor.FullOp: pointwise.lower_full,
    tensor.IotaOp: pointwise.lower_iota,
    tensor.ReshapeOp: pointwise.lower_reshape,
    tensor.TransposeOp: pointwise.lower_transpose,
    tensor.SliceOp: pointwise.lower_slice,
    tensor.ConcatOp: pointwise.lower_concat,
    tensor.BroadcastOp: pointwise.lower_broadcast,
    tensor.GatherOp: pointwise.lower_gather,
    tensor.CastOp: pointwise.lower_cast,
    tensor.ElementwiseOp: pointwise.lower_elementwise,
    tensor.ReduceOp: pointwise.lower_reduce,
    tensor.CumsumOp: pointwise.lower_cumsum,
}
