"""Every family of causal language models of transformers that kaoken takes, small and random.

For each: 60 greedy tokens of transformers, logits within 1e-3 at every step, and the same bits
whole, in pieces, token by token and by 1 or 2 threads. What kaoken cannot take says why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaoken
from kaoken.errors import KaokenError
from kaoken.frontend.hugging_face_decoder import import_decoder_folder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.parity.decoder_parity import all_logits, assert_greedy_parity  # noqa: E402
from tests.parity.small_models import small_config  # noqa: E402

MULTIPLIERS = {"embedding_multiplier": 2.0, "attention_multiplier": 0.2, "logits_scaling": 3.0}
SPECIAL: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 9}
    | {"intermediate_size": 88},
    "gemma2": {"attn_logit_softcapping": 0.5, "final_logit_softcapping": 3.0},
    "granite": MULTIPLIERS | {"residual_multiplier": 0.5},
    "falcon": {"multi_query": True},
    "opt": {"word_embed_proj_dim": 24},
    "hunyuan_v1_dense": {"head_dim": 16, "num_key_value_heads": 2},
    "ministral": {"head_dim": 16, "num_key_value_heads": 2},
    "nemotron": {"num_key_value_heads": 2},
    **{kind: {"is_decoder": True} for kind in ("bert", "electra", "roberta", "xlm-roberta")},
}
"""What makes a family differ from its relatives, where it is not so by default."""
FAMILIES = """
    apertus arcee beam bert bigbird_pegasus biogpt blenderbot bloom codegen cohere cohere2 ctrl
    cwm diffllama electra ernie4_5 exaone4 falcon flex_olmo gemma gemma2 gemma3_text glm glm4
    gpt2 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gptj granite granitemoe helium hrm_text
    hunyuan_v1_dense hyperclovax internlm3 iquestcoder jais2 llama ministral ministral3 mistral
    mixtral modernbert-decoder mpt nanochat nemotron olmo olmo2 olmo3 olmoe opt persimmon phi
    phi3 qwen2 qwen2_moe qwen3 qwen3_moe roberta seed_oss smollm3 stablelm starcoder2 vaultgemma
    xglm xlm-roberta
""".split()
REFUSED = {
    "jetmoe": r"a 'jetmoe' model: its experts \(JetMoeParallelExperts\) are of a kind of their own",
    "gpt_oss": "a 'gpt_oss' model: its attention has sinks",
    "mamba": "a 'mamba' model: its layers keep a state of another kind",
}


def save(kind: str, folder: Path) -> Any:
    """A random model, told apart by its tokens and positions, and its folder."""
    torch.manual_seed(0)
    config = small_config(kind, **SPECIAL.get(kind, {}))
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * (0.1 if weight.ndim > 1 else 0.05))
    model.save_pretrained(folder)
    return model


@pytest.mark.sweep
@pytest.mark.parametrize("kind", FAMILIES)
def test_family(kind: str, tmp_path: Path) -> None:
    model = save(kind, tmp_path / "source")
    kaoken.compile(tmp_path / "source", out=tmp_path / "m", max_tokens=100, threads=2)
    two = kaoken.load_decoder(tmp_path / "m")
    one = kaoken.load_decoder(tmp_path / "m", threads=1)
    assert_greedy_parity(two, model, [5, 17, 3], 60)
    ids = np.random.default_rng(0).integers(3, 97, 63)
    steps = all_logits(two, ids, [1] * 63)
    for decoder in (one, two):
        for pieces in ([63], [7, 17, 1, 38]):
            ends = np.cumsum(pieces) - 1
            np.testing.assert_array_equal(all_logits(decoder, ids, pieces), steps[ends])


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str, tmp_path: Path) -> None:
    save(kind, tmp_path)
    with pytest.raises(KaokenError, match=REFUSED[kind]):
        import_decoder_folder(tmp_path, 64)
