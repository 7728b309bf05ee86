"""Weights to few bits: the search of scales, group by group.

A group tries several parts of its range as its scale, since a few large numbers that are clipped
may cost less than coarse steps for all. Each trial rounds the group to codes and then takes the
scale (and the minimum) that suits these codes best, by least squares, as llama.cpp's
`make_qkx2_quants` does. The trial of least squared error is kept; `importance` weighs the errors.

Scales are found in float32, then rounded to what holds them, and codes last, so that these know
the scales that they will be multiplied by.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from ml_dtypes import bfloat16

from kaoken.dialect.formats import Format
from kaoken.errors import KaokenError
from kaoken.quantized import Quantized, group_numbers

_CHUNK = 2048
"""Groups that are searched at once: what a trial makes of them stays in the L2 cache."""
_LEAST_HALF = 2.0**-17
"""float16 holds larger numbers to a 256th or better; weights with smaller scales take bfloat16."""
_LARGEST, _LEAST = 2.0**126, 2.0**-110
"""Larger weights are refused, groups of smaller ones are 0: bfloat16 holds no scale for them."""


@dataclass(frozen=True)
class Grid:
    """A format and how its scales are searched."""

    format: Format
    parts: tuple[float, ...] = (1.0,)
    """The parts of a group's range that are tried."""
    has_minimum: bool = False
    codes: int = 0
    """How many codes are used; 0: all that there are."""

    @property
    def top(self) -> int:
        """The largest code that is used."""
        return self.codes - 1 if self.codes else self.format.largest

    def stored_bytes(self, n: int, k: int) -> int:
        """What the codes, scales and minima of a weight [N, K] take."""
        groups, numbers = self.format.groups(k), 2 if self.has_minimum else 1
        codes = groups * self.format.block(k) * self.format.bits // 8
        half = np.dtype(np.float16).itemsize
        scales = numbers * groups * (1 if self.format.groups_of_super else half)
        return n * (codes + scales + numbers * half * self.format.super_blocks(k))


def _steps(first: float, last: float, count: int) -> tuple[float, ...]:
    return tuple(np.linspace(first, last, count).tolist())


GRIDS: dict[str, Grid] = {
    "int8g": Grid(Format(8, 32, 128)),
    "int6": Grid(Format(6, 32, groups_of_super=64), _steps(1, 0.9, 4), has_minimum=True),
    "int5": Grid(Format(5, 32, groups_of_super=64), _steps(1, 0.8, 6), has_minimum=True),
    "int4": Grid(Format(4, 32, groups_of_super=64), _steps(1, 0.67, 12), has_minimum=True),
    "int3": Grid(Format(3, 32, groups_of_super=64), _steps(1, 0.55, 14), has_minimum=True),
    "int2": Grid(Format(2, 32), _steps(1, 0.4, 16), has_minimum=True),
    "ternary": Grid(Format(2, 32, 1), _steps(1, 0.3, 15), codes=3),
    "int1": Grid(Format(1, 32, 1, 2)),
}
"""What weights may be rounded to, by name."""


def grid_of(name: str, group: int = 32) -> Grid:
    """A grid with groups of that size. KaokenError where codes would not fill words."""
    known = GRIDS[name]
    found = replace(known, format=replace(known.format, group=group))
    if (wrong := found.format.check()) is not None:
        raise KaokenError(wrong)
    return found


def rounded(
    weight: np.ndarray, name: str, group: int = 32, importance: np.ndarray | None = None
) -> Quantized:
    """A weight [N, K] in the format of that name, each number rounded to the nearest code.

    `importance` [K] says how much squared errors of a column count. Raises KaokenError when the
    weight holds numbers that are not finite.
    """
    grid = grid_of(name, group)
    scales = stored_scales(weight, grid, importance)
    scale, minimum = (None if a is None else a.reshape(-1, 1) for a in scales.numbers(grid.format))
    blocks = _blocks(weight, grid.format)
    codes = _by_chunks(
        lambda b, s, m: encode(b, s, m, grid), blocks.reshape(-1, blocks.shape[-1]), scale, minimum
    )
    n, k = weight.shape
    return scales.with_codes(codes.reshape(n, -1)[:, :k], grid.format)


