"""kaoken_loop.dot on every instruction set, with the bytes that are hardest to add up."""

from __future__ import annotations

from itertools import product

import ml_dtypes
import numpy as np
import pytest

from kaoken.backend.machine import TargetMachine
from tests.c import cross
from tests.c.c_harness import CompiledC, parse

SHAPE = (3, 17)
"""Of words: registers that are full and one that is not."""
TARGETS = (
    "generic",
    "x86-64-v3",
    "x86-64-v3+avxvnni",
    "x86-64-v4",
    "x86-64-v4+vnni",
    "x86-64-v4+vnni+bf16",
)
OTHERS = ("aarch64-neon", "aarch64-neon+dotprod", "aarch64-neon+i8mm")
"""What runs in an emulator."""
BYTES = {
    "ui8_i8": ((0, 1, 127, 128, 255), (-128, -127, -1, 0, 1, 127)),
    "ui8_i7": ((0, 1, 127, 128, 255), (-64, -63, -1, 0, 1, 63)),
    "ui7_i8": ((0, 1, 64, 126, 127), (-127, -126, -1, 0, 1, 127)),
}
"""All pairs fill words alone: four products of one sign are the largest sums that there are."""
TEXT = """func.func @{kind}(%a: memref<3x17xi32>, %b: memref<3x17xi32>, %sum: memref<3x17x{sum}>) {{
  %c0 = arith.constant 0 : index
  %word = arith.constant 0 : i32
  %zero = arith.constant {zero} : {sum}
  %x = vector.transfer_read %a[%c0, %c0], %word {{in_bounds = [true, true]}}
    : memref<3x17xi32>, vector<3x17xi32>
  %y = vector.transfer_read %b[%c0, %c0], %word {{in_bounds = [true, true]}}
    : memref<3x17xi32>, vector<3x17xi32>
  %z = vector.transfer_read %sum[%c0, %c0], %zero {{in_bounds = [true, true]}}
    : memref<3x17x{sum}>, vector<3x17x{sum}>
  %d = kaoken_loop.dot {kind} %x, %y, %z
    : vector<3x17xi32>, vector<3x17xi32>, vector<3x17x{sum}> -> vector<3x17x{sum}>
  vector.transfer_write %d, %sum[%c0, %c0] {{in_bounds = [true, true]}}
    : vector<3x17x{sum}>, memref<3x17x{sum}>
  func.return
}}"""


@pytest.fixture(scope="module", params=[*TARGETS, *OTHERS])
def compiled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> CompiledC | cross.EmulatedC:
    texts = [TEXT.format(kind=kind, sum="i32", zero="0") for kind in BYTES]
    texts.append(TEXT.format(kind="bf16", sum="f32", zero="0.0"))
    module, folder = parse("\n".join(texts)), tmp_path_factory.mktemp("dots")
    if request.param in OTHERS:
        cross.need_emulator()
        return cross.EmulatedC(module, request.param, folder)
    if not TargetMachine.parse(request.param).runs_here():
        pytest.skip(f"this CPU does not run {request.param}")
    return CompiledC(module, request.param, folder)


@pytest.mark.parametrize("kind", BYTES)
def test_sums_of_bytes_are_exact(compiled: CompiledC | cross.EmulatedC, kind: str) -> None:
    rng = np.random.default_rng(0)
    count, (unsigned, signed) = SHAPE[0] * SHAPE[1], BYTES[kind]
    extremes = np.array(list(product(unsigned, signed)))
    a, b = rng.choice(unsigned, (count, 4)), rng.choice(signed, (count, 4))
    a[: len(extremes)], b[: len(extremes)] = extremes[:, :1], extremes[:, 1:]
    sums = rng.integers(-1 << 20, 1 << 20, SHAPE).astype(np.int32)
    expected = sums + (a * b).sum(1).reshape(SHAPE)
    words = [
        x.astype(type_).view(np.int32).reshape(SHAPE) for x, type_ in ((a, np.uint8), (b, np.int8))
    ]
    compiled.call(kind, *words, sums)
    np.testing.assert_array_equal(sums, expected)


def test_pairs_of_bf16(compiled: CompiledC | cross.EmulatedC) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, *SHAPE, 2)).astype(ml_dtypes.bfloat16)
    sums = rng.standard_normal(SHAPE).astype(np.float32)
    expected = sums + (a.astype(np.float64) * b.astype(np.float64)).sum(-1)
    compiled.call("bf16", *(x.view(np.int32).reshape(SHAPE) for x in (a, b)), sums)
    np.testing.assert_allclose(sums, expected, rtol=1e-6, atol=1e-6)
