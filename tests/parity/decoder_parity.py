"""What parity tests of decoders share: greedy texts and logits beside those of PyTorch.

Greedy texts are equal when every token is the likeliest after those before it, so one pass of
PyTorch over kaoken's text checks all of its tokens and logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from kaoken.compiled_decoder import CompiledDecoder

TOLERANCE = 1e-3
"""Largest difference of logits, relative to the largest logit."""


def assert_greedy_parity(decoder: CompiledDecoder, model: Any, prompt: list[int], new: int) -> None:
    """The text that the decoder gives is PyTorch's, and so are the logits at each of its tokens."""
    text = decoder.generate(prompt, new, eos_token_id=[], forced_eos_token_id=[])[0]
    with torch.no_grad():
        wanted = model(torch.from_numpy(text)[None]).logits[0].float().numpy()
    first = len(prompt) - 1
    np.testing.assert_array_equal(text[first + 1 :], wanted[first:-1].argmax(-1))
    rows = all_logits(decoder, text, [len(prompt)] + [1] * (len(text) - len(prompt)))
    for row, at in zip(rows, range(first, len(text)), strict=True):
        assert np.abs(row - wanted[at]).max() <= TOLERANCE * np.abs(wanted[at]).max()


def all_logits(decoder: CompiledDecoder, ids: np.ndarray, pieces: list[int]) -> np.ndarray:
    """The logits behind each piece."""
    decoder.reset()
    rows: list[np.ndarray] = []
    for size in pieces:
        rows.append(decoder.prefill(ids[len(decoder) : len(decoder) + size]).copy())
    return np.stack(rows)


ONCE = [1, 403, 407, 261, 378]
"""Once upon a time"""
