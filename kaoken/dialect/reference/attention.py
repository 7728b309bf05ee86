"""Attention, whose scores are rounded before a mask is added."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from xdsl.dialects.builtin import bf16
from xdsl.interpreter import Interpreter, impl

from kaoken.dialect import nn
from kaoken.dialect.reference.results import Array, Arrays, OpFunctions, float_dtype, result, wide
from kaoken.dtypes import numpy_dtype


class AttentionFunctions(OpFunctions):
    """Of `kaoken.dialect.nn`: attention."""

    @impl(nn.AttentionOp)
    def attention(self, interpreter: Interpreter, op: nn.AttentionOp, args: Arrays) -> Arrays:
        rounded = _bf16 if op.bf16_products is not None else np.asarray
        query = rounded(_split_heads(args[0], op.heads))
        group = op.heads // op.kv_heads
        key, value = (rounded(np.repeat(_split_heads(x, op.kv_heads), group, 1)) for x in args[1:3])
        scores = query @ np.swapaxes(key, -1, -2) * op.scale.value.data
        narrow = scores.astype(np.promote_types(np.float32, float_dtype(op)))
        if op.softcap is not None:
            cap = narrow.dtype.type(op.softcap.value.data)
            narrow = cap * np.tanh(narrow / cap)
        if op.mask is not None:
            narrow = _masked(narrow, args[3])
        if op.position_bias is not None and op.bias_origin is not None:
            narrow = narrow + _by_distance(args[-1], op.bias_origin.value.data, narrow.shape)
        if op.causal.value.data:
            window = op.window.value.data if op.window is not None else None
            narrow = np.where(_causal(narrow.shape, window), narrow, -np.inf)
        powers, total = _powers(narrow, np.exp if op.base_two is None else np.exp2)
        mixed = rounded(powers) @ value / total
        rows = np.swapaxes(mixed, 1, 2)
        return (result(op, rows.reshape(*rows.shape[:2], rows.shape[2] * rows.shape[3])),)


def _split_heads(x: Array, heads: int) -> Array:
    """[B, S, heads * D] to [B, heads, S, D], in float64."""
    rows = wide(x).reshape(*x.shape[:2], heads, x.shape[2] // heads)
    return np.swapaxes(rows, 1, 2)


def _masked(scores: Array, mask: Array) -> Array:
    if mask.dtype == np.bool_:
        return np.where(mask, scores, -np.inf).astype(scores.dtype)
    return scores + mask.astype(scores.dtype)


def _causal(scores: Sequence[int], window: int | None) -> Array:
    """Which keys [keys] each query [queries, 1] sees, for scores [..., queries, keys]."""
    queries, keys = scores[-2:]
    last = np.arange(queries)[:, None] + keys - queries
    seen = np.arange(keys) <= last
    return seen if window is None else seen & (np.arange(keys) > last - window)


def _by_distance(bias: Array, origin: int, scores: Sequence[int]) -> Array:
    """The bias of each query and key [heads, queries, keys]; 0 where the table has no column."""
    queries, keys = scores[-2:]
    column = origin + np.arange(keys) - (np.arange(queries)[:, None] + keys - queries)
    known = (column >= 0) & (column < bias.shape[1])
    return np.where(known, bias[:, np.where(known, column, 0)], np.float32(0))


def _powers(scores: Array, power: Callable[[Array], Array] = np.exp) -> tuple[Array, Array]:
    """exp(score - max) of the last dimension and their sums, in float64.

    A row of -inf alone has powers of 0 and the sum 1.
    """
    scores = scores.astype(np.float64)
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    powers = power(scores - np.where(np.isneginf(top), 0, top))
    total = powers.sum(-1, keepdims=True)
    return powers, np.where(total == 0, 1, total)


def _bf16(x: Array) -> Array:
    """Rounded to bf16, halves to even."""
    return x.astype(np.float32).astype(numpy_dtype(bf16)).astype(np.float64)
