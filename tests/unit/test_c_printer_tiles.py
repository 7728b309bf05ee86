"""Register tiles in C: accumulators in place, rolled epilogues, parts, odd sizes, every target."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kaoken.backend.machine import TargetMachine, cpu_flags
from tests.c.c_harness import CompiledC, parse

RNG = np.random.default_rng(0)

ROW = "affine_map<(d0, d1) -> (d0, 0)>"
COLUMN = "affine_map<(d0, d1) -> (0, d1)>"
BOTH = "affine_map<(d0, d1) -> (d0, d1)>"
TRANSPOSED = "affine_map<(d0, d1) -> (d1, d0)>"


@pytest.fixture(params=["generic", "x86-64-v3", "x86-64-v4"])
def target(request: pytest.FixtureRequest) -> str:
    if not cpu_flags().issuperset(TargetMachine.parse(request.param).cpu_flags):
        pytest.skip(f"this CPU lacks {request.param}")
    return request.param


def read(name: str, source: str, map_: str = BOTH, index: str = "%c0, %c0") -> str:
    """`%name` read from memref `source`, written `%m : type`; VT and MT stand for types."""
    memref = source.split(" : ")[1]
    return (
        f"%{name} = vector.transfer_read {source.split(' : ')[0]}[{index}], %pad "
        f"{{in_bounds = [true, true], permutation_map = {map_}}} : {memref}, VT"
    )


def write(value: str, target: str, map_: str = BOTH, index: str = "%c0, %c0") -> str:
    memref = target.split(" : ")[1]
    return (
        f"vector.transfer_write {value}, {target.split(' : ')[0]}[{index}] "
        f"{{in_bounds = [true, true], permutation_map = {map_}}} : VT, {memref}"
    )


def function(arguments: str, body: str, vector: str) -> str:
    text = f"""func.func @f({arguments}) {{
%c0 = arith.constant 0 : index
%c1 = arith.constant 1 : index
%pad = arith.constant 0.0 : f32
{body}
func.return
}}"""
    return text.replace("VT", vector)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def run(text: str, target: str, folder: Path, *arguments: np.ndarray | int) -> str:
    compiled = CompiledC(parse(text), target, folder)
    compiled.call("f", *arguments)
    return compiled.source.code


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 17), (3, 16), (5, 33), (4, 7)])
def test_matmul(rows: int, columns: int, target: str, tmp_path: Path) -> None:
    m = {"x": f"memref<{rows}x9xf32>", "w": f"memref<9x{columns}xf32>"}
    y = f"memref<{rows}x{columns}xf32>"
    body = f"""%zero = arith.constant dense<0.0> : VT
%acc = affine.for %k = 0 to 9 iter_args(%a = %zero) -> (VT) {{
  {read("xv", f"%x : {m['x']}", ROW, "%c0, %k")}
  {read("wv", f"%w : {m['w']}", COLUMN, "%k, %c0")}
  %f = vector.fma %xv, %wv, %a : VT
  affine.yield %f : VT
}}
{write("%acc", f"%y : {y}")}"""
    text = function(f"%x: {m['x']}, %w: {m['w']}, %y: {y}", body, f"vector<{rows}x{columns}xf32>")
    x, w, result = floats(rows, 9), floats(9, columns), np.zeros((rows, columns), np.float32)
    code = run(text, target, tmp_path, x, w, result)
    np.testing.assert_allclose(result, x @ w, rtol=1e-5, atol=1e-6)
    assert code.count("acc") >= 2


def test_nested_loops_share_one_accumulator(target: str, tmp_path: Path) -> None:
    body = f"""{read("init", "%b : memref<3x20xf32>")}
