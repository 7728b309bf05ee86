"""Small GGUF files for tests, made from configurations and weights of transformers."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import gguf
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
