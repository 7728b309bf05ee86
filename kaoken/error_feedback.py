"""Rounding that knows its inputs: what a column loses, the columns after it make up for.

Weights [N, K] meet inputs whose mean products are H [K, K], so that the squared error of a layer's
results is trace(D H D^T), D being the errors of the weights. Columns are rounded one after the
other, those with the largest inputs first; after each, the columns still to come move so that this
error is least (GPTQ, Frantar et al., 2022, algorithm 1, and its `act_order`). The scales are those
that `kaoken.rounding` finds beforehand, with the columns' mean squares as importance.
"""

from __future__ import annotations

import numpy as np

from kaoken.quantized import Quantized
from kaoken.rounding import encode, grid_of, stored_scales

_DAMPING = 0.01
"""Part of the mean diagonal that is added to it: H of few samples has no inverse."""
_COLUMNS = 128
"""Columns whose errors are carried on together to those behind them, as one product."""


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
    order = np.argsort(-importance, kind="stable")
    groups = order // grid.format.block(k)
    numbers = scales.numbers(grid.format)
    spread = [None if a is None else a[:, groups].T for a in numbers]
    factor = _inverse_factor(moments[np.ix_(order, order)])
    rest = np.ascontiguousarray(weight.T[order], np.float32)  # [K, N]: a column is one stretch
    codes = np.empty((k, n), np.uint8)
    for start in range(0, k, _COLUMNS):
        stop = min(start + _COLUMNS, k)
        errors = np.empty((stop - start, n), np.float32)
        for i in range(start, stop):
            one, low = (None if a is None else a[i] for a in spread)
            assert one is not None
            codes[i] = encode(rest[i], one, low, grid)
            levels = codes[i] * np.float32(grid.format.step) - np.float32(grid.format.offset)
            value = levels * one if low is None else levels * one + low
            error = errors[i - start] = (rest[i] - value) / factor[i, i]
            rest[i + 1 : stop] -= np.outer(factor[i, i + 1 : stop], error)
        rest[stop:] -= factor[start:stop, stop:].T @ errors
    found = np.empty_like(codes)
    found[order] = codes
    return scales.with_codes(np.ascontiguousarray(found.T), grid.format)


def _inverse_factor(moments: np.ndarray) -> np.ndarray:
    """U, upper triangular, with U^T U the inverse of the moments, damped, in float32."""
    damped = moments.astype(np.float64)
    diagonal = np.einsum("ii->i", damped)
    diagonal += _DAMPING * (diagonal.mean() or 1)
    # The inverse's Cholesky factor by way of that of the moments with rows turned round.
    lower = np.linalg.cholesky(damped[::-1, ::-1])
    inverse = np.linalg.inv(lower)[::-1, ::-1]
    return inverse.astype(np.float32)
