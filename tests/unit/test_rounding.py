"""The rules by which inputs become eight bits: numpy as defined, compiled code as numpy."""

from __future__ import annotations

import platform
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from kaoken.backend.machine import TargetMachine
from kaoken.dialect.attributes import Rounding
from kaoken.dialect.reference import run_module
from kaoken.modules import parse_module
from kaoken.options import CompileOptions
from kaoken.pipelines import loop_pipeline
from kaoken.quantized import quantize_blocks, round_rows
from kaoken.universe import make_context
from kaoken.weights import attach_store
from tests.c.stages import compile_stage, run_stage
from tests.helpers import apply_passes, store_from


def rows_near_halves(rows: int, k: int, seed: int = 0) -> np.ndarray:
    """Rows whose numbers are halves of steps, or the floats next to these, and a row of zeros."""
    random = np.random.default_rng(seed)
    largest = (random.random((rows, 1)) * 10 ** random.integers(-9, 9, (rows, 1)).astype(float)) + 0
    halves = (random.integers(-127, 127, (rows, k)) + 0.5) * largest.astype(np.float32) / 127
    x = halves.astype(np.float32)
    towards = np.where(random.random((rows, k)) < 0.5, -np.inf, np.inf).astype(np.float32)
    x = np.where(random.random((rows, k)) < 0.6, np.nextafter(x, towards), x)
    x[:, 0] = largest[:, 0]
    x[0, 1], x[0, 2] = x[0, 0] / 2, -x[0, 0] / 2
    x[-1] = 0
    return x


def nearest(x: float, largest: float) -> int:
    """The integer nearest to 127 x / largest, halves to even, without rounding."""
    return round(Fraction(x) * 127 / Fraction(largest)) if largest else 0


def test_exact_is_the_nearest_integer() -> None:
    x = rows_near_halves(40, 33)
    steps, scale = round_rows(x, Rounding.EXACT)
    largest = np.abs(x).max(-1).tolist()
    for row, found, most in zip(x.tolist(), steps.tolist(), largest, strict=True):
        assert found == [nearest(v, most) for v in row]
    np.testing.assert_array_equal(scale[:-1, 0], np.abs(x).max(-1)[:-1] / np.float32(127))


def test_bitnet_is_that_of_transformers() -> None:
    torch = pytest.importorskip("torch")
    from transformers.integrations.bitnet import ActQuant, BitLinear

    tiny = np.array([[1e-6] * 33, [-3e-7] * 33], np.float32)
    x = np.concatenate([rows_near_halves(40, 33), tiny])
    steps, scale = round_rows(x, Rounding.BITNET)
    with torch.compiler.set_stance("force_eager"):
        codes, factor = BitLinear(33, 4, False).activation_quant(torch.from_numpy(x))
        values = ActQuant.apply(torch.from_numpy(x))
    np.testing.assert_array_equal(steps, codes.numpy())
    np.testing.assert_array_equal(scale, 1 / factor.numpy())
    np.testing.assert_allclose(steps * scale, values.numpy(), rtol=3e-7)


def test_rules_agree_away_from_halves() -> None:
    x = np.random.default_rng(1).standard_normal((50, 64)).astype(np.float32)
    a, b, c = (round_rows(x, rule) for rule in Rounding)
    for other in (b, c):
        assert np.abs(a[0] - other[0]).max() <= 1
        assert np.mean(a[0] != other[0]) < 1e-3
        np.testing.assert_allclose(a[1], other[1], rtol=3e-7)


def test_a_norm_before_rounding_changes_scales_alone() -> None:
    x = np.random.default_rng(2).standard_normal((7, 40)).astype(np.float32) * np.float32(1e-5)
    plain, normed = (quantize_blocks(x, 48, Rounding.EXACT, eps) for eps in (None, 0.0))
    np.testing.assert_array_equal(plain[..., :-2], normed[..., :-2])
    np.testing.assert_array_equal(plain[..., -1], normed[..., -1])
    rms = np.sqrt(np.square(x.astype(np.float64)).mean(-1, keepdims=True))
    scales = [w[..., -2].copy().view(np.float32) for w in (plain, normed)]
    np.testing.assert_allclose(scales[1], scales[0] / rms, rtol=2e-7)


