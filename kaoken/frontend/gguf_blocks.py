"""Blocks of GGUF's quantised types as codes and scales, without any rounding.

| type  | a block                                                           | format          |
|-------|-------------------------------------------------------------------|-----------------|
| Q8_0  | f16 scale, 32 x i8                                                | 8 bits, 128 off |
| Q4_0  | f16 scale, 16 bytes: weight i low in byte i, i + 16 high          | 4 bits, 8 off   |
| Q4_1  | f16 scale, f16 minimum, 16 bytes as above                         | 4 bits          |
| TQ2_0 | 64 bytes: each byte of 32 holds 4 weights 32 apart, f16 scale     | 2 bits, 1 off   |
| TQ1_0 | 52 bytes of base-3 digits, 5 (then 4) a byte, f16 scale           | 2 bits, 1 off   |
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kaoken.dialect.formats import Format
from kaoken.quantized import Quantized

_HALF = 2
"""Bytes of an f16."""


def gguf_blocks(kind: str, data: np.ndarray, k: int) -> Quantized:
    """A matrix [N, k] of one of the types above, from its bytes."""
    size, format_, has_minimum, split = _TYPES[kind]
    n = data.nbytes // (size * (k // format_.group))
    blocks = np.ascontiguousarray(data).view(np.uint8).reshape(n, -1, size)
    codes, scale, minimum = split(blocks)
    assert (minimum is not None) == has_minimum
    codes = np.ascontiguousarray(codes.reshape(n, k))
    return Quantized(format_, codes, scale, minimum)


_Parts = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def _f16(blocks: np.ndarray, at: int) -> np.ndarray:
    """The f16 at a byte of each block."""
    return np.ascontiguousarray(blocks[..., at : at + _HALF]).view(np.float16)[..., 0]


def _q8_0(blocks: np.ndarray) -> _Parts:
    return blocks[..., _HALF:] ^ np.uint8(128), _f16(blocks, 0), None


def _halves(bytes_: np.ndarray) -> np.ndarray:
    return np.concatenate([bytes_ & np.uint8(15), bytes_ >> np.uint8(4)], -1)


def _q4_0(blocks: np.ndarray) -> _Parts:
    return _halves(blocks[..., _HALF:]), _f16(blocks, 0), None


def _q4_1(blocks: np.ndarray) -> _Parts:
    return _halves(blocks[..., 2 * _HALF :]), _f16(blocks, 0), _f16(blocks, _HALF)


def _tq2_0(blocks: np.ndarray) -> _Parts:
    quarters = blocks[..., :64].reshape(*blocks.shape[:-1], 2, 1, 32)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    return quarters >> shifts & np.uint8(3), _f16(blocks, 64), None


def _digits(bytes_: np.ndarray, count: int) -> np.ndarray:
    """The first base-3 digits of bytes that hold ceil(number * 256 / 243)."""
    powers = np.array([3**i for i in range(count)], np.uint8)[:, None]
    shifted = (bytes_[..., None, :] * powers).astype(np.uint16)
    return (shifted * 3 >> 8).astype(np.uint8)


def _tq1_0(blocks: np.ndarray) -> _Parts:
    """Digit i of 32, 16 and 4 bytes in turn is weight i * 32, i * 16, i * 4 on."""
    parts = [(blocks[..., :32], 5), (blocks[..., 32:48], 5), (blocks[..., 48:52], 4)]
    digits = [_digits(part, count).reshape(*blocks.shape[:-1], -1) for part, count in parts]
    return np.concatenate(digits, -1), _f16(blocks, 52), None


_TYPES: dict[str, tuple[int, Format, bool, Callable[[np.ndarray], _Parts]]] = {
    "Q8_0": (34, Format(8, 32, 128), False, _q8_0),
    "Q4_0": (18, Format(4, 32, 8), False, _q4_0),
    "Q4_1": (20, Format(4, 32), True, _q4_1),
    "TQ2_0": (66, Format(2, 256, 1), False, _tq2_0),
    "TQ1_0": (54, Format(2, 256, 1), False, _tq1_0),
}
