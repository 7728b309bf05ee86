"""Scaled dot product attention: torch's [B, H, S, D] around kaoken's [B, S, H*D]."""

from __future__ import annotations

import math
from typing import Any

from xdsl.dialects.builtin import BoolAttr
from xdsl.ir import SSAValue

from kaoken.dialect.attributes import Function, float_attr, int_attr
from kaoken.dialect.canonicalization.rules import owner
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import AttentionOp
from kaoken.dialect.tensor import BroadcastOp, ReshapeOp, TransposeOp
from kaoken.errors import KaokenError
from kaoken.frontend.aten.registry import Importer, aten
from kaoken.frontend.graph import ONE, Graph


@aten("scaled_dot_product_attention")
def scaled_dot_product_attention(
    g: Importer,
    query: SSAValue,
    key: SSAValue,
    value: SSAValue,
    attn_mask: SSAValue | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> SSAValue:
    if dropout_p:
        raise KaokenError("attention with dropout: call module.eval() first")
    return attention(g, query, key, value, attn_mask, is_causal, scale)


@aten("_scaled_dot_product_flash_attention_for_cpu")
def flash_attention(
    g: Importer,
    query: SSAValue,
    key: SSAValue,
    value: SSAValue,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    attn_mask: SSAValue | None = None,
    scale: float | None = None,
    **_: Any,
) -> list[SSAValue | None]:
    return [
        scaled_dot_product_attention(
            g, query, key, value, attn_mask, dropout_p, is_causal, scale=scale
        ),
        None,
    ]


def attention(
    g: Graph,
    query: SSAValue,
    key: SSAValue,
    value: SSAValue,
    mask: SSAValue | None,
    causal: bool,
    scale: float | None,
    softcap: float | None = None,
) -> SSAValue:
    """Attention on [..., H, S, D] tensors; without a heads dimension there is one head.

    scale is by default 1/sqrt(D). Causal means that query i sees keys 0..i. `softcap` as in
    AttentionOp.
    """
    shape = (*g.shape(query)[:-1], g.shape(value)[-1])
    usual = 1 / math.sqrt(_head_size(g, query))
    if scale is None or math.isclose(scale, usual, rel_tol=1e-6):
        scale = usual
    in_front = g.rank(query) == 3 and _heads_in_front(g, query)
    query, key, value = (_four_dimensions(g, x, in_front) for x in (query, key, value))
    key, value = _unrepeated(g, key, value)
    if mask is not None and g.rank(mask) == 3:
        at = 1 if g.shape(query)[1] == ONE else 0
        mask = _insert(g, mask, at)
    if causal and g.shape(query)[2] != g.shape(key)[2]:
        causal, mask = False, _top_left(g, g.shape(query)[2], g.shape(key)[2], mask)
    rows = [_heads_to_rows(g, x) for x in (query, key, value)]
    attributes = {
        "num_heads": int_attr(_heads(g, query)),
        "num_kv_heads": int_attr(_heads(g, key)) if _heads(g, key) != _heads(g, query) else None,
        "scale": float_attr(scale),
        "causal": BoolAttr.from_bool(causal),
        "softcap": None if softcap is None else float_attr(softcap),
    }
    result = g.make(AttentionOp, [*rows, mask], attributes)
    batch, tokens, _ = g.shape(result)
    heads = g.shape(query)[1]
    split = g.reshape(result, (batch, tokens, heads, shape[-1]))
    return g.reshape(g.transpose(split, [0, 2, 1, 3]), shape)


def _head_size(g: Graph, query: SSAValue) -> int:
    if (size := g.shape(query)[-1].constant) is None:
        raise KaokenError("attention needs a head size that is a known number")
    return size


def _heads(g: Graph, x: SSAValue) -> int:
    if (heads := g.shape(x)[1].constant) is None:
        raise KaokenError("attention needs a number of heads that is known")
    return heads


def _four_dimensions(g: Graph, x: SSAValue, heads_in_front: bool) -> SSAValue:
    """[B, H, S, D] of a tensor that may lack the batch or the heads."""
    rank = g.rank(x)
    if rank > 4:
        raise KaokenError(f"attention on tensors of {rank} dimensions is not supported")
    if rank == 3 and not heads_in_front:
        return _insert(g, x, 1)
    while g.rank(x) < 4:
        x = _insert(g, x, 0)
    return x


def _heads_in_front(g: Graph, x: SSAValue) -> bool:
    """True if [H, S, D] was [S, H, D], H known: its first dimension are heads, not a batch."""
    moved = owner(x, TransposeOp)
    if moved is None or g.shape(x)[0].constant is None:
        return False
    return moved.permutation.get_values()[0] == 1


def _unrepeated(g: Graph, key: SSAValue, value: SSAValue) -> tuple[SSAValue, SSAValue]:
    """Key and value heads as they were before each was repeated for several query heads."""
    sources = [_repeated_source(g, x) for x in (key, value)]
    key_source, value_source = sources
    if key_source is None or value_source is None:
        return key, value
    same = g.shape(key_source)[1] == g.shape(value_source)[1]
    return (key_source, value_source) if same else (key, value)


def _repeated_source(g: Graph, x: SSAValue) -> SSAValue | None:
    """x [B, G, S, D] of reshape(broadcast(x as [B, G, 1, S, D]))."""
    merged = owner(x, ReshapeOp)
    grown = None if merged is None else owner(merged.input, BroadcastOp)
    if grown is None or g.rank(grown.result) != 5 or g.rank(grown.input) != 5:
        return None
    batch, groups, _, tokens, size = g.shape(grown.result)
    if g.shape(grown.input) != (batch, groups, ONE, tokens, size):
        return None
    return g.reshape(grown.input, (batch, groups, tokens, size))


def _insert(g: Graph, x: SSAValue, at: int) -> SSAValue:
    shape = g.shape(x)
    return g.reshape(x, (*shape[:at], ONE, *shape[at:]))


def _heads_to_rows(g: Graph, x: SSAValue) -> SSAValue:
    """[B, H, S, D] to [B, S, H*D]."""
    batch, heads, tokens, size = g.shape(x)
    return g.reshape(g.transpose(x, [0, 2, 1, 3]), (batch, tokens, heads * size))


def _top_left(g: Graph, rows: Dim, columns: Dim, mask: SSAValue | None) -> SSAValue:
    """torch's causal mask where there are more keys than queries: query i sees keys 0..i."""
    below = g.elementwise(Function.LE, g.iota(columns), g.reshape(g.iota(rows), (rows, ONE)))
    if mask is None:
        return below
    return g.elementwise(Function.AND, mask, below)