@dataclass(frozen=True)
class Scales:
    """What a weight keeps besides codes, see `Quantized`."""

    scale: np.ndarray
    minimum: np.ndarray | None
    supers: np.ndarray | None

    def numbers(self, format_: Format) -> tuple[np.ndarray, np.ndarray | None]:
        """Scales and minima [N, G] in float32."""
        return group_numbers(self.scale, self.minimum, self.supers, format_)

    def with_codes(self, codes: np.ndarray, format_: Format) -> Quantized:
        return Quantized(format_, codes, self.scale, self.minimum, self.supers)


def stored_scales(weight: np.ndarray, grid: Grid, importance: np.ndarray | None = None) -> Scales:
    """The scales [N, G] of a weight [N, K], and its minima if it has any, as they are kept.

    Raises KaokenError when the weight holds numbers that are not finite, or too large for a scale.
    """
    if not np.isfinite(weight).all():
        raise KaokenError("it holds NaN or infinity, which no scale fits")
    if np.abs(weight).max(initial=0) > _LARGEST:
        raise KaokenError("it holds numbers beyond 8e37, which no scale fits")
    n, k = weight.shape
    size, groups = grid.format.block(k), grid.format.groups(k)
    blocks = _blocks(weight, grid.format).reshape(-1, size)
    counts = None
    if importance is not None or groups * size != k:
        of_columns = np.ones(k) if importance is None else importance / (importance.mean() or 1)
        padded = np.pad(of_columns.astype(np.float32), (0, groups * size - k)).reshape(groups, size)
        counts = np.broadcast_to(padded, (n, groups, size)).reshape(-1, size)
    found = _by_chunks(lambda b, w: _fit(b, w, grid), blocks, counts)
    scale, minimum = (found[:, i].reshape(n, groups) for i in range(2))
    if grid.format.groups_of_super:
        return _in_super_blocks(scale, minimum if grid.has_minimum else None, grid.format)
    return Scales(_narrowed(scale), _narrowed(minimum) if grid.has_minimum else None, None)


def _in_super_blocks(scale: np.ndarray, minimum: np.ndarray | None, format_: Format) -> Scales:
    """Scales and minima [N, G] as bytes times numbers of super-blocks, of one type for both."""
    n, groups = scale.shape
    size, count = format_.groups_of_super, format_.super_blocks(groups * format_.group)
    known = [(scale, np.iinfo(np.uint8))]
    known += [] if minimum is None else [(minimum, np.iinfo(np.int8))]
    blocks = [
        np.pad(numbers, ((0, 0), (0, count * size - groups))).reshape(n, count, size)
        for numbers, _ in known
    ]
    # What a step is worth is rounded, perhaps down: the largest number has a step to spare.
    worth = [
        np.abs(numbers).max(2) / np.float32(info.max - 1)
        for numbers, (_, info) in zip(blocks, known, strict=True)
    ]
    supers = _narrowed(np.stack(worth, 2))

    def integers(i: int, info: np.iinfo) -> np.ndarray:
        steps = np.rint(blocks[i] * _inverse(supers[..., i].astype(np.float32))[..., None])
        return np.clip(steps, info.min, info.max).astype(info.dtype).reshape(n, -1)[:, :groups]

    found = [integers(i, info) for i, (_, info) in enumerate(known)]
    return Scales(found[0], None if minimum is None else found[1], supers.reshape(n, -1))


def encode(
    numbers: np.ndarray, scale: np.ndarray, minimum: np.ndarray | None, grid: Grid
) -> np.ndarray:
    """The codes nearest to numbers, ui8; scales and minima are spread as numpy broadcasts them."""
    format_ = grid.format
    shifted = numbers if minimum is None else numbers - minimum.astype(np.float32)
    steps = shifted * _inverse(scale.astype(np.float32))
    steps += np.float32(format_.offset)
    steps *= np.float32(1 / format_.step)
    return np.clip(np.rint(steps, out=steps), 0, grid.top, out=steps).astype(np.uint8)


def _blocks(weight: np.ndarray, format_: Format) -> np.ndarray:
    """[N, K] as [N, groups, numbers of a group], filled up with zeros."""
    n, k = weight.shape
    size, groups = format_.block(k), format_.groups(k)
    padded = np.zeros((n, groups * size), np.float32)
    padded[:, :k] = weight
    return padded.reshape(n, groups, size)


