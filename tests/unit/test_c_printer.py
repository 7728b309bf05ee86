"""Scalar loops, memory, calls and weights in C; names, literals and precedence."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import pytest

from kaoken.backend.c_printer import WeightPlacement, print_module
from kaoken.backend.machine import TargetMachine
from kaoken.backend.printer.names import Names, identifier
from kaoken.backend.printer.text import (
    add,
    binary,
    float_literal,
    integer_literal,
    multiply,
    precedence,
    unary,
    wrap,
)
from kaoken.errors import KaokenError
from tests.c.c_harness import CompiledC, parse


def run(text: str, folder: Path, *arguments: np.ndarray | int) -> str:
    compiled = CompiledC(parse(text), "generic", folder)
    compiled.call("f", *arguments)
    return compiled.source.code


def c_of(text: str, target: str = "generic") -> str:
    return print_module(parse(text), TargetMachine.parse(target)).code


def test_precedence_keeps_parentheses_few() -> None:
    assert binary("*", "a + b", "c") == "(a + b) * c"
    assert binary("+", "a * b", "c") == "a * b + c"
    assert binary("-", "a", "b - c") == "a - (b - c)"
    assert binary("-", "a - b", "c") == "a - b - c"
    assert binary("&", "a + b", "c") == "(a + b) & c"
    assert unary("-", "-x") == "-(-x)"
    assert unary("(float)", "a + b") == "(float)(a + b)"
    assert wrap("f(a + b)[c - 1]", 15) == "f(a + b)[c - 1]"
    assert precedence("(float)x") == 14
    assert precedence("(a)") == 16


def test_index_arithmetic_folds() -> None:
    assert add("m", "0") == "m"
    assert add("2", "m") == "m + 2"
    assert add("m", "-1") == "m - 1"
    assert multiply("3", "m + 1") == "(m + 1) * 3"
    assert multiply("m", "1") == "m"
    assert multiply("m", "0") == "0"


@pytest.mark.parametrize(
    "value", [0.1, 1.0, -0.0, 1e-45, 3.4028234663852886e38, 1 / 3, 16777216.0, 1e10, -1e-7]
)
def test_float_literals_are_exact(value: float) -> None:
    single = struct.unpack("f", struct.pack("f", value))[0]
    text = float_literal(value, 32)
    assert text.endswith("f")
    assert struct.pack("f", float(text[:-1])) == struct.pack("f", single)
    assert float(float_literal(value, 64)) == value


def test_special_literals() -> None:
    assert float_literal(math.inf, 32) == "INFINITY"
    assert float_literal(-math.inf, 32) == "-INFINITY"
    assert float_literal(math.nan, 32) == "NAN"
    assert integer_literal(-(2**63)) == "INT64_MIN"
    assert integer_literal(2**40) == "INT64_C(1099511627776)"


def test_names_are_valid_and_unique_in_sight() -> None:
    names = Names(["linear"])
    assert names.new("linear") == "linear_2"
    assert names.new("x.y") == "x_y"
    names.push()
    assert names.new("x.y") == "x_y_2"
    names.pop()
    assert names.new("x.y") == "x_y_2"
    assert identifier("0") == "v0"
    assert identifier("double") == "double_"


def test_reduction_with_two_carried_values(tmp_path: Path) -> None:
    """Both are assigned at once: each next value is made of both old ones."""
    text = """func.func @f(%o: memref<2xf32>, %n: index) {
    %a = arith.constant 1.0 : f32
    %b = arith.constant 2.0 : f32
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %r:2 = affine.for %i = 0 to %n iter_args(%x = %a, %y = %b) -> (f32, f32) {
      %s = arith.addf %x, %y : f32
      affine.yield %y, %s : f32, f32
    }
    memref.store %r#0, %o[%c0] : memref<2xf32>
    memref.store %r#1, %o[%c1] : memref<2xf32>
    func.return
    }"""
    o = np.zeros(2, np.float32)
    run(text, tmp_path, o, 4)
    assert o.tolist() == [8.0, 13.0]


def test_loads_do_not_move_past_stores(tmp_path: Path) -> None:
    text = """func.func @f(%x: memref<4xf32>) {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %a = memref.load %x[%c0] : memref<4xf32>
    %b = memref.load %x[%c1] : memref<4xf32>
    memref.store %b, %x[%c0] : memref<4xf32>
    memref.store %a, %x[%c1] : memref<4xf32>
    func.return
    }"""
    x = np.array([1, 2, 3, 4], np.float32)
    run(text, tmp_path, x)
    assert x.tolist() == [2, 1, 3, 4]


def test_open_inner_sizes_come_from_arguments(tmp_path: Path) -> None:
    text = """func.func @f(
      %x: memref<?x?x8xf32> {kaoken.shape = #kaoken.shape<[batch, tokens, 8]>},
      %y: memref<?x?x8xf32> {kaoken.shape = #kaoken.shape<[batch, tokens, 8]>},
      %batch: index {kaoken.name = "batch"}, %tokens: index {kaoken.name = "tokens"}) {
    affine.for %b = 0 to %batch {
      affine.for %t = 0 to %tokens {
        affine.for %h = 0 to 8 {
          %j = affine.apply affine_map<(d0) -> (7 - d0)>(%h)
          %v = memref.load %x[%b, %t, %j] : memref<?x?x8xf32>
          memref.store %v, %y[%b, %t, %h] : memref<?x?x8xf32>
        }
      }
    }
    func.return
    }"""
    x = np.arange(48, dtype=np.float32).reshape(2, 3, 8)
    y = np.zeros_like(x)
    code = run(text, tmp_path, x, y, 2, 3)
    np.testing.assert_array_equal(y, x[:, :, ::-1])
    assert "x[((b * tokens + t) * 8 + 7 - h)]" not in code
    assert "x[(b * tokens + t) * 8 + 7 - h]" in code


def test_unknown_open_size_is_an_error() -> None:
    text = """func.func @f(%x: memref<?x?xf32>, %i: index) {
    %v = memref.load %x[%i, %i] : memref<?x?xf32>
    memref.store %v, %x[%i, %i] : memref<?x?xf32>
    func.return
    }"""
    with pytest.raises(KaokenError, match=r"size 1 of a .* is unknown"):
        c_of(text)


def test_calls_weights_views_and_allocation(tmp_path: Path) -> None:
    text = """module attributes {kaoken.name = "tiny"} {
    func.func private @scale(%x: memref<?xf32>, %w: memref<4xf32>, %y: memref<?xf32>, %n: index)
        attributes {kaoken.comment = "y = x * w"} {
      %c0 = arith.constant 0 : index
      %s = memref.load %w[%c0] : memref<4xf32>
      affine.for %i = 0 to %n {
        %v = memref.load %x[%i] : memref<?xf32>
        %p = arith.mulf %v, %s : f32
        memref.store %p, %y[%i] : memref<?xf32>
      }
      func.return
    }
    func.func private @unused() { func.return }
    func.func private @twice(%x: memref<?xf32>, %y: memref<?xf32>, %n: index) {
      %h = memref.alloc(%n) : memref<?xf32>
      %w = kaoken_loop.weight "a" : memref<4xf32>
      %v = kaoken_loop.weight "b" : memref<4xf32>
      func.call @scale(%x, %w, %h, %n) : (memref<?xf32>, memref<4xf32>, memref<?xf32>, index) -> ()
      func.call @scale(%h, %v, %y, %n) : (memref<?xf32>, memref<4xf32>, memref<?xf32>, index) -> ()
      func.return
    }
    func.func @f(%x: memref<?xf32>, %y: memref<?xf32>, %n: index, %arena: memref<?xi8>) {
      %c2 = arith.constant 2 : index
      %t = kaoken_loop.view %arena {offset = 64 : i64} : memref<?xi8> -> memref<?xf32>
      func.call @twice(%x, %t, %n) : (memref<?xf32>, memref<?xf32>, index) -> ()
      %w = kaoken_loop.weight "b" : memref<4xf32>
      func.call @scale(%t, %w, %y, %n) : (memref<?xf32>, memref<4xf32>, memref<?xf32>, index) -> ()
      func.return
    }
    }"""
    compiled = CompiledC(parse(text), "generic", tmp_path)
    assert compiled.source.weights == [
        WeightPlacement("a", 0, 16),
        WeightPlacement("b", 64, 16),
    ]
    weights = np.zeros(32, np.float32)
    weights[0], weights[16] = 3, 5
    x, y, arena = np.arange(6, dtype=np.float32), np.zeros(6, np.float32), np.zeros(128, np.int8)
    compiled.call("f", weights, x, y, 6, arena)
    np.testing.assert_array_equal(y, x * 75)
    code = compiled.source.code
    assert "/* y = x * w */\nstatic void scale(" in code
    assert "unused" not in code
    assert "static void tiny_f(" in code
    assert compiled.source.functions["f"].name == "tiny_f"
    assert compiled.source.functions["scale"].uses_weights is False
    assert [str(p) for p in compiled.source.functions["scale"].parameters] == [
        "const float *x",
        "const float *w",
        "float *y",
        "int64_t n",
    ]


def test_scalar_operations(tmp_path: Path) -> None:
    text = """func.func @f(%x: memref<3xf32>, %k: memref<5xi64>, %n: index) {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c2 = arith.constant 2 : index
    %c3 = arith.constant 3 : index
    %c4 = arith.constant 4 : index
    %a = memref.load %x[%c0] : memref<3xf32>
    %bits = arith.bitcast %a : f32 to i32
    %wide = arith.extsi %bits : i32 to i64
    memref.store %wide, %k[%c0] : memref<5xi64>
    %odd = arith.trunci %bits : i32 to i1
    %one = arith.extui %odd : i1 to i64
    memref.store %one, %k[%c1] : memref<5xi64>
    %minus = arith.constant -7 : i64
    %two = arith.constant 2 : i64
    %fd = arith.floordivsi %minus, %two : i64
    memref.store %fd, %k[%c2] : memref<5xi64>
    %cd = arith.ceildivsi %minus, %two : i64
    memref.store %cd, %k[%c3] : memref<5xi64>
    %m = affine.min affine_map<(d0) -> (d0 floordiv 2, 9)>(%n)
    %mi = arith.index_cast %m : index to i64
    memref.store %mi, %k[%c4] : memref<5xi64>
    %big = arith.cmpf ogt, %a, %a : f32
    %e = math.exp %a : f32
    %s = arith.select %big, %a, %e : f32
    memref.store %s, %x[%c1] : memref<3xf32>
    %pos = arith.cmpi sgt, %n, %c1 : index
    scf.if %pos {
      %t = math.rsqrt %a : f32
      memref.store %t, %x[%c2] : memref<3xf32>
    }
    func.return
    }"""
    x, k = np.array([2.5, 0, 0], np.float32), np.zeros(5, np.int64)
    run(text, tmp_path, x, k, 7)
    bits = int(x[:1].view(np.int32)[0])
    assert k.tolist() == [bits, bits & 1, -4, -3, 3]
    np.testing.assert_allclose(x[1:], [np.exp(2.5), 1 / np.sqrt(2.5)], rtol=1e-6)


def test_tables_and_bf16(tmp_path: Path) -> None:
    text = """module {
    "memref.global"() <{sym_name = "table", sym_visibility = "private", type = memref<3xf32>,
      initial_value = dense<[1.5, -2.0, 3.25]> : tensor<3xf32>, constant}> : () -> ()
    func.func @f(%x: memref<3xbf16>, %y: memref<3xf32>) {
      %t = memref.get_global @table : memref<3xf32>
      affine.for %i = 0 to 3 {
        %a = memref.load %t[%i] : memref<3xf32>
        %b = memref.load %x[%i] : memref<3xbf16>
        %c = arith.extf %b : bf16 to f32
        %s = arith.addf %a, %c : f32
        memref.store %s, %y[%i] : memref<3xf32>
        %r = arith.truncf %s : f32 to bf16
        memref.store %r, %x[%i] : memref<3xbf16>
      }
      func.return
    }
    }"""
    x = (np.array([1, 2, 3], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    y = np.zeros(3, np.float32)
    run(text, tmp_path, x, y)
    assert y.tolist() == [2.5, 0.0, 6.25]
    assert (x.astype(np.uint32) << 16).view(np.float32).tolist() == [2.5, 0.0, 6.25]


def test_team_operations_use_the_runtime() -> None:
    text = """func.func @f(%team: !kaoken_loop.team, %x: memref<?xf32>) {
    %t = kaoken_loop.thread_id %team
    %n = kaoken_loop.num_threads %team
    %z = arith.constant 0.0 : f32
    scf.for %i = %t to %n step %n {
      memref.store %z, %x[%i] : memref<?xf32>
    }
    kaoken_loop.barrier %team
    func.return
    }"""
    code = c_of(text)
    assert '#include "kaoken_runtime.h"' in code
    assert "const int64_t n = kk_num_threads(team);" in code
    assert "for (int64_t i = kk_thread_id(team); i < n; i += n) {" in code
    assert "kk_barrier(team);" in code


def test_unknown_op_is_one_sentence() -> None:
    text = """func.func @f() {
    %x = "test.op"() : () -> f32
    func.return
    }"""
    with pytest.raises(KaokenError, match=r"no word for 'test.op' in function 'f'"):
        c_of(text)


def test_unknown_type_is_one_sentence() -> None:
    text = """func.func @f(%x: memref<4xf80>) {
    func.return
    }"""
    with pytest.raises(KaokenError, match="no type for f80"):
        c_of(text)


def test_recursion_is_one_sentence() -> None:
    text = """func.func @f() {
    func.call @f() : () -> ()
    func.return
    }"""
    with pytest.raises(KaokenError, match="'f' calls itself"):
        c_of(text)
