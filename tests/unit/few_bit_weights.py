"""Formats of few bits, and random weights in them."""

from __future__ import annotations

import numpy as np

from kaoken.dialect.formats import Format
from kaoken.quantized import Quantized

FORMATS = [
    Format(8, 32, 128),
    Format(4, 32, 8),
    Format(4, 32),
    Format(2, 256, 1),
    Format(2, 0, 1),
    Format(1, 32, 1, 2),
    Format(5, 32, 16),
    Format(6, 16, 32, groups_of_super=16),
    Format(3, 32, groups_of_super=2),
    Format(5, 32, groups_of_super=2),
    Format(2, 16, groups_of_super=3),
]
MINIMA = {Format(4, 32), *FORMATS[-3:]}
"""The formats that get minima here."""


def random_weight(format_: Format, n: int, k: int, seed: int = 0) -> Quantized:
    random = np.random.default_rng(seed)
    codes = random.integers(0, format_.largest + 1, (n, k)).astype(np.uint8)
    groups = (n, format_.groups(k))
    supers = None
    if format_.groups_of_super:
        scale, minimum = random.integers(-128, 128, (2, *groups), np.int8)
        count = 2 if format_ in MINIMA else 1
        supers = random.standard_normal((n, format_.super_blocks(k) * count)).astype(np.float16)
    else:
        scale, minimum = random.standard_normal((2, *groups)).astype(np.float16)
    return Quantized(format_, codes, scale, minimum if format_ in MINIMA else None, supers)