def _by_chunks(work: Callable[..., np.ndarray], *arrays: np.ndarray | None) -> np.ndarray:
    """What `work` makes of equal rows of all arrays, on all cores; numpy lets threads run."""
    first = arrays[0]
    assert first is not None
    starts = range(0, len(first), _CHUNK)

    def part(at: int) -> np.ndarray:
        return work(*(None if a is None else a[at : at + _CHUNK] for a in arrays))

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return np.concatenate(list(pool.map(part, starts)))


def _narrowed(numbers: np.ndarray) -> np.ndarray:
    """As float16, or bfloat16 where that is too small for some of them."""
    sizes = np.abs(numbers[numbers != 0])
    fits = not len(sizes) or (sizes.min() >= _LEAST_HALF and sizes.max() <= np.finfo("f2").max)
    return numbers.astype(np.float16 if fits else bfloat16)


def _inverse(scale: np.ndarray) -> np.ndarray:
    """1 / scale, and 0 for 0."""
    return np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)


# ---- one group a row ----


def _fit(blocks: np.ndarray, counts: np.ndarray | None, grid: Grid) -> np.ndarray:
    """Scale and minimum of each group, [B, 2]. `counts` weighs errors; 0 for what fills up."""
    at = np.abs(blocks).argmax(1)
    extreme = blocks[np.arange(len(blocks)), at]
    unit = np.exp2(np.floor(np.log2(np.abs(np.where(extreme == 0, 1, extreme)))))
    unit = unit.astype(np.float32)[:, None]  # sums of squares neither overflow nor vanish
    counts = np.ones((1, blocks.shape[1]), np.float32) if counts is None else counts
    fit = _fit_affine if grid.has_minimum else _fit_scale
    found = fit(blocks / unit, np.broadcast_to(counts, blocks.shape), grid) * unit
    found[np.abs(extreme) < _LEAST] = 0
    return found


def _fit_scale(blocks: np.ndarray, counts: np.ndarray, grid: Grid) -> np.ndarray:
    """The number of largest magnitude is the lowest code, or nearly so, as in Q4_0."""
    extreme = blocks[np.arange(len(blocks)), np.abs(blocks).argmax(1)]
    format_ = grid.format
    weighted = blocks * counts
    best, most = np.zeros(len(blocks), np.float32), np.zeros(len(blocks), np.float32)
    for part in grid.parts:
        scale = extreme * np.float32(-part / format_.offset)
        codes = encode(blocks, scale[:, None], None, grid).astype(np.float32)
        levels = codes * np.float32(format_.step) - np.float32(format_.offset)
        product = np.einsum("bi,bi->b", weighted, levels)
        square = np.einsum("bi,bi,bi->b", levels, levels, counts)
        fitted = product * _inverse(square)
        gain = fitted * product  # by which the squared error is less than that of zeros
        better = gain > most
        best[better], most[better] = fitted[better], gain[better]
    return np.stack([best, np.zeros_like(best)], 1)


def _fit_affine(blocks: np.ndarray, counts: np.ndarray, grid: Grid) -> np.ndarray:
    """Codes lie evenly over a part of the range from the least to the largest number."""
    low = np.where(counts > 0, blocks, np.inf).min(1, initial=np.inf)
    high = np.where(counts > 0, blocks, -np.inf).max(1, initial=-np.inf)
    empty = low > high
    low[empty], high[empty] = 0, 0
    middle, spread = (low + high) / 2, (high - low) / np.float32(grid.top)
    total, weighted = counts.sum(1), blocks * counts
    mean = weighted.sum(1) * _inverse(total)
    best = np.stack([spread, low], 1)
    most = np.full(len(blocks), -np.inf, np.float32)
    for part in grid.parts:
        scale = spread * np.float32(part)
        minimum = middle - scale * np.float32(grid.top / 2)
        codes = encode(blocks, scale[:, None], minimum[:, None], grid).astype(np.float32)
        code = np.einsum("bi,bi->b", codes, counts) * _inverse(total)
        covariance = np.einsum("bi,bi->b", weighted, codes) - total * mean * code
        variance = np.einsum("bi,bi,bi->b", codes, codes, counts) - total * np.square(code)
        fitted = covariance * _inverse(np.maximum(variance, 0))
        gain = fitted * covariance  # by which the squared error is less than that of the mean
        better = gain > most
        best[better] = np.stack([fitted, mean - fitted * code], 1)[better]
        most[better] = gain[better]
    return best
