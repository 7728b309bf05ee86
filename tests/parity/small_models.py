"""Configurations of any architecture of transformers, small."""

from __future__ import annotations

from typing import Any

import transformers

SMALL = {
    "vocab_size": 97,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "dff", "ffn_hidden_size"), 88),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 88),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("attention_heads", "encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 320),
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "rotary_dim": 8,
    "sliding_window": 9,
    **dict.fromkeys(("num_local_experts", "num_experts"), 4),
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 40,
    "shared_expert_intermediate_size": 40,
}
"""Sizes, whatever an architecture calls them."""


def small_config(kind: str, **special: Any) -> Any:
    """A configuration of an architecture, with those of the sizes that it knows."""
    config: Any = transformers.CONFIG_MAPPING[kind]
    plain = config()
    aliases = config.attribute_map
    known = {
        name: value
        for name, value in SMALL.items()
        if getattr(plain, name, None) is not None
        and not isinstance(getattr(config, name, None), property)
        and aliases.get(name) not in SMALL
    }
    return config(**known | special)
