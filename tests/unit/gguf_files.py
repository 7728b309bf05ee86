"""Small GGUF files for tests, made from configurations and weights of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

_ROWS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GEMMA_ROWS = _ROWS | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(
    path: Path,
    model: Any,
    kinds: dict[str, gguf.GGMLQuantizationType] | None = None,
    tokenizer: Path | None = None,
    **extra: Any,
) -> Path:
    """A transformers decoder as a GGUF file, as llama.cpp's converter writes it.

    `kinds` gives the types of tensors by the end of their names, float32 otherwise; `extra` more
    metadata, with `_` for the dots after the architecture's name.
    """
    config = model.config
    arch = str(config.model_type).removesuffix("_text")
    writer = gguf.GGUFWriter(path, arch)
    _write_sizes(writer, config)
    for key, value in extra.items():
        _write_value(writer, f"{arch}.{key}", value)
    if tokenizer is not None:
        _write_tokenizer(writer, tokenizer)
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
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_sizes(writer: gguf.GGUFWriter, config: Any) -> None:
    head_size = (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if (base := rope_base(config)) is not None:
        writer.add_rope_freq_base(base)


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
    rows = _GEMMA_ROWS if arch == "gemma3" else _ROWS
    return f"blk.{layer}.{rows[rest]}.{kind}"


def _converted(arch: str, config: Any, name: str, array: np.ndarray) -> np.ndarray:
    """llama.cpp pairs neighbours in Llama's heads, and adds Gemma's one to its norms."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    part = name.split(".")[-2]
    if arch == "llama" and part in heads:
        rows = array.reshape(heads[part], 2, -1, *array.shape[1:])
        return np.ascontiguousarray(rows.swapaxes(1, 2).reshape(array.shape))
    if arch.startswith("gemma") and "norm" in name:
        return array + 1
    return array


def _write_tokenizer(writer: gguf.GGUFWriter, folder: Path) -> None:
    """A tokenizer.json of SentencePiece's kind; merges become scores."""
    data = json.loads((folder / "tokenizer.json").read_text())
    vocab = sorted(data["model"]["vocab"].items(), key=lambda item: item[1])
    ranks = {
        "".join(merge): -float(i) for i, merge in reversed(list(enumerate(data["model"]["merges"])))
    }
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token for token, _ in vocab])
    writer.add_token_scores([ranks.get(token, -1e6) for token, _ in vocab])
    special = {token["id"] for token in data["added_tokens"]}
    writer.add_token_types([3 if i in special else 1 for _, i in vocab])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)


def random_model(kind: str, **sizes: Any) -> Any:
    """A small random decoder of transformers in float32, with norms that are not all 1."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        kind, **({"vocab_size": 97, "max_position_embeddings": 64, "num_hidden_layers": 3} | sizes)
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            elif name.endswith("bias"):
                parameter.normal_()
    return model
