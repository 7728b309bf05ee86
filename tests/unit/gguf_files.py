"""Small GGUF files for tests, made from configurations and weights of transformers."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

from kaoken.bench import gguf_writer


def write_gguf(
    path: Path,
    model: Any,
    kinds: dict[str, gguf.GGMLQuantizationType] | None = None,
    tokenizer: Path | None = None,
    **extra: Any,
) -> Path:
    """`kaoken.bench.gguf_writer.write_gguf`, with the tokenizer of a folder."""
    add = None if tokenizer is None else partial(write_tokenizer, folder=tokenizer)
    return gguf_writer.write_gguf(path, model, kinds, add, **extra)


def write_tokenizer(writer: gguf.GGUFWriter, folder: Path) -> None:
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


_HALVES = {
    "Q4_1": (0, 2),
    "Q5_1": (0, 2),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
"""Where a block has its f16, at byte 0 alone where nothing is said."""


def random_blocks(
    type_: gguf.GGMLQuantizationType, n: int, k: int, worth: float | None = None
) -> np.ndarray:
    """Random bytes as blocks of a quantised type, [n, bytes]; f16 are finite, or as said."""
    weights, size = gguf.GGML_QUANT_SIZES[type_]
    blocks = np.random.default_rng(n + k).integers(0, 256, (n, k // weights, size), np.uint8)
    for at in _HALVES.get(type_.name, (0,)):
        blocks[..., at + 1] &= 0xBF
        if worth is not None:
            blocks[..., at : at + 2] = np.frombuffer(np.float16(worth).tobytes(), np.uint8)
    return blocks.reshape(n, -1)


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


SIZES = {
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
GEMMA3 = SIZES | {"sliding_window": 7, "query_pre_attn_scalar": 8, "num_hidden_layers": 7}
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", SIZES, {}),
    "llama untied": ("llama", SIZES | {"tie_word_embeddings": False}, {}),
    "qwen2": ("qwen2", {k: v for k, v in SIZES.items() if k != "head_dim"}, {}),
    "qwen3": ("qwen3", SIZES, {}),
    "gemma": ("gemma", SIZES | {"num_key_value_heads": 1}, {}),
    "gemma3": ("gemma3_text", GEMMA3, {"attention.sliding_window": 7}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_head": 4, "n_inner": 44}, {}),
    "phi3": ("phi3", {k: v for k, v in SIZES.items() if k != "head_dim"} | {"pad_token_id": 0}, {}),
    "starcoder2": ("starcoder2", {k: v for k, v in SIZES.items() if k != "head_dim"}, {}),
    "bitnet": ("bitnet", SIZES | {"hidden_act": "silu"}, {}),
    "bitnet-b1.58": ("bitnet", SIZES, {}),
    "linear": (
        "llama",
        SIZES | {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0},
    ),
    "llama3": (
        "llama",
        SIZES
        | {
            "rope_parameters": {
                "rope_type": "llama3",
                "factor": 8.0,
                "rope_theta": 1e4,
                "original_max_position_embeddings": 16,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            }
        },
        {},
    ),
    "longrope": (
        "phi3",
        {k: v for k, v in SIZES.items() if k != "head_dim"}
        | {
            "pad_token_id": 0,
            "original_max_position_embeddings": 16,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "original_max_position_embeddings": 16,
                "short_factor": [1.0, 1.5, 2.0, 2.5],
                "long_factor": [1.0, 4.0, 9.0, 16.0],
            },
        },
        {
            "rope.scaling.original_context_length": 16,
            "rope.scaling.attn_factor": float((1 + np.log(64 / 16) / np.log(16)) ** 0.5),
        },
    ),
    "yarn": (
        "llama",
        SIZES
        | {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 1e4,
                "original_max_position_embeddings": 16,
            }
        },
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 16,
        },
    ),
}
