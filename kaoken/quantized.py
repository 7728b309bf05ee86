"""Weights of few bits in numpy: what they mean, how they are packed, how they are found.

The codes of a weight [N, K] are bytes [N, K], its scales (and minima, if it has any) [N, G], a
number for each of the G groups along K (see `kaoken.dialect.formats`). Inputs meet them in eight
bits, block by block: a block is as long as a group, so that each sum of integers is exact and is
scaled once.

A block of inputs is B bytes, their scale and their sum, as 32-bit words [B / 4 + 2].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kaoken.dialect.formats import WORD_BYTES, Format
from kaoken.dialect.nn import BLOCK_EXTRA
from kaoken.dialect.quant import LEAST_SCALE, LIMIT
from kaoken.errors import KaokenError


@dataclass(frozen=True)
class Quantized:
    """A weight of few bits: codes ui8 [N, K], scales [N, G], minima [N, G] or none."""

    format: Format
    codes: np.ndarray
    scale: np.ndarray
    minimum: np.ndarray | None = None

    def dequantized(self) -> np.ndarray:
        """The weight in float32, [N, K]."""
        return dequantize(self.codes, self.scale, self.minimum, self.format)


def dequantize(
    codes: np.ndarray, scale: np.ndarray, minimum: np.ndarray | None, format_: Format
) -> np.ndarray:
    """`(step * code - offset) * scale + minimum` in float32, rounded after each step; [..., K]."""
    k = codes.shape[-1]
    steps = codes.astype(np.float32) * np.float32(format_.step) - np.float32(format_.offset)

    def spread(numbers: np.ndarray) -> np.ndarray:
        return np.repeat(numbers.astype(np.float32), format_.block(k), -1)[..., :k]

    values = steps * spread(scale)
    return values if minimum is None else values + spread(minimum)


# ---- packing ----


def pack_codes(codes: np.ndarray, format_: Format, width: int) -> np.ndarray:
    """Codes [N, K] to panels of `width` columns: [ceil(N / width), words, width, 4] of i8.

    A word holds four bytes of one column, and plane p of its bytes (the p-th lowest bits) four
    codes in a row: word w has, of each group, the codes from `4 * planes * w` on, plane by plane.
    Columns past N and codes past K are 0.
    """
    n, k = codes.shape
    planes, count = format_.planes, -(-n // width)
    padded = np.zeros((count * width, format_.groups(k) * format_.block(k)), np.uint8)
    padded[:n, :k] = codes
    split = padded.reshape(count, width, -1, planes, WORD_BYTES)
    packed = np.zeros((count, width, split.shape[2], WORD_BYTES), np.uint8)
    for plane in range(planes):
        packed |= split[:, :, :, plane] << np.uint8(plane * format_.bits)
    return np.ascontiguousarray(packed.transpose(0, 2, 1, 3)).view(np.int8)


def unpack_codes(panels: np.ndarray, format_: Format, n: int, k: int) -> np.ndarray:
    """What `pack_codes` was given."""
    packed = panels.view(np.uint8).transpose(0, 2, 1, 3)
    shifts = np.arange(format_.planes, dtype=np.uint8) * np.uint8(format_.bits)
    split = packed[:, :, :, None] >> shifts[:, None] & np.uint8(format_.largest)
    count, width = packed.shape[:2]
    return split.reshape(count * width, -1)[:n, :k]


def pack_groups(numbers: np.ndarray, width: int) -> np.ndarray:
    """Scales or minima [N, G] to [ceil(N / width), G, width]; columns past N are 0."""
    n, groups = numbers.shape
    padded = np.zeros((-(-n // width) * width, groups), numbers.dtype)
    padded[:n] = numbers
    return np.ascontiguousarray(padded.reshape(-1, width, groups).transpose(0, 2, 1))


def unpack_groups(panels: np.ndarray, n: int) -> np.ndarray:
    """What `pack_groups` was given."""
    return panels.transpose(0, 2, 1).reshape(-1, panels.shape[1])[:n]


# ---- products ----


def quantize_blocks(x: np.ndarray, block: int) -> np.ndarray:
    """Rows of float32 [..., K] as blocks of words, i32 [..., ceil(K / block), block / 4 + 2].

    A block's scale is its largest magnitude / 127; numbers are rounded to multiples of it, halves
    to even. What a last block lacks is 0.
    """
    *rows, k = x.shape
    padded = np.zeros((*rows, -(-k // block) * block), np.float32)
    padded[..., :k] = x
    blocks = padded.reshape(*rows, -1, block)
    largest = np.abs(blocks).max(-1, initial=0).astype(np.float32)
    scale = np.maximum(largest * np.float32(1 / LIMIT), np.float32(LEAST_SCALE))
    inverse = np.float32(1) / scale
    steps = np.clip(np.rint(blocks * inverse[..., None]), -LIMIT - 1, LIMIT)
    words = np.empty((*blocks.shape[:-1], block // WORD_BYTES + BLOCK_EXTRA), np.int32)
    words[..., :-BLOCK_EXTRA] = steps.astype(np.int8).view(np.int32)
    words[..., -2] = scale.view(np.int32)
    words[..., -1] = steps.sum(-1).astype(np.int32)
    return words


def multiply(
    blocks: np.ndarray,
    codes: np.ndarray,
    scale: np.ndarray,
    minimum: np.ndarray | None,
    format_: Format,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Blocks of inputs [..., G, W] times a weight [N, K], in float32, [..., N].

    Groups are added to `start` ([N], or 0) from first to last; the sum of a group is exact, and
    each step on it is rounded to float32: `(sum * scale + minimum * sum of inputs) * input scale`.
    """
    groups = blocks.shape[-2]
    block = (blocks.shape[-1] - BLOCK_EXTRA) * WORD_BYTES
    steps = np.ascontiguousarray(blocks[..., :-BLOCK_EXTRA]).view(np.int8).astype(np.float64)
    padded = np.zeros((len(codes), groups * block), np.float64)
    padded[:, : codes.shape[1]] = codes
    input_scale = np.ascontiguousarray(blocks[..., -2]).view(np.float32)
    sums = blocks[..., -1]
    total = np.zeros((*blocks.shape[:-2], len(codes)), np.float32)
    if start is not None:
        total = total + start.astype(np.float32)
    for g in range(groups):
        part = padded[:, g * block : (g + 1) * block]
        products = (steps[..., g, :] @ part.T) * format_.step
        whole = products - format_.offset * sums[..., g, None].astype(np.float64)
        value = whole.astype(np.float32) * scale[:, g].astype(np.float32)
        if minimum is not None:
            value = value + minimum[:, g].astype(np.float32) * sums[..., g, None].astype(np.float32)
        total = total + value * input_scale[..., g, None]
    return total


