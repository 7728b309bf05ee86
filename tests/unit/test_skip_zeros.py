"""Zeros that are passed over: what is listed, and results that are equal, bit for bit."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest
from ml_dtypes import bfloat16
from xdsl.dialects.builtin import ModuleOp

import kaoken
from kaoken.backend.machine import TargetMachine
from kaoken.calibration import Samples
from kaoken.compiler import CompileOptions, compile_module
from kaoken.dialect.formats import Format
from kaoken.dialect.nn import LinearOp
from kaoken.dialect.reference import run_module
from kaoken.errors import KaokenError
from kaoken.modules import parse_module
from kaoken.passes.observe_zeros import observe_zeros
from kaoken.pipelines import loop_pipeline
from kaoken.universe import make_context
from kaoken.weights import attach_store
from tests.c.stages import compile_stage, run_stage
from tests.helpers import apply_passes, store_from

K, N = 700, 64
TERNARY = Format(2, 0, 1)


def _model(bad: float = 0.0) -> ModuleOp:
    """Layers of floats, of few bits (whose input is squared) and of bf16 pairs behind a ReLU."""
    groups = TERNARY.groups(K)
    module = parse_module(f"""
func.func @main(%x: tensor<?x{K}xf32> {{kaoken.shape = #kaoken.shape<[rows, {K}]>}})
    -> (tensor<?x{N}xf32>, tensor<?x{N}xf32>, tensor<?x{N}xf32>)
    attributes {{kaoken.max = {{rows = 20}}}} {{
  %h = kaoken.relu %x : tensor<?x{K}xf32> -> tensor<?x{K}xf32>
  %w = kaoken.weight "w" : tensor<{N}x{K}xf32>
  %b = kaoken.weight "b" : tensor<{N}xf32>
  %y = kaoken.linear %h, %w bias %b : tensor<{N}xf32>
    : tensor<?x{K}xf32>, tensor<{N}x{K}xf32> -> tensor<?x{N}xf32>
  %s = kaoken.elementwise mul %h, %h : tensor<?x{K}xf32>, tensor<?x{K}xf32> -> tensor<?x{K}xf32>
  %c = kaoken.weight "c" : tensor<{N}x{K}xui8>
  %cs = kaoken.weight "cs" : tensor<{N}x{groups}xf16>
  %v = kaoken.dequantize %c scale %cs : tensor<{N}x{groups}xf16>
    {{format = #kaoken.format<{TERNARY}>}} : tensor<{N}x{K}xui8> -> tensor<{N}x{K}xf32>
  %z = kaoken.linear %s, %v : tensor<?x{K}xf32>, tensor<{N}x{K}xf32> -> tensor<?x{N}xf32>
  %p = kaoken.weight "p" : tensor<{N}x{K}xbf16>
  %a = kaoken.linear %h, %p : tensor<?x{K}xf32>, tensor<{N}x{K}xbf16> -> tensor<?x{N}xf32>
  return %y, %z, %a : tensor<?x{N}xf32>, tensor<?x{N}xf32>, tensor<?x{N}xf32>
}}
""")
    random = np.random.default_rng(0)
    w = random.standard_normal((N, K)).astype(np.float32)
    w[3, 5] += bad
    arrays = {
        "w": w,
        "b": random.standard_normal(N).astype(np.float32),
        "c": random.integers(0, 3, (N, K)).astype(np.uint8),
        "p": w.astype(bfloat16),
        "cs": np.full((N, groups), 0.5, np.float16),
    }
    attach_store(module, store_from(arrays))
    return apply_passes(module, "quantize{dtype=auto}")


def _sparse_rows(rows: int) -> np.ndarray:
    """One number of thirty is positive."""
    random = np.random.default_rng(rows)
    x = -np.abs(random.standard_normal((rows, K))).astype(np.float32)
    x[random.random((rows, K)) < 1 / 30] *= -1
    return x


def _compiled(module: ModuleOp, density: float, machine: TargetMachine, folder: Path):
    passes = f'observe-zeros{{density={density}}},choose-schedule{{target="{machine.text}"}}'
    low = apply_passes(module, f"{passes},skip-zeros")
    listed = str(low).count("kaoken.nonzeros")
    for one in loop_pipeline(CompileOptions()):
        one.apply(make_context(), low)
    return compile_stage(low, folder, machine), listed


@pytest.mark.parametrize("target", ["native", "x86-64-v3"])
def test_skipping_changes_no_bit(target: str, tmp_path: Path):
    machine = TargetMachine.parse(target)
    if machine.description.architecture not in ("", platform.machine()) or not machine.runs_here():
        pytest.skip("another CPU")
    module = _model()
    skipping, listed = _compiled(module, 1 / 60, machine, tmp_path / "skipping")
    dense, none = _compiled(module, 0.9, machine, tmp_path / "dense")
    assert (listed, none) == (3, 0)
    ones = np.ones((1, K), np.float32)
    with_nan = _sparse_rows(1)
    with_nan[0, 650] = np.nan
    for x in (*map(_sparse_rows, (1, 2, 17)), ones, -ones, with_nan):
        for a, b in zip(run_stage(skipping, [x]), run_stage(dense, [x]), strict=True):
            np.testing.assert_array_equal(a, b)


def test_rows_and_threads_change_no_bit(tmp_path: Path):
    """A row alone skips, a row among others does not."""
    compile_module(_model(), tmp_path / "model", CompileOptions(threads=2, density=1 / 60))
    x = _sparse_rows(3)
    whole = kaoken.load(tmp_path / "model")(x)
    for threads in (1, 2):
        model = kaoken.load(tmp_path / "model", threads=threads)
        for row in range(3):
            for found, wanted in zip(model(x[row : row + 1]), whole, strict=True):
                np.testing.assert_array_equal(found, wanted[row : row + 1])


def test_what_is_listed():
    module = parse_module("""
func.func @main(%x: tensor<1x2x6xi32>, %f: tensor<1x7xf32>) -> (tensor<23xi32>, tensor<26xi32>) {
  %y = kaoken.nonzeros %x {block = 2 : i64, words = 2 : i64} : tensor<1x2x6xi32> -> tensor<23xi32>
  %z = kaoken.nonzeros %f {block = 4 : i64} : tensor<1x7xf32> -> tensor<26xi32>
  return %y, %z : tensor<23xi32>, tensor<26xi32>
}
""")
    x = np.array([[[0, 0, 3, 0, 9, 9], [0, 1, 0, 0, 9, 9]]], np.int32)
    f = np.array([[0, 2, np.nan, 0, -1, 0, 5]], np.float32)
    y, z = run_module(module, [x, f])
    np.testing.assert_array_equal(y[:5], [0, 1, 2, 1, 0])
    np.testing.assert_array_equal(z[:7], [0, 2, 4, 1, 2, 0, 2])
    assert not y[5:].any()
    assert not z[7:].any()


def test_samples_show_how_many_are_zero():
    module = _model()
    observe_zeros(module, Samples([[_sparse_rows(20)]]))
    layers = [op for op in module.walk() if isinstance(op, LinearOp)]
    shares = [op.density.value.data for op in layers if op.density is not None]
    assert 0.02 < shares[0] < 0.05
    assert shares[1] <= shares[0] == shares[2]


def test_weights_that_are_not_finite_are_multiplied():
    low = apply_passes(_model(np.inf), "observe-zeros{density=0.01},choose-schedule,skip-zeros")
    assert str(low).count("kaoken.nonzeros") == 1  # that of few bits


def test_a_density_is_a_share():
    with pytest.raises(KaokenError, match="density is 2"):
        apply_passes(_model(), "observe-zeros{density=2.0}")