%acc = affine.for %i = 0 to 4 iter_args(%a = %init) -> (VT) {{
  %inner = affine.for %j = 0 to 5 iter_args(%c = %a) -> (VT) {{
    {read("xv", "%x : memref<4x5xf32>", "affine_map<(d0, d1) -> (0, 0)>", "%i, %j")}
    %s = arith.addf %c, %xv : VT
    affine.yield %s : VT
  }}
  affine.yield %inner : VT
}}
{write("%acc", "%y : memref<3x20xf32>")}"""
    arguments = "%x: memref<4x5xf32>, %b: memref<3x20xf32>, %y: memref<3x20xf32>"
    x, b, y = floats(4, 5), floats(3, 20), np.zeros((3, 20), np.float32)
    code = run(function(arguments, body, "vector<3x20xf32>"), target, tmp_path, x, b, y)
    np.testing.assert_allclose(y, b + x.sum(), rtol=1e-4)
    arrays = [line for line in code.splitlines() if line.strip().endswith("];")]
    assert sum(" = " not in line for line in arrays) == 1, "one array serves all"


def test_values_that_swap(target: str, tmp_path: Path) -> None:
    body = f"""{read("p", "%x : memref<3x20xf32>")}
{read("q", "%y : memref<3x20xf32>")}
%r:2 = affine.for %i = 0 to 3 iter_args(%a = %p, %b = %q) -> (VT, VT) {{
  %s = arith.addf %a, %b : VT
  affine.yield %s, %a : VT, VT
}}
{write("%r#0", "%x : memref<3x20xf32>")}
{write("%r#1", "%y : memref<3x20xf32>")}"""
    arguments = "%x: memref<3x20xf32>, %y: memref<3x20xf32>"
    x, y = floats(3, 20), floats(3, 20)
    a, b = x.copy(), y.copy()
    for _ in range(3):
        a, b = a + b, a
    run(function(arguments, body, "vector<3x20xf32>"), target, tmp_path, x, y)
    np.testing.assert_allclose(x, a, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(y, b, rtol=1e-5, atol=1e-5)


def test_old_value_used_after_the_new_one(target: str, tmp_path: Path) -> None:
    """Running maximum and what it changed by: the old one is read after the new one exists."""
    body = f"""%zero = arith.constant dense<0.0> : VT
%r:2 = affine.for %i = 0 to 4 iter_args(%max = %zero, %sum = %zero) -> (VT, VT) {{
  {read("v", "%x : memref<4x20xf32>", COLUMN, "%i, %c0")}
  %new = arith.maximumf %max, %v : VT
  %d = arith.subf %new, %max : VT
  %s = arith.mulf %d, %d : VT
  %t = arith.addf %sum, %s : VT
  affine.yield %new, %t : VT, VT
}}
{write("%r#0", "%y : memref<2x20xf32>")}
{write("%r#1", "%z : memref<2x20xf32>")}"""
    arguments = "%x: memref<4x20xf32>, %y: memref<2x20xf32>, %z: memref<2x20xf32>"
    x, y, z = floats(4, 20), np.zeros((2, 20), np.float32), np.zeros((2, 20), np.float32)
    run(function(arguments, body, "vector<2x20xf32>"), target, tmp_path, x, y, z)
    peak, changes = np.zeros(20, np.float32), np.zeros(20, np.float32)
    for row in x:
        new = np.maximum(peak, row)
        changes += (new - peak) ** 2
        peak = new
    np.testing.assert_allclose(y, np.stack([peak, peak]))
    np.testing.assert_allclose(z, np.stack([changes, changes]), rtol=1e-5)


def test_long_epilogue_is_rolled(target: str, tmp_path: Path) -> None:
    steps = "\n".join(
        f"%p{i + 1} = vector.fma %p{i}, %acc, %h : VT" if i else "%p1 = arith.mulf %acc, %h : VT"
        for i in range(40)
    )
    body = f"""%zero = arith.constant dense<0.0> : VT