# ---- rounding ----

_CLIPS = tuple(1 - 0.025 * i for i in range(13))
"""The parts of a group's range that are tried as its scale: from all of it to 70 %."""

ROUNDED: dict[str, Format] = {
    "int8g": Format(8, 32, 128),
    "int4": Format(4, 32, 8),
    "int2": Format(2, 32),
    "ternary": Format(2, 32, 1),
    "int1": Format(1, 32, 1, 2),
}
"""The formats that weights may be rounded to, by name; `int2` has minima."""


def rounded(weight: np.ndarray, name: str, group: int = 32) -> Quantized:
    """A weight [N, K] in a format of `ROUNDED`, its scales and minima in float16.

    Each group takes, of several parts of its range, the one that gives the least squared error.
    Raises KaokenError when the weight holds a number that is not finite or too large for float16.
    """
    default = ROUNDED[name]
    format_ = Format(default.bits, group, default.offset, default.step)
    if (wrong := format_.check()) is not None:
        raise KaokenError(wrong)
    if not np.isfinite(weight).all():
        raise KaokenError("it holds NaN or infinity, which no scale fits")
    n, k = weight.shape
    size, groups = format_.block(k), format_.groups(k)
    padded = np.zeros((n, groups * size), np.float32)
    padded[:, :k] = weight
    blocks = padded.reshape(n, groups, size)
    inside = (np.arange(groups * size) < k).reshape(groups, size)
    find = _FINDERS[name]
    codes, scale, minimum = find(blocks, inside, format_)
    return Quantized(format_, codes.reshape(n, -1)[:, :k], scale, minimum)


