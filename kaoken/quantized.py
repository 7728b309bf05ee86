"""Weights of few bits in numpy: what they mean, how they are packed; `rounding.py` finds them.

The codes of a weight [N, K] are bytes [N, K], its scales (and minima, if it has any) [N, G], a
number for each of the G groups along K (see `kaoken.dialect.formats`). With super-blocks these are
integers of eight bits, and the weight has `supers`, [N, S]: what they are worth in each of its S
super-blocks; with minima [N, 2 S], the scales' number and the minima's in turn. Their products are
exact in float32 where the numbers are of float16.

Inputs meet weights in eight bits, block by block: a block is as long as a group, so that each sum
of integers is exact and is scaled once.

A block of inputs is B bytes, their scale and their sum, as 32-bit words [B / 4 + 2].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kaoken.dialect.attributes import Rounding
from kaoken.dialect.formats import WORD_BYTES, Format
from kaoken.dialect.nn import BLOCK_EXTRA
from kaoken.dialect.quant import BITNET_LEAST, LEAST_SCALE, LIMIT


@dataclass(frozen=True)
class Quantized:
    """A weight of few bits: codes ui8 [N, K], scales [N, G], minima [N, G] or none, and what both
    are worth by super-blocks, [N, S] or [N, 2 S], or none."""

    format: Format
    codes: np.ndarray
    scale: np.ndarray
    minimum: np.ndarray | None = None
    supers: np.ndarray | None = None

    def dequantized(self) -> np.ndarray:
        """The weight in float32, [N, K]."""
        scale, minimum = group_numbers(self.scale, self.minimum, self.supers, self.format)
        return dequantize(self.codes, scale, minimum, self.format)


def group_numbers(
    scale: np.ndarray, minimum: np.ndarray | None, supers: np.ndarray | None, format_: Format
) -> tuple[np.ndarray, np.ndarray | None]:
    """Scales and minima [..., G] in float32: times the numbers of their super-blocks, if any."""
    if supers is None:
        return scale.astype(np.float32), None if minimum is None else minimum.astype(np.float32)
    count = 1 if minimum is None else 2

    def worth(integers: np.ndarray, first: int) -> np.ndarray:
        factors = supers[..., first::count].astype(np.float32)
        spread = np.repeat(factors, format_.groups_of_super, -1)[..., : integers.shape[-1]]
        return integers.astype(np.float32) * spread

    return worth(scale, 0), None if minimum is None else worth(minimum, 1)


def dequantize(
    codes: np.ndarray, scale: np.ndarray, minimum: np.ndarray | None, format_: Format
) -> np.ndarray:
    """`(step * code - offset) * scale + minimum` in float32, rounded after each step; [..., K].

    Scales and minima [..., G] are what `group_numbers` gives."""
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
    Codes of several parts come in chunks: the words of the lowest bits first, then those of the
    next ones, each packed like codes of so many bits. Columns past N and codes past K are 0.
    """
    n, k = codes.shape
    count = -(-n // width)
    padded = np.zeros((count * width, format_.groups(k) * format_.block(k)), np.uint8)
    padded[:n, :k] = codes
    chunks = padded.reshape(count, width, -1, format_.chunk_codes)
    words = [
        _pack_part(chunks >> np.uint8(first) & np.uint8((1 << bits) - 1), bits)
        for first, bits in _bit_ranges(format_)
    ]
    packed = np.concatenate(words, 3).reshape(count, width, -1, WORD_BYTES)
    return np.ascontiguousarray(packed.transpose(0, 2, 1, 3)).view(np.int8)


def unpack_codes(panels: np.ndarray, format_: Format, n: int, k: int) -> np.ndarray:
    """What `pack_codes` was given."""
    packed = panels.view(np.uint8).transpose(0, 2, 1, 3)
    count, width = packed.shape[:2]
    chunks = packed.reshape(count, width, -1, format_.chunk_words, WORD_BYTES)
    codes = np.zeros((*chunks.shape[:3], format_.chunk_codes), np.uint8)
    start = 0
    for first, bits in _bit_ranges(format_):
        stop = start + format_.planes * bits // 8
        codes |= _unpack_part(chunks[:, :, :, start:stop], bits) << np.uint8(first)
        start = stop
    return codes.reshape(count * width, -1)[:n, :k]


def _bit_ranges(format_: Format) -> list[tuple[int, int]]:
    """Of each part of a code the place of its first bit, and how many there are."""
    return [(sum(format_.parts[:i]), bits) for i, bits in enumerate(format_.parts)]


def _pack_part(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes [..., C] of so many bits in words, [..., C * bits / 32, 4]."""
    planes = codes.reshape(*codes.shape[:-1], -1, 8 // bits, WORD_BYTES)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return np.bitwise_or.reduce(planes << shifts, -2)


def _unpack_part(words: np.ndarray, bits: int) -> np.ndarray:
    """What `_pack_part` was given."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    codes = words[..., None, :] >> shifts & np.uint8((1 << bits) - 1)
    return codes.reshape(*words.shape[:-2], -1)


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


def round_rows(x: np.ndarray, rounding: Rounding) -> tuple[np.ndarray, np.ndarray]:
    """Rows of float32 [..., K] as steps -127 .. 127, float32 too, and what a step is worth.

    That is [..., 1]. Each operation is one of float32, but for the quotient of `exact`, whose
    nearest integer float64 gives for all float32.
    """
    largest = np.abs(x).max(-1, initial=0, keepdims=True).astype(np.float32)
    match rounding:
        case Rounding.STEP:
            scale = np.maximum(largest * np.float32(1 / LIMIT), np.float32(LEAST_SCALE))
            steps = x * (np.float32(1) / scale)
        case Rounding.BITNET:
            inverse = np.float32(1) / np.maximum(largest, np.float32(BITNET_LEAST))
            factor = inverse * np.float32(LIMIT)
            scale, steps = np.float32(1) / factor, x * factor
        case Rounding.EXACT:
            largest = np.maximum(largest, np.float32(LEAST_SCALE))
            scale = largest / np.float32(LIMIT)
            steps = x.astype(np.float64) * LIMIT / largest
    return np.clip(np.rint(steps), -LIMIT - 1, LIMIT).astype(np.float32), scale


def quantize_blocks(
    x: np.ndarray, block: int, rounding: Rounding = Rounding.STEP, eps: float | None = None
) -> np.ndarray:
    """Rows of float32 [..., K] as blocks of words, i32 [..., ceil(K / block), block / 4 + 2].

    Each block has a scale of its own, see `round_rows`. What a last block lacks is 0. With `eps`
    scales are those of the row divided by `sqrt(mean(x^2) + eps)`.
    """
    *rows, k = x.shape
    padded = np.zeros((*rows, -(-k // block) * block), np.float32)
    padded[..., :k] = x
    blocks = padded.reshape(*rows, -1, block)
    steps, scale = round_rows(blocks, rounding)
    if eps is not None:
        mean = np.square(x.astype(np.float64)).mean(-1)[..., None, None]
        scale = (scale / np.sqrt(mean + eps)).astype(np.float32)
    words = np.empty((*blocks.shape[:-1], block // WORD_BYTES + BLOCK_EXTRA), np.int32)
    words[..., :-BLOCK_EXTRA] = steps.astype(np.int8).view(np.int32)
    words[..., -2] = scale[..., 0].view(np.int32)
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
    Scales and minima are what `group_numbers` gives.
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
