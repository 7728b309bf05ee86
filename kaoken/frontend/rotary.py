"""Rotary positions: the tables of cosines and sines that `kaoken.rope` rotates by.

Every scaling variant is a change of the frequencies, so it is decided here and the program only
reads rows of two tables. Angles are computed in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kaoken.errors import KaokenError

SCALINGS = ("none", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class Rotary:
    """How a model turns positions into rotations of the first `size` numbers of each head.

    `interleaved`: neighbours are a pair (GPT-J, and Llama in GGUF files), else the halves of a head
    are (NeoX, Hugging Face). `scaling` stretches positions for contexts longer than `original`:
    `linear` (Chen et al., arXiv 2306.15595), `yarn` (Peng et al., arXiv 2309.00071), `llama3`
    (Llama 3.1's, by wavelength). `divisors` divide each frequency besides.
    """

    size: int
    base: float = 10000.0
    interleaved: bool = False
    scaling: str = "none"
    factor: float = 1.0
    original: int = 0
    """The context that the model was trained on first, in tokens."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    divisors: tuple[float, ...] | None = None


def rotary_tables(rotary: Rotary, positions: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines, each [positions, size/2] float32. Raises KaokenError for what it lacks."""
    if rotary.size < 2 or rotary.size % 2:
        raise KaokenError(f"rotary positions need an even size, not {rotary.size}")
    angles = np.arange(positions)[:, None] * frequencies(rotary)
    factor = _attention_factor(rotary)
    return (np.cos(angles) * factor).astype("f4"), (np.sin(angles) * factor).astype("f4")


def frequencies(rotary: Rotary) -> np.ndarray:
    """The angle per position of each pair, float64 [size/2]."""
    plain = rotary.base ** -(np.arange(0, rotary.size, 2) / rotary.size)
    if rotary.scaling == "linear":
        plain = plain / rotary.factor
    elif rotary.scaling == "llama3":
        plain = _llama3(rotary, plain)
    elif rotary.scaling == "yarn":
        plain = _yarn(rotary, plain)
    elif rotary.scaling != "none":
        raise KaokenError(
            f"the scaling {rotary.scaling!r} of rotary positions is unknown: "
            f"kaoken has {', '.join(SCALINGS)}"
        )
    if rotary.divisors is not None:
        if len(rotary.divisors) != len(plain):
            raise KaokenError(
                f"{len(rotary.divisors)} divisors do not fit {len(plain)} rotary frequencies"
            )
        plain = plain / np.asarray(rotary.divisors, np.float64)
    return plain


def _llama3(rotary: Rotary, plain: np.ndarray) -> np.ndarray:
    """Long wavelengths are stretched, short ones stay, those between are mixed."""
    turns = rotary.original * plain / (2 * math.pi)
    low, high = rotary.low_freq_factor, rotary.high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return plain * (kept + (1 - kept) / rotary.factor)


def _yarn(rotary: Rotary, plain: np.ndarray) -> np.ndarray:
    """Pairs that turn often in the original context stay, those that turn little are stretched."""

    def pair_of(turns: float) -> float:
        ratio = rotary.original / (turns * 2 * math.pi)
        return rotary.size * math.log(ratio) / (2 * math.log(rotary.base))

    low = max(math.floor(pair_of(rotary.beta_fast)), 0)
    high = min(math.ceil(pair_of(rotary.beta_slow)), rotary.size - 1)
    stretched = np.clip((np.arange(len(plain)) - low) / max(high - low, 0.001), 0.0, 1.0)
    return plain * (1 - stretched + stretched / rotary.factor)


def _attention_factor(rotary: Rotary) -> float:
    if rotary.attention_factor is not None:
        return rotary.attention_factor
    if rotary.scaling != "yarn" or rotary.factor <= 1:
        return 1.0
    return 0.1 * math.log(rotary.factor) + 1.0
