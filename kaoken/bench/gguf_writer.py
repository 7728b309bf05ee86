"""A transformers decoder as a GGUF file, as llama.cpp's converter writes it. Imports gguf."""

# pyright: reportMissingImports=false
# (the extra `gguf` brings what is imported here)

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from kaoken.frontend.rotary import Rotary, frequencies

_ROWS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.attn_sub_norm": "attn_sub_norm",
    "mlp.ffn_sub_norm": "ffn_sub_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_GEMMA_ROWS = _ROWS | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_GPT2_ROWS = {
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_TOP = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
}
ARCHITECTURES = (
    "llama",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma3",
    "gpt2",
    "phi3",
    "starcoder2",
    "bitnet",
    "bitnet-b1.58",
)


def write_gguf(
    path: Path,
    model: Any,
    kinds: Mapping[str, gguf.GGMLQuantizationType] | None = None,
    add_tokenizer: Callable[[gguf.GGUFWriter], None] | None = None,
    **extra: Any,
) -> Path:
    """Write a model of one of ARCHITECTURES.

    `kinds` gives the types of tensors by the end of their names, float32 otherwise; `extra` more
    metadata, with `_` for the dots after the architecture's name. Without a tokenizer the file says
    that it has none.
    """
    config = model.config
    arch = _architecture(config)
    writer = gguf.GGUFWriter(path, arch)
    _write_sizes(writer, config)
    for key, value in extra.items():
        _write_value(writer, f"{arch}.{key}", value)
    if add_tokenizer is None:
        writer.add_tokenizer_model("no_vocab")
    else:
        add_tokenizer(writer)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = _converted(arch, config, name, tensor.float().numpy())
        target = _name(arch, name)
        kind = next((k for end, k in (kinds or {}).items() if target.endswith(end)), None)
        if kind is None:
            writer.add_tensor(target, array)
        else:
            writer.add_tensor(target, gguf.quants.quantize(array, kind), raw_dtype=kind)
    for name, divisors in _divisors(config).items():
        writer.add_tensor(f"{name}.weight", divisors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _architecture(config: Any) -> str:
    if config.model_type == "bitnet" and config.hidden_act == "relu2":
        return "bitnet-b1.58"
    return str(config.model_type).removesuffix("_text")


def _write_sizes(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    if config.model_type == "starcoder2":
        writer.add_layer_norm_eps(config.norm_epsilon)
    else:
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if (base := rope_base(config)) is not None:
        writer.add_rope_freq_base(base)


def _divisors(config: Any) -> dict[str, np.ndarray]:
    """What Llama 3.1's scaling and LongRoPE divide each frequency by, where a model has them."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        kinds = ("long", "short")
        return {f"rope_factors_{k}": np.array(rope[f"{k}_factor"], np.float32) for k in kinds}
    if rope.get("rope_type") != "llama3":
        return {}
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    plain = Rotary(size, rope["rope_theta"])
    scaled = replace(
        plain,
        scaling="llama3",
        factor=rope["factor"],
        original=rope["original_max_position_embeddings"],
        low_freq_factor=rope["low_freq_factor"],
        high_freq_factor=rope["high_freq_factor"],
    )
    return {"rope_freqs": (frequencies(plain) / frequencies(scaled)).astype(np.float32)}


def rope_base(config: Any) -> float | None:
    """`rope_theta` of the layers that see all, wherever transformers keeps it."""
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    return rope.get("rope_theta", getattr(config, "rope_theta", None))


def _write_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add[type(value)](key, value)


def _name(arch: str, name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{kind}"
    _, _, layer, rest = stem.split(".", 3)
    rows = {"gemma3": _GEMMA_ROWS, "gpt2": _GPT2_ROWS}.get(arch, _ROWS)
    return f"blk.{layer}.{rows[rest]}.{kind}"


def _converted(arch: str, config: Any, name: str, array: np.ndarray) -> np.ndarray:
    """llama.cpp pairs neighbours in Llama's heads, adds Gemma's one to its norms, and keeps
    GPT-2's matrices as others do: [out, in]."""
    part = name.split(".")[-2]
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(part)
    if arch == "llama" and heads is not None:
        rows = array.reshape(getattr(config, heads), 2, -1, *array.shape[1:])
        return np.ascontiguousarray(rows.swapaxes(1, 2).reshape(array.shape))
    if arch.startswith("gemma") and "norm" in name:
        return array + 1
    if arch == "gpt2" and part.startswith("c_") and array.ndim == 2:
        return np.ascontiguousarray(array.T)
    return array
