"""What parity tests share: attention masks and comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

TOLERANCE = 1e-5
MASK_KINDS = ("none", "prefix", "suffix", "scattered", "mixed")
"""Which keys are attended to: all; the first some; the last some; any; each row its own kind."""


def attention_mask(kind: str, batch: int, tokens: int, seed: int = 0) -> np.ndarray:
    """[batch, tokens] of int64, 1 where a token counts; no row is all 0."""
    random = np.random.default_rng((seed, batch, tokens, MASK_KINDS.index(kind)))
    kinds = [MASK_KINDS[row % 4] if kind == "mixed" else kind for row in range(batch)]
    return np.stack([_mask_row(random, name, tokens) for name in kinds])


def _mask_row(random: np.random.Generator, kind: str, tokens: int) -> np.ndarray:
    if kind == "none":
        return np.ones(tokens, np.int64)
    count = int(random.integers(1, tokens + 1))
    row = np.zeros(tokens, np.int64)
    row[:count] = 1
    if kind == "scattered":
        random.shuffle(row)
    return row[::-1].copy() if kind == "suffix" else row


def text_inputs(
    kind: str, batch: int, tokens: int, vocabulary: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Random token ids, and a mask of the kind given."""
    random = np.random.default_rng((seed, batch, tokens))
    ids = random.integers(0, vocabulary, (batch, tokens))
    return {"input_ids": ids, "attention_mask": attention_mask(kind, batch, tokens, seed)}


def torch_hidden(module: Any, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """last_hidden_state of a Hugging Face module in PyTorch."""
    import torch

    with torch.inference_mode():
        result = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return result.last_hidden_state.numpy()


def unmasked_difference(
    actual: np.ndarray, wanted: np.ndarray, inputs: Mapping[str, np.ndarray]
) -> float:
    """The largest absolute difference at rows whose token counts; NaN and infinity count too."""
    assert actual.shape == wanted.shape
    assert actual.dtype == wanted.dtype == np.float32
    rows = inputs["attention_mask"].astype(bool)
    return float(np.abs(actual[rows].astype("f8") - wanted[rows]).max())


def assert_encoder_parity(model: Any, module: Any, inputs: Mapping[str, np.ndarray]) -> float:
    """Compiled and PyTorch's hidden states agree where it matters; gives the difference."""
    actual = model(**inputs).last_hidden_state
    difference = unmasked_difference(actual, torch_hidden(module, inputs), inputs)
    assert difference <= TOLERANCE
    return difference