def _module(k: int, n: int) -> ModuleOp:
    """Layers whose inputs are rounded by each rule, and by `exact` behind a norm without eps."""
    inputs, layers = [], []
    for i, (x, rule) in enumerate([("x", "step"), ("x", "bitnet"), ("x", "exact"), ("n", "exact")]):
        inputs.append(
            f"%f{i} = kaoken.fake_quantize %{x} {{rounding = #kaoken<rounding {rule}>}} "
            f": tensor<?x{k}xf32> -> tensor<?x{k}xf32>"
        )
        layers.append(
            f"%y{i} = kaoken.linear %f{i}, %w : tensor<?x{k}xf32>, tensor<{n}x{k}xf32> "
            f"-> tensor<?x{n}xf32>"
        )
    types = ", ".join([f"tensor<?x{n}xf32>"] * 4)
    module = parse_module(f"""
func.func @main(%x: tensor<?x{k}xf32> {{kaoken.shape = #kaoken.shape<[rows, {k}]>}}) -> ({types})
    attributes {{kaoken.max = {{rows = 20}}}} {{
  %c = kaoken.weight "c" : tensor<{n}x{k}xui8>
  %s = kaoken.weight "s" : tensor<{n}x1xf32>
  %w = kaoken.dequantize %c scale %s : tensor<{n}x1xf32>
    {{format = #kaoken.format<2 bits, offset 1>}} : tensor<{n}x{k}xui8> -> tensor<{n}x{k}xf32>
  %one = kaoken.full 1.0 : f32 to <[{k}]> : tensor<{k}xf32>
  %n = kaoken.rms_norm %x, %one {{eps = 0.0}}
    : tensor<?x{k}xf32>, tensor<{k}xf32> -> tensor<?x{k}xf32>
  {" ".join(inputs)} {" ".join(layers)}
  return %y0, %y1, %y2, %y3 : {types}
}}
""")
    random = np.random.default_rng(0)
    codes = random.integers(0, 3, (n, k)).astype(np.uint8)
    attach_store(module, store_from({"c": codes, "s": np.ones((n, 1), np.float32)}))
    return module


@pytest.mark.parametrize("target", ["native", "x86-64-v3", "generic"])
def test_compiled_code_equals_numpy(target: str, tmp_path: Path) -> None:
    """Sums bit for bit; behind a norm, whose scale is a sum of floats, the integers."""
    machine = TargetMachine.parse(target)
    if machine.description.architecture not in ("", platform.machine()):
        pytest.skip("another architecture")
    module = _module(129, 19)
    kept = apply_passes(module, "quantize{dtype=auto},dce")
    low = apply_passes(kept, f"choose-schedule{{target={machine.description.name}}},bake")
    for one in loop_pipeline(CompileOptions()):
        one.apply(make_context(), low)
    model = compile_stage(low, tmp_path / "model", machine)
    for rows in (1, 2, 7, 17):
        x = rows_near_halves(rows + 1, 129, rows)[:-1]
        *found, normed = run_stage(model, [x])
        *wanted, _ = run_module(kept, [x])
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(a, b)
        rms = np.sqrt(np.square(x.astype(np.float64)).mean(-1, keepdims=True))
        worth = np.abs(x).max(-1, keepdims=True) / np.float64(127)
        np.testing.assert_array_equal(np.rint(normed * rms / worth), np.rint(wanted[2] / worth))
        np.testing.assert_allclose(normed * rms, wanted[2], rtol=1e-6)


def test_as_floats(tmp_path: Path) -> None:
    """With dtype=f32 the rounding stays an op of its own."""
    machine = TargetMachine.parse("native")
    module = apply_passes(_module(17, 3), "quantize{dtype=f32},dce")
    low = apply_passes(module, f"choose-schedule{{target={machine.description.name}}},bake")
    for one in loop_pipeline(CompileOptions()):
        one.apply(make_context(), low)
    x = np.random.default_rng(0).standard_normal((7, 17)).astype(np.float32)
    found = run_stage(compile_stage(low, tmp_path / "model", machine), [x])
    for a, b in zip(found, run_module(module, [x]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(b).max())
