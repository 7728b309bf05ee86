"""Rows for token ids, and the mean over tokens."""

from __future__ import annotations

import numpy as np
from xdsl.interpreter import Interpreter, impl

from kaoken import quantized
from kaoken.dialect import nn
from kaoken.dialect.reference.linear import unpack_weight
from kaoken.dialect.reference.results import Arrays, OpFunctions, check_indices, result, wide


class TokenFunctions(OpFunctions):
    """Of `kaoken.dialect.nn`: where a model begins and ends."""

    @impl(nn.EmbeddingOp)
    def embedding(self, interpreter: Interpreter, op: nn.EmbeddingOp, args: Arrays) -> Arrays:
        table, indices = args
        check_indices(op.indices, indices, op.table_shape[0])
        if op.format is not None:
            table = quantized.unpack_codes(table, op.format.data, *op.table_shape)
        elif op.is_packed:
            table = unpack_weight(table, *op.table_shape)
        return (table[indices],)

    @impl(nn.MeanPoolOp)
    def mean_pool(self, interpreter: Interpreter, op: nn.MeanPoolOp, args: Arrays) -> Arrays:
        kept = (args[1] != 0)[..., None]
        total = np.where(kept, wide(args[0]), 0).sum(1)
        return (result(op, total / np.maximum(kept.sum(1), 1)),)
