"""Blocks of GGUF's quantised types as codes and scales, without any rounding.

| type  | a block                                                       | format                   |
|-------|---------------------------------------------------------------|--------------------------|
| Q8_0  | f16 scale, 32 x i8                                            | 8 bits, 128 off          |
| Q4_0  | f16 scale, 16 bytes: weight i low in byte i, i + 16 high      | 4 bits, 8 off            |
| Q4_1  | f16 scale, f16 minimum, 16 bytes as above                     | 4 bits                   |
| Q5_0  | f16 scale, bit i of 32 for weight i, 16 bytes as above        | 5 bits, 16 off           |
| Q5_1  | f16 scale, f16 minimum, 32 bits, 16 bytes as above            | 5 bits                   |
| TQ2_0 | 64 bytes: each of 32 holds 4 weights 32 apart, f16 scale      | 2 bits, 1 off            |
| TQ1_0 | 52 bytes of base-3 digits, 5 (then 4) a byte, f16 scale       | 2 bits, 1 off            |

Blocks of 256 whose groups have integers as scales (and minima, to be subtracted), with f16 numbers
that say what these are worth:

| type  | a block                                                       | format                   |
|-------|---------------------------------------------------------------|--------------------------|
| Q2_K  | 16 bytes: scale and minimum, 64 bytes as TQ2_0's, two f16     | 2 bits, group 16         |
| Q3_K  | 32 bytes of third bits, 64 bytes, 16 x 6 bits less 32, f16    | 4 bits, 4 off, group 16  |
| Q4_K  | two f16, 12 bytes: 8 x (6 bits, 6 bits), 128 bytes            | 4 bits, group 32         |
| Q5_K  | two f16, 12 bytes as above, 32 bytes of fifth bits, 128 bytes | 5 bits, group 32         |
| Q6_K  | 128 bytes low, 64 bytes high, 16 x i8, f16                    | 6 bits, 32 off, group 16 |

Q3_K's codes have a bit more than they need, for 3 bits do not fill words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kaoken.dialect.formats import Format
from kaoken.quantized import Quantized

_HALF = 2
"""Bytes of an f16."""


@dataclass(frozen=True)
class _Parts:
    """Of blocks [N, B, bytes] the codes [N, B, ...], scales and minima [N, B] or [N, B, groups],
    and what these are worth, [N, B, 1 or 2]."""

    codes: np.ndarray
    scale: np.ndarray
    minimum: np.ndarray | None = None
    supers: np.ndarray | None = None


def gguf_blocks(kind: str, data: np.ndarray, k: int) -> Quantized:
    """A matrix [N, k] of one of the types above, from its bytes."""
    size, weights, format_, split = _TYPES[kind]
    n = data.nbytes // (size * (k // weights))
    parts = split(np.ascontiguousarray(data).view(np.uint8).reshape(n, -1, size))

    def rows(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else np.ascontiguousarray(array.reshape(n, -1))

    codes, scale = parts.codes.reshape(n, k), parts.scale.reshape(n, -1)
    return Quantized(
        format_,
        np.ascontiguousarray(codes),
        np.ascontiguousarray(scale),
        rows(parts.minimum),
        rows(parts.supers),
    )


def _f16(blocks: np.ndarray, at: int, count: int = 1) -> np.ndarray:
    """The f16 at a byte of each block, or several."""
    found = np.ascontiguousarray(blocks[..., at : at + count * _HALF]).view(np.float16)
    return found[..., 0] if count == 1 else found


# ---- blocks with a scale ----


def _q8_0(blocks: np.ndarray) -> _Parts:
    return _Parts(blocks[..., _HALF:] ^ np.uint8(128), _f16(blocks, 0))


def _halves(bytes_: np.ndarray) -> np.ndarray:
    return np.concatenate([bytes_ & np.uint8(15), bytes_ >> np.uint8(4)], -1)


def _q4_0(blocks: np.ndarray) -> _Parts:
    return _Parts(_halves(blocks[..., _HALF:]), _f16(blocks, 0))


def _q4_1(blocks: np.ndarray) -> _Parts:
    return _Parts(_halves(blocks[..., 2 * _HALF :]), _f16(blocks, 0), _f16(blocks, _HALF))


def _fives(blocks: np.ndarray, at: int) -> np.ndarray:
    """The codes of 32 bits and the 16 bytes after them."""
    high = np.unpackbits(blocks[..., at : at + 4], axis=-1, bitorder="little")
    return _halves(blocks[..., at + 4 :]) | high << np.uint8(4)


def _q5_0(blocks: np.ndarray) -> _Parts:
    return _Parts(_fives(blocks, _HALF), _f16(blocks, 0))


def _q5_1(blocks: np.ndarray) -> _Parts:
    return _Parts(_fives(blocks, 2 * _HALF), _f16(blocks, 0), _f16(blocks, _HALF))


def _strided(bytes_: np.ndarray, bits: int, run: int) -> np.ndarray:
    """Codes that lie in the same bits of `run` bytes, then in the next bits of these."""
    runs = bytes_.reshape(*bytes_.shape[:-1], -1, 1, run)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    codes = runs >> shifts & np.uint8((1 << bits) - 1)
    return codes.reshape(*bytes_.shape[:-1], -1)


def _tq2_0(blocks: np.ndarray) -> _Parts:
    return _Parts(_strided(blocks[..., :64], 2, 32), _f16(blocks, 64))


def _digits(bytes_: np.ndarray, count: int) -> np.ndarray:
    """The first base-3 digits of bytes that hold ceil(number * 256 / 243)."""
    powers = np.array([3**i for i in range(count)], np.uint8)[:, None]
    shifted = (bytes_[..., None, :] * powers).astype(np.uint16)
    return (shifted * 3 >> 8).astype(np.uint8)


def _tq1_0(blocks: np.ndarray) -> _Parts:
    """Digit i of 32, 16 and 4 bytes in turn is weight i * 32, i * 16, i * 4 on."""
    parts = [(blocks[..., :32], 5), (blocks[..., 32:48], 5), (blocks[..., 48:52], 4)]
    digits = [_digits(part, count).reshape(*blocks.shape[:-1], -1) for part, count in parts]
    return _Parts(np.concatenate(digits, -1), _f16(blocks, 52))


# ---- blocks of groups ----


def _q2_k(blocks: np.ndarray) -> _Parts:
    numbers = blocks[..., :16]
    codes = _strided(blocks[..., 16:80], 2, 32)
    return _Parts(
        codes, numbers & np.uint8(15), numbers >> np.uint8(4), _scale_and_minimum(blocks, 80)
    )


def _q3_k(blocks: np.ndarray) -> _Parts:
    high = _strided(blocks[..., :32], 1, 32)
    codes = _strided(blocks[..., 32:96], 2, 32) | high << np.uint8(2)
    low, rest = _halves(blocks[..., 96:104]), _strided(blocks[..., 104:108], 2, 4)
    scale = (low | rest << np.uint8(4)).astype(np.int8) - np.int8(32)
    return _Parts(codes, scale, None, _f16(blocks, 108)[..., None])


def _scale_and_minimum(blocks: np.ndarray, at: int) -> np.ndarray:
    """Two f16: what scales are worth, and what minima are, which are subtracted."""
    return _f16(blocks, at, 2) * np.array([1, -1], np.float16)


def _six_bits(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """8 scales and 8 minima: 4 in six bits of 4 bytes, 4 in four bits with two of those bytes."""
    scale, minimum, low = (blocks[..., 4 + i : 8 + i] for i in (0, 4, 8))

    def joined(first: np.ndarray, rest: np.ndarray) -> np.ndarray:
        later = rest | first >> np.uint8(2) & np.uint8(48)
        return np.concatenate([first & np.uint8(63), later], -1)

    return joined(scale, low & np.uint8(15)), joined(minimum, low >> np.uint8(4))


def _q4_k(blocks: np.ndarray) -> _Parts:
    return _Parts(
        _strided(blocks[..., 16:], 4, 32), *_six_bits(blocks), _scale_and_minimum(blocks, 0)
    )


def _q5_k(blocks: np.ndarray) -> _Parts:
    codes = _strided(blocks[..., 48:], 4, 32) | _strided(blocks[..., 16:48], 1, 32) << np.uint8(4)
    return _Parts(codes, *_six_bits(blocks), _scale_and_minimum(blocks, 0))


def _q6_k(blocks: np.ndarray) -> _Parts:
    low, high = _strided(blocks[..., :128], 4, 64), _strided(blocks[..., 128:192], 2, 32)
    scale = blocks[..., 192:208].view(np.int8)
    return _Parts(low | high << np.uint8(4), scale, None, _f16(blocks, 208)[..., None])


_TYPES: dict[str, tuple[int, int, Format, Callable[[np.ndarray], _Parts]]] = {
    "Q8_0": (34, 32, Format(8, 32, 128), _q8_0),
    "Q4_0": (18, 32, Format(4, 32, 8), _q4_0),
    "Q4_1": (20, 32, Format(4, 32), _q4_1),
    "Q5_0": (22, 32, Format(5, 32, 16), _q5_0),
    "Q5_1": (24, 32, Format(5, 32), _q5_1),
    "TQ1_0": (54, 256, Format(2, 256, 1), _tq1_0),
    "TQ2_0": (66, 256, Format(2, 256, 1), _tq2_0),
    "Q2_K": (84, 256, Format(2, 16, groups_of_super=16), _q2_k),
    "Q3_K": (110, 256, Format(4, 16, 4, groups_of_super=16), _q3_k),
    "Q4_K": (144, 256, Format(4, 32, groups_of_super=8), _q4_k),
    "Q5_K": (176, 256, Format(5, 32, groups_of_super=8), _q5_k),
    "Q6_K": (210, 256, Format(6, 16, 32, groups_of_super=16), _q6_k),
}
"""The bytes and weights of a block, what its codes are worth, and how it is taken apart."""
KEPT = tuple(_TYPES)
"""The tensor types whose codes and scales are kept."""
