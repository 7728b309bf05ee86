"""Decoders compiled from Hugging Face folders: the greedy text and the logits of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaoken
from kaoken.compiled_decoder import CompiledDecoder
from kaoken.dialect.reference import run_module
from kaoken.frontend.hugging_face_decoder import import_decoder_folder
from kaoken.tools.verify_decoder import decoder_logits
from tests.available import STORIES, needs_stories

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.parity.decoder_parity import ONCE, all_logits, assert_greedy_parity  # noqa: E402

VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 44,
    "max_position_embeddings": 320,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 320}
MIXED_WINDOWS = {
    "head_dim": 8,
    "sliding_window": 7,
    "layer_types": ["sliding_attention", "full_attention"],
}
ORIGINAL = "original_max_position_embeddings"
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    ORIGINAL: 16,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.5, 2.0, 2.5],
    "long_factor": [1.0, 4.0, 9.0, 16.0],
}
PHI3 = GROUPED | {"pad_token_id": 0, "eos_token_id": 2}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", GPT2),
    "opt": (
        "opt",
        {k: v for k, v in SIZES.items() if k != "intermediate_size"}
        | {"ffn_dim": 44, "word_embed_proj_dim": 24},
    ),
    "llama": ("llama", GROUPED | {"rope_parameters": LLAMA3_ROPE}),
    "qwen2": ("qwen2", GROUPED),
    "qwen3": ("qwen3", GROUPED | {"head_dim": 16}),
    "gemma3": ("gemma3_text", GROUPED | MIXED_WINDOWS),
    "gemma2": (
        "gemma2",
        GROUPED
        | MIXED_WINDOWS
        | {"attn_logit_softcapping": 0.5, "final_logit_softcapping": 3.0}
        | {"query_pre_attn_scalar": 8},
    ),
    "phi3 long": ("phi3", PHI3 | {"rope_parameters": LONGROPE | {ORIGINAL: 16}, ORIGINAL: 16}),
    "phi3 short": ("phi3", PHI3 | {"rope_parameters": LONGROPE | {ORIGINAL: 300}, ORIGINAL: 300}),
    "gpt_neox": ("gpt_neox", SIZES),
    "phi": ("phi", SIZES),
    "bloom": ("bloom", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "gptj": ("gptj", GPT2 | {"rotary_dim": 4}),
}

LARGE = {"vocab_size": 151936, "tie_word_embeddings": True}
FULL: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "opt-125m": ("opt", {}),
    "qwen2-0.5b": (
        "qwen2",
        LARGE
        | {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
        | {"num_attention_heads": 14, "num_key_value_heads": 2},
    ),
    "qwen3-0.6b": (
        "qwen3",
        LARGE
        | {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28}
        | {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128},
    ),
    "gemma3-270m": (
        "gemma3_text",
        {"vocab_size": 262144, "hidden_size": 640, "intermediate_size": 2048}
        | {"num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1}
        | {"head_dim": 256, "sliding_window": 128},
    ),
}
"""The shapes of models that are there, with random weights."""


def saved(name: str, folder: Path) -> tuple[Any, Path]:
    """A random model whose logits are far apart, and its folder."""
    kind, sizes = MODELS[name]
    config = transformers.AutoConfig.for_model(kind, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.15 if parameter.ndim > 1 else 0.05
            parameter += spread * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return model, folder


def compiled(source: Path, folder: Path, **options: Any) -> CompiledDecoder:
    kaoken.compile(source, out=folder, **options)
    return kaoken.load_decoder(folder)


@needs_stories
@pytest.mark.sweep
def test_stories(tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(STORIES)
    decoder = compiled(STORIES, tmp_path / "stories", max_tokens=300)
    assert decoder.end_tokens == (1, 2)
    assert_greedy_parity(decoder, model, ONCE, 200)


def test_gpt2_in_pieces_and_by_threads(tmp_path: Path) -> None:
    """200 tokens as PyTorch's, and equal bits however they come; `kaoken verify` says so too."""
    model, source = saved("gpt2", tmp_path / "source")
    decoder = compiled(source, tmp_path / "gpt2", max_tokens=300, threads=2)
    assert_greedy_parity(decoder, model, [5, 17, 3], 200)
    logits, equal = decoder_logits(source, decoder)
    assert equal == 1
    for _, actual, expected in logits:
        assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()
    ids = decoder.generate([5, 17, 3], 250, eos_token_id=[])[0]
    one = kaoken.load_decoder(decoder.folder, threads=1)
    steps = all_logits(one, ids, [1] * len(ids))
    for pieces in ([len(ids)], [7, 17, 129, 1, len(ids) - 154]):
        ends = np.cumsum(pieces) - 1
        np.testing.assert_array_equal(all_logits(one, ids, pieces), steps[ends])
        np.testing.assert_array_equal(all_logits(decoder, ids, pieces), steps[ends])


@pytest.mark.sweep
@pytest.mark.parametrize("name", [name for name in MODELS if name != "gpt2"])
def test_greedy_text(name: str, tmp_path: Path) -> None:
    model, source = saved(name, tmp_path / "source")
    decoder = compiled(source, tmp_path / "compiled", max_tokens=260)
    assert_greedy_parity(decoder, model, [5, 17, 3], 200)


@pytest.mark.sweep
@pytest.mark.parametrize("name", FULL)
def test_full_shapes(name: str, tmp_path: Path) -> None:
    kind, sizes = FULL[name]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.5 if parameter.ndim > 1 else 1.0)
    model.save_pretrained(tmp_path / "source")
    decoder = compiled(tmp_path / "source", tmp_path / "compiled", max_tokens=256, threads=2)
    assert_greedy_parity(decoder, model, [5, 17, 3, 100, 42], 200)
    one = kaoken.load_decoder(decoder.folder, threads=1)
    ids = np.arange(100, 237)
    whole = all_logits(decoder, ids, [137])[0]
    np.testing.assert_array_equal(all_logits(one, ids, [7, 129, 1])[-1], whole)
    np.testing.assert_array_equal(all_logits(one, ids, [1] * 137)[-1], whole)


@pytest.mark.parametrize("name", ["opt", "llama", "gemma2", "gemma3", "phi", "phi3 long"])
def test_import(name: str, tmp_path: Path) -> None:
    """By the reference interpreter: the logits of a text in pieces."""
    model, source = saved(name, tmp_path)
    module = import_decoder_folder(source, max_tokens=24)
    ids = np.random.default_rng(0).integers(2, VOCABULARY, (1, 20))
    with torch.no_grad():
        wanted = model(torch.from_numpy(ids)).logits[0].numpy()
    caches: dict[str, np.ndarray] = {}
    past = 0
    for piece in (1, 12, 7):
        sizes = {"past": past, "outputs": 1}
        (got,) = run_module(module, [ids[:, past : past + piece]], sizes=sizes, caches=caches)
        past += piece
        row = wanted[past - 1]
        assert np.abs(got[0, 0] - row).max() <= 1e-5 * np.abs(row).max()