%h = arith.constant dense<0.125> : VT
%acc = affine.for %k = 0 to 3 iter_args(%a = %zero) -> (VT) {{
  {read("v", "%x : memref<8x40xf32>", BOTH, "%k, %c0")}
  %s = arith.addf %a, %v : VT
  affine.yield %s : VT
}}
{read("bias", "%b : memref<1x40xf32>", COLUMN)}
{steps}
%o = arith.addf %p40, %bias : VT
{write("%o", "%y : memref<6x40xf32>")}"""
    arguments = "%x: memref<8x40xf32>, %b: memref<1x40xf32>, %y: memref<6x40xf32>"
    x, b, y = floats(8, 40) * 0.1, floats(1, 40), np.zeros((6, 40), np.float32)
    code = run(function(arguments, body, "vector<6x40xf32>"), target, tmp_path, x, b, y)
    total = x[0:6] + x[1:7] + x[2:8]
    value = total * 0.125
    for _ in range(39):
        value = value * total + 0.125
    np.testing.assert_allclose(y, value + b, rtol=1e-5)
    assert target == "generic" or "acc_tile" in code


def test_branches_give_tiles(target: str, tmp_path: Path) -> None:
    body = f"""{read("v", "%x : memref<3x20xf32>")}
%r = scf.index_switch %n -> VT
case 1 {{
  %s = arith.addf %v, %v : VT
  scf.yield %s : VT
}}
default {{
  scf.yield %v : VT
}}
%big = arith.cmpi sgt, %n, %c1 : index
%t = scf.if %big -> (VT) {{
  %s = arith.mulf %r, %r : VT
  scf.yield %s : VT
}} else {{
  scf.yield %r : VT
}}
{write("%t", "%y : memref<3x20xf32>")}"""
    arguments = "%x: memref<3x20xf32>, %y: memref<3x20xf32>, %n: index"
    text = function(arguments, body, "vector<3x20xf32>")
    x, y = floats(3, 20), np.zeros((3, 20), np.float32)
    compiled = CompiledC(parse(text), target, tmp_path)
    for n, expected in [(1, x + x), (2, x * x), (0, x)]:
        compiled.call("f", x, y, n)
        np.testing.assert_array_equal(y, expected)


def test_transposed_transfers(target: str, tmp_path: Path) -> None:
    body = f"""{read("v", "%x : memref<19x5xf32>", TRANSPOSED)}
%s = arith.addf %v, %v : VT
{write("%s", "%y : memref<5x19xf32>")}
{write("%s", "%z : memref<19x5xf32>", TRANSPOSED)}"""
    arguments = "%x: memref<19x5xf32>, %y: memref<5x19xf32>, %z: memref<19x5xf32>"
    x, y, z = floats(19, 5), np.zeros((5, 19), np.float32), np.zeros((19, 5), np.float32)
    run(function(arguments, body, "vector<5x19xf32>"), target, tmp_path, x, y, z)
    np.testing.assert_array_equal(y, 2 * x.T)
    np.testing.assert_array_equal(z, 2 * x)


def test_row_statistics(target: str, tmp_path: Path) -> None:
    """Values that vary by row only are scalars, computed once a row."""
    body = f"""{read("v", "%x : memref<3x20xf32>")}
{read("r", "%s : memref<3x1xf32>", ROW)}
%root = math.sqrt %r : VT
%o = arith.divf %v, %root : VT
{write("%o", "%y : memref<3x20xf32>")}"""
    arguments = "%x: memref<3x20xf32>, %s: memref<3x1xf32>, %y: memref<3x20xf32>"
    x, s, y = floats(3, 20), np.abs(floats(3, 1)), np.zeros((3, 20), np.float32)
    code = run(function(arguments, body, "vector<3x20xf32>"), target, tmp_path, x, s, y)
    np.testing.assert_allclose(y, x / np.sqrt(s), rtol=1e-6)
    assert "sqrtf(s[i])" in code


def test_parts_and_reductions(target: str, tmp_path: Path) -> None:
    body = f"""{read("v", "%x : memref<3x20xf32>")}
