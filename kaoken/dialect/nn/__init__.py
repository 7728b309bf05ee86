"""The `kaoken` ops that transformers are made of: weights, linear layers, attention, norms."""

from kaoken.dialect.nn.activations import (
    ActivationOp,
    GeluOp,
    ReluOp,
    SigmoidOp,
    SiluOp,
    SoftmaxOp,
    TanhOp,
)
from kaoken.dialect.nn.attention import AttentionOp
from kaoken.dialect.nn.checks import BYTE_BITS, broadcast_shapes, check_bits, expect_integers
from kaoken.dialect.nn.linear import BLOCK_EXTRA, MIDDLE, NARROW, UI8, LinearOp, MatmulOp
from kaoken.dialect.nn.norms import LayerNormOp, NormalizeOp, RmsNormOp, RowNormOp
from kaoken.dialect.nn.tokens import EmbeddingOp, MeanPoolOp
from kaoken.dialect.nn.weight import WeightOp

NN_OPS = [
    WeightOp,
    LinearOp,
    MatmulOp,
    AttentionOp,
    LayerNormOp,
    RmsNormOp,
    GeluOp,
    ReluOp,
    SiluOp,
    TanhOp,
    SigmoidOp,
    SoftmaxOp,
    EmbeddingOp,
    MeanPoolOp,
    NormalizeOp,
]
