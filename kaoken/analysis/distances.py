"""Masks of attention that say the same of all pairs of equal distance.

[[0, -inf, -inf], [-1, 0, -inf], [-2, -1, 0]]      -> causal, bias [-2, -1, 0]
[[1, 0, 0], [1, 1, 0], [0, 1, 1]]                  -> causal, a window of 2
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kaoken.errors import KaokenError

HIDDEN = -1e4
"""What adds this or less to a score hides the key."""
_MOST = 1 << 28
"""Numbers of a mask."""
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Distances:
    """What a causal mask does besides: hide all but the last `window` keys, add to scores.

    bias is [heads or 1, tokens]: the last column is a token with itself, the first is the farthest.
    A softmax does not see what is added to a whole row, so a token with itself has 0.
    """

    window: int | None
    bias: np.ndarray | None


def distances_of(mask: np.ndarray) -> Distances | None:
    """A mask [.., tokens, tokens] of bools or of numbers to add, or None when it is another kind.

    Raises KaokenError for one that is too large to look at.
    """
    size = mask.shape[-1]
    if mask.size > _MOST:
        raise KaokenError(f"a mask of {mask.size} numbers is too large: use fewer --max-tokens")
    if mask.ndim < 2 or mask.shape[-2] != size:
        return None
    heads = mask.reshape(-1, size, size)
    seen = heads if mask.dtype == bool else heads > HIDDEN
    apart = np.arange(size)[:, None] - np.arange(size)
    window = int(seen[0, -1].sum())
    if not (seen == ((apart >= 0) & (apart < window))).all():
        return None
    bias = None if mask.dtype == bool else _bias(heads, seen[0], apart, window)
    if bias is None and mask.dtype != bool:
        return None
    if bias is not None and not bias.any():
        bias = None
    return Distances(None if window == size else window, bias)


def _bias(heads: np.ndarray, seen: np.ndarray, apart: np.ndarray, window: int) -> np.ndarray | None:
    """What each distance adds, where all rows agree on it."""
    own = np.diagonal(heads, axis1=1, axis2=2)
    last = np.where(seen[-1], heads[:, -1] - own[:, -1:], 0)
    expected = last[:, ::-1][:, np.clip(apart, 0, window - 1)]
    error = np.abs(np.where(seen, heads - own[:, :, None] - expected, 0))
    return last if error.max() <= _TOLERANCE * max(1.0, float(np.abs(last).max())) else None