%row = vector.extract %v[1] : vector<20xf32> from VT
%sum = vector.reduction <add>, %row : vector<20xf32> into f32
%max = vector.reduction <maximumf>, %row, %sum : vector<20xf32> into f32
%lane = vector.extract %v[2, 18] : f32 from VT
%all = vector.broadcast %row : vector<20xf32> to VT
%two = vector.broadcast %lane : f32 to VT
%o = arith.addf %all, %two : VT
{write("%o", "%y : memref<3x20xf32>")}
memref.store %sum, %s[%c0] : memref<2xf32>
memref.store %max, %s[%c1] : memref<2xf32>"""
    arguments = "%x: memref<3x20xf32>, %y: memref<3x20xf32>, %s: memref<2xf32>"
    x, y, s = floats(3, 20), np.zeros((3, 20), np.float32), np.zeros(2, np.float32)
    run(function(arguments, body, "vector<3x20xf32>"), target, tmp_path, x, y, s)
    np.testing.assert_allclose(y, np.broadcast_to(x[1] + x[2, 18], (3, 20)), rtol=1e-6)
    np.testing.assert_allclose(s, [x[1].sum(), max(x[1].max(), x[1].sum())], rtol=1e-5)


def test_table_constants(target: str, tmp_path: Path) -> None:
    numbers = ", ".join(f"{i}.5" for i in range(20))
    body = f"""%t = arith.constant dense<[[{numbers}]]> : VT
{read("v", "%x : memref<1x20xf32>")}
%o = arith.addf %t, %v : VT
{write("%o", "%y : memref<1x20xf32>")}"""
    x, y = floats(1, 20), np.zeros((1, 20), np.float32)
    text = function("%x: memref<1x20xf32>, %y: memref<1x20xf32>", body, "vector<1x20xf32>")
    run(text, target, tmp_path, x, y)
    np.testing.assert_allclose(y, x + np.arange(20) + 0.5, rtol=1e-6)


def test_in_place_update_of_memory(target: str, tmp_path: Path) -> None:
    """All of a tile is read before any of it is written, also by a second op."""
    body = f"""{read("v", "%x : memref<3x20xf32>")}
%s = arith.addf %v, %v : VT
{write("%s", "%x : memref<3x20xf32>")}
{read("w", "%x : memref<3x20xf32>", COLUMN, "%c1, %c0")}
%t = arith.addf %w, %v : VT
{write("%t", "%x : memref<3x20xf32>")}"""
    x = floats(3, 20)
    expected = 2 * x[1] + x
    run(function("%x: memref<3x20xf32>", body, "vector<3x20xf32>"), target, tmp_path, x)
    np.testing.assert_allclose(x, expected, rtol=1e-6)


def test_three_dimensions(target: str, tmp_path: Path) -> None:
    text = """func.func @f(%x: memref<2x3x17xf32>, %b: memref<3x17xf32>, %y: memref<2x3x17xf32>) {
%c0 = arith.constant 0 : index
%pad = arith.constant 0.0 : f32
%v = vector.transfer_read %x[%c0, %c0, %c0], %pad {in_bounds = [true, true, true],
  permutation_map = affine_map<(d0, d1, d2) -> (d0, d1, d2)>}
  : memref<2x3x17xf32>, vector<2x3x17xf32>
%w = vector.transfer_read %b[%c0, %c0], %pad {in_bounds = [true, true, true],
  permutation_map = affine_map<(d0, d1) -> (0, d0, d1)>} : memref<3x17xf32>, vector<2x3x17xf32>
%s = arith.addf %v, %w : vector<2x3x17xf32>
vector.transfer_write %s, %y[%c0, %c0, %c0] {in_bounds = [true, true, true],
  permutation_map = affine_map<(d0, d1, d2) -> (d0, d1, d2)>}
  : vector<2x3x17xf32>, memref<2x3x17xf32>
func.return
}"""
    x, b, y = floats(2, 3, 17), floats(3, 17), np.zeros((2, 3, 17), np.float32)
    run(text, target, tmp_path, x, b, y)
    np.testing.assert_array_equal(y, x + b)