_Found = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def _as_scale(scale: np.ndarray) -> np.ndarray:
    """Scales in float16. Raises KaokenError where they are too large."""
    with np.errstate(over="ignore"):
        half = scale.astype(np.float16)
    if not np.isfinite(half).all():
        raise KaokenError(
            f"a scale of {np.abs(scale).max():g} is too large for float16, which ends at 65504: "
            "divide the layer's weights"
        )
    return half


def _best(
    blocks: np.ndarray,
    inside: np.ndarray,
    candidates: list[tuple[np.ndarray, ...]],
    format_: Format,
) -> _Found:
    """The candidates (scale, or scale and minimum, each [N, G]) of least squared error."""
    best, least = None, None
    for candidate in candidates:
        halves = [_as_scale(part) for part in candidate]
        scale, low = halves[0].astype(np.float32), 0.0
        if len(halves) > 1:
            low = halves[1].astype(np.float32)[..., None]
        safe = np.where(scale == 0, np.float32(1), scale)[..., None]
        steps = ((blocks - low) / safe + format_.offset) / format_.step
        codes = np.clip(np.rint(steps), 0, _top(format_)).astype(np.uint8)
        values = (codes.astype(np.float32) * format_.step - format_.offset) * scale[..., None] + low
        error = (np.square(values - blocks) * inside).sum(-1)
        if best is None or least is None:
            best, least = [codes, *halves], error
            continue
        better = error < least
        least = np.where(better, error, least)
        best = [
            np.where(better[..., None] if new.ndim == 3 else better, new, old)
            for new, old in zip([codes, *halves], best, strict=True)
        ]
    assert best is not None
    return best[0], best[1], best[2] if len(best) > 2 else None


def _top(format_: Format) -> int:
    """The largest code that is used: a ternary weight has three."""
    is_ternary = format_.bits == 2 and format_.offset == 1
    return 2 if is_ternary else format_.largest


def _symmetric(blocks: np.ndarray, inside: np.ndarray, format_: Format) -> _Found:
    """Scales so that the number of largest magnitude is the lowest code, as in Q4_0."""
    at = np.abs(blocks).argmax(-1)[..., None]
    extreme = np.take_along_axis(blocks, at, -1)[..., 0]
    largest = np.abs(extreme)
    full = extreme / np.float32(-format_.offset)
    above = _top(format_) - format_.offset
    candidates = [(full * np.float32(c),) for c in _CLIPS]
    candidates += [(largest / np.float32(above) * np.float32(c),) for c in _CLIPS]
    return _best(blocks, inside, candidates, format_)


def _with_minimum(blocks: np.ndarray, inside: np.ndarray, format_: Format) -> _Found:
    low = np.where(inside, blocks, np.inf).min(-1).astype(np.float32)
    high = np.where(inside, blocks, -np.inf).max(-1).astype(np.float32)
    middle, spread = (low + high) / 2, (high - low) / np.float32(format_.largest)
    candidates = [
        (spread * np.float32(c), middle - spread * np.float32(c * format_.largest / 2))
        for c in (1 - 0.04 * i for i in range(16))
    ]
    return _best(blocks, inside, candidates, format_)


def _ternary(blocks: np.ndarray, inside: np.ndarray, format_: Format) -> _Found:
    """Scales around the mean magnitude of those that are not rounded to zero."""
    largest = np.abs(blocks).max(-1)
    candidates = [(largest * np.float32(c),) for c in np.linspace(1, 0.3, 15)]
    return _best(blocks, inside, candidates, format_)


def _binary(blocks: np.ndarray, inside: np.ndarray, format_: Format) -> _Found:
    """The mean magnitude, which is the best scale of signs (Rastegari et al., XNOR-Net, 2016)."""
    mean = np.abs(blocks).sum(-1) / np.maximum(inside.sum(-1), 1)
    scale = _as_scale(mean)
    codes = (blocks >= 0).astype(np.uint8)
    return codes, scale, None


_FINDERS = {
    "int8g": _symmetric,
    "int4": _symmetric,
    "int2": _with_minimum,
    "ternary": _ternary,
    "int1": _binary,
}
