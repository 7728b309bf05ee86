"""Rounding that knows its inputs: what a column loses, the columns after it make up for.

Weights [N, K] meet inputs whose mean products are H [K, K], so that the squared error of a layer's
results is trace(D H D^T), D being the errors of the weights. Columns are rounded one after the
other, those with the largest inputs first; each is moved beforehand so that, given the errors that
are made already, this error is least (GPTQ, Frantar et al., 2022, algorithm 1, and its
`act_order`). With H = R^T R, R upper triangular, column i goes from the last to the first towards

    w_i + sum over j > i of R_ij d_j / R_ii

which is the same without an inverse (Chen et al., "The Geometry of LLM Quantization", 2025). The
scales are those that `kaoken.rounding` finds beforehand, with the columns' mean squares as
importance.
"""

from __future__ import annotations

import numpy as np

from kaoken.quantized import Quantized
from kaoken.rounding import encode, grid_of, stored_scales

_DAMPING = 0.01
"""Part of the mean diagonal that is added to it: H of few samples has no factor."""
_COLUMNS = 64
"""Columns that the errors made before reach together, as one product."""


def rounded_with_feedback(
    weight: np.ndarray, moments: np.ndarray, name: str, group: int = 32
) -> Quantized:
    """A weight [N, K] in the format of that name, for inputs of mean products `moments` [K, K].

    Raises KaokenError when the weight holds numbers that are not finite.
    """
    grid = grid_of(name, group)
    n, k = weight.shape
    importance = np.diag(moments)
    scales = stored_scales(weight, grid, importance + _DAMPING * (importance.mean() or 1))
    order = np.argsort(importance, kind="stable")
    groups = order // grid.format.block(k)
    scale, low = (
        None if a is None else np.ascontiguousarray(a[:, groups].T)
        for a in scales.numbers(grid.format)
    )
    assert scale is not None
    share = _shares(moments[np.ix_(order, order)])
    columns = np.ascontiguousarray(weight.T[order], np.float32)  # [K, N]: a column is one stretch
    errors = np.zeros((k, n), np.float32)
    codes = np.empty((k, n), np.uint8)
    for stop in range(k, 0, -_COLUMNS):
        start = max(stop - _COLUMNS, 0)
        moved = columns[start:stop] + share[start:stop, stop:] @ errors[stop:]
        for i in range(stop - 1, start - 1, -1):
            wanted = moved[i - start] + share[i, i + 1 : stop] @ errors[i + 1 : stop]
            minimum = None if low is None else low[i]
            codes[i] = encode(wanted, scale[i], minimum, grid)
            steps = codes[i] * np.float32(grid.format.step) - np.float32(grid.format.offset)
            value = steps * scale[i]
            errors[i] = columns[i] - (value if minimum is None else value + minimum)
    found = np.empty_like(codes)
    found[order] = codes
    return scales.with_codes(np.ascontiguousarray(found.T), grid.format)


def _shares(moments: np.ndarray) -> np.ndarray:
    """R_ij / R_ii in float32, R^T R being the moments, damped."""
    damped = moments.astype(np.float64)
    diagonal = np.einsum("ii->i", damped)
    diagonal += _DAMPING * (diagonal.mean() or 1)
    factor = np.linalg.cholesky(damped, upper=True)
    return (factor / np.diag(factor)[:, None]).astype(np.float32)
