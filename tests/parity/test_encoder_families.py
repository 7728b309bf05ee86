"""Families of encoders of transformers, small and random, from folders: all results of PyTorch.

What kaoken cannot take says why, in a sentence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import kaoken
from kaoken.errors import KaokenError
from tests.parity.parity import assert_encoder_parity, text_inputs

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.parity.small_models import small_config  # noqa: E402

FAMILIES = """
    albert big_bird camembert data2vec-text deberta deberta-v2 ernie eurobert flaubert ibert
    jina_embeddings_v3 layoutlm luke markuplm megatron-bert modernbert mpnet mra nomic_bert
    nystromformer rembert roberta-prelayernorm roformer splinter xlm xlm-roberta xlm-roberta-xl
""".split()
REFUSED = {
    "fnet": r"no meaning for 2 ops of the module:\n  aten\._fft_c2c",
    "tapas": r"no meaning for 1 op of the module:\n  aten\.scatter_reduce",
    "yoso": r"no meaning for 1 op of the module:\n  .*acos",
    "longformer": "torch.export cannot export the module: Could not guard on data-dependent",
    "xlnet": "torch.export cannot export the module: Constraints violated",
}
SIZES = (("none", 1, 1), ("prefix", 2, 7), ("mixed", 3, 33), ("suffix", 1, 40))


def save(kind: str, folder: Path) -> Any:
    """A random model and its folder."""
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(small_config(kind)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    model.save_pretrained(folder)
    return transformers.AutoModel.from_pretrained(folder).eval()


@pytest.mark.sweep
@pytest.mark.parametrize("kind", FAMILIES)
def test_family(kind: str, tmp_path: Path) -> None:
    model = save(kind, tmp_path / "source")
    compiled = kaoken.compile(tmp_path / "source", out=tmp_path / "m", max_batch=3, max_tokens=40)
    for mask, batch, tokens in SIZES:
        assert_encoder_parity(compiled, model, text_inputs(mask, batch, tokens, 97))


@pytest.mark.sweep
@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str, tmp_path: Path) -> None:
    save(kind, tmp_path)
    with pytest.raises(KaokenError, match=REFUSED[kind]):
        kaoken.compile(tmp_path, max_batch=3, max_tokens=40)
