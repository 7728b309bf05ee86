"""kaoken_loop.contract in C: as loops anywhere, through tile registers where there are some."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from kaoken.backend.c_printer import print_module
from kaoken.backend.machine import TargetMachine
from kaoken.backend.toolchain import find_compiler
from tests.c.c_harness import CompiledC, parse

TILES = "x86-64-v4+amx"
KINDS = ("bf16", "ui8_i8", "ui8_i7")
BLOCKS = {"bf16": 32, "ui8_i8": 24, "ui8_i7": 24}
"""Words of a block; the latter are no whole steps of the unit."""
ROWS = (1, 7, 16, 17, 32)
MOST_ROWS = (16, 32, 40)
SIZES = [(1, 1), (17, 7), (32, 16), (50, 17), (8, 40), (129, 129)]
"""Columns, and words of a sum."""

# The left factor begins in row 1, the right one in the second of two matrices and at column 3.
TEXT = """func.func @{name}(%x: memref<?x{words}xi32>, %w: memref<2x{words}x{panel}xi32>,
    %y: memref<{most}x{stride}x{sum}>, %rows: index, %depth: index) {{
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c2 = arith.constant 2 : index
  %c3 = arith.constant 3 : index
  {depth}
  kaoken_loop.contract {kind} %x[%c1, %c0], %w[%c1, %c0, %c3] into %y[%c0, %c2] rows %rows
    depth %k {{columns = {columns}{speed}}}
    : memref<?x{words}xi32>, memref<2x{words}x{panel}xi32>, memref<{most}x{stride}x{sum}>
  func.return
}}"""


def text(
    kind: str, most: int, columns: int, words: int, is_open: bool, blocked: bool = False
) -> str:
    depth = "arith.addi %depth, %c0" if is_open else f"arith.constant {words}"
    return TEXT.format(
        name=name(kind, most, columns, words, is_open) + ("_blocks" if blocked else ""),
        speed=f", block = {BLOCKS[kind]} : i64, ahead = array<i64: 16, {words}>" if blocked else "",
        kind=kind,
        most=most,
        columns=columns,
        panel=columns + 3,
        stride=columns + 4,
        words=words,
        depth=f"%k = {depth} : index",
        sum="f32" if kind == "bf16" else "i32",
    )


def name(kind: str, most: int, columns: int, words: int, is_open: bool) -> str:
    return f"{kind}_{most}_{columns}_{words}_{'open' if is_open else 'known'}"


def numbers(kind: str, *shape: int, signed: bool = True) -> np.ndarray:
    """Narrow numbers that fill words of 32 bits along a last dimension of their own."""
    rng = np.random.default_rng(sum(shape))
    if kind == "bf16":
        return rng.standard_normal((*shape, 2)).astype(ml_dtypes.bfloat16)
    limit = 64 if kind == "ui8_i7" else 128
    low, high, dtype = (-limit, limit, np.int8) if signed else (0, 256, np.uint8)
    return rng.integers(low, high, (*shape, 4)).astype(dtype)


@pytest.fixture(scope="module", params=["generic", "x86-64-v3", "x86-64-v4+vnni+bf16", TILES])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CompiledC:
    if not TargetMachine.parse(request.param).runs_here():
        pytest.skip(f"this CPU does not run {request.param}")
    texts = [
        text(kind, most, *sizes, is_open)
        for kind in KINDS
        for most in MOST_ROWS
        for sizes in SIZES
        for is_open in (False, True)
    ]
    texts += [text(kind, 40, *sizes, False, blocked=True) for kind in KINDS for sizes in SIZES]
    return CompiledC(parse("\n".join(texts)), request.param, tmp_path_factory.mktemp("tiles"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", MOST_ROWS)
@pytest.mark.parametrize(("columns", "words"), SIZES)
@pytest.mark.parametrize("is_open", [False, True])
def test_against_numpy(
    compiled: CompiledC, kind: str, most: int, columns: int, words: int, is_open: bool
) -> None:
    for rows in {*(r for r in ROWS if r <= most), most}:
        x = numbers(kind, rows + 1, words, signed=False)
        w = numbers(kind, 2, words, columns + 3)
        y = np.full((most, columns + 4), 77, np.float32 if kind == "bf16" else np.int32)
        compiled.call(name(kind, most, columns, words, is_open), x, w, y, rows, words)
        wide = np.float64 if kind == "bf16" else np.int64
        factors = x[1:].astype(wide), w[1, :, 3:].astype(wide)
        expected = np.einsum("mkc,knc->mn", *factors)
        np.testing.assert_allclose(y[:rows, 2 : columns + 2], expected, atol=1e-4, rtol=1e-5)
        y[:rows, 2 : columns + 2] = 77
        assert (y == 77).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("columns", "words"), SIZES)
def test_blocks_of_k_change_no_bit(
    compiled: CompiledC, kind: str, columns: int, words: int
) -> None:
    function = name(kind, 40, columns, words, False)
    x, w = numbers(kind, 41, words, signed=False), numbers(kind, 2, words, columns + 3)
    for rows in (1, 31, 33, 40):
        whole, blocks = np.zeros((2, 40, columns + 4), np.float32 if kind == "bf16" else np.int32)
        compiled.call(function, x, w, whole, rows, words)
        compiled.call(f"{function}_blocks", x, w, blocks, rows, words)
        assert whole[:rows].any()
        np.testing.assert_array_equal(whole.view(np.int32), blocks.view(np.int32))


@pytest.mark.parametrize("words", [7, 16, 40])
def test_a_row_alone_has_the_same_bits(compiled: CompiledC, words: int) -> None:
    columns = next(n for n, k in SIZES if k == words)
    function = name("bf16", 40, columns, words, False)
    x, w = numbers("bf16", 41, words), numbers("bf16", 2, words, columns + 3)
    together = np.zeros((40, columns + 4), np.float32)
    compiled.call(function, x, w, together, 40, words)
    for row in (0, 15, 16, 31, 32, 39):
        alone = np.zeros((40, columns + 4), np.float32)
        compiled.call(function, np.ascontiguousarray(x[row : row + 2]), w, alone, 1, words)
        np.testing.assert_array_equal(alone[0], together[row])


@pytest.mark.parametrize(
    "compiler",
    [
        "gcc",
        pytest.param(
            "zig",
            marks=pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="no zig"),
        ),
    ],
)
def test_compilers_know_the_tile_instructions(compiler: str, tmp_path: Path) -> None:
    """On any CPU: nothing is run."""
    module = parse("\n".join(text(kind, 40, 50, 17, True) for kind in KINDS))
    machine = TargetMachine.parse(TILES)
    code = print_module(module, machine).code
    assert "_tile_dpbf16ps(3, 5, 7);" in code
    assert code.count("_tile_dpbusd(3, 5, 7);") == 2 * code.count("_tile_dpbf16ps(3, 5, 7);")
    (tmp_path / "tiles.c").write_text(code)
    found = find_compiler(compiler)
    command = [*found.command, *machine.compiler_flags(found.family), "-c", "tiles.c"]
    if compiler == "zig":
        command += ["-target", "x86_64-linux-gnu"]
    subprocess.run(command, cwd=tmp_path, check=True)
