"""quantize: how far narrow linear layers are from the layers they stand for."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

from kaoken.backend.machine import TargetMachine
from kaoken.dialect.reference import run_module
from kaoken.errors import KaokenError
from kaoken.modules import parse_module
from kaoken.options import CompileOptions
from kaoken.passes import quantize
from kaoken.pipelines import loop_pipeline
from kaoken.universe import make_context
from kaoken.weights import attach_store
from tests.c.stages import compile_stage, run_stage
from tests.helpers import apply_passes, fill_weights, random_inputs, store_from

TEXT = """
func.func @main(%x: tensor<?x{k}xf32> {{kaoken.shape = #kaoken.shape<[rows, {k}]>}})
    -> tensor<?x{n}xf32> attributes {{kaoken.max = {{rows = 129}}}} {{
  %w = kaoken.weight "w" : tensor<{n}x{k}xf32>
  %b = kaoken.weight "b" : tensor<{n}xf32>
  %y = kaoken.linear %x, %w bias %b : tensor<{n}xf32>
    : tensor<?x{k}xf32>, tensor<{n}x{k}xf32> -> tensor<?x{n}xf32>
  return %y : tensor<?x{n}xf32>
}}
"""
ROUNDING = {"bf16": 2**-8, "int8": 1 / 127}
"""The largest error of one factor, relative to itself (bf16) or to its row's largest (int8)."""


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
@pytest.mark.parametrize("n", [1, 17, 129])
def test_error_is_that_of_rounding(dtype: str, n: int):
    module = parse_module(TEXT.format(k=64, n=n))
    fill_weights(module)
    (x,) = random_inputs(module, {"rows": 7})
    narrow = apply_passes(module, f"quantize{{dtype={dtype}}}")
    assert "kaoken.linear %x," not in str(narrow)
    (before,), (after,) = run_module(module, [x]), run_module(narrow, [x])
    # Errors of 64 products of two rounded factors of size 3 at most; they do not all agree in sign.
    assert np.abs(after - before).max() <= 64 * 3 * 3 * ROUNDING[dtype]
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
@pytest.mark.parametrize("width", [16, 48])
def test_packing_changes_nothing(dtype: str, width: int):
    text = TEXT.format(k=12, n=50).replace(
        "bias %b : tensor<50xf32>",
        f"bias %b : tensor<50xf32> {{schedule = #kaoken.schedule<panel({width})>}}",
    )
    module = parse_module(text)
    fill_weights(module)
    inputs = random_inputs(module, {"rows": 5})
    narrow = apply_passes(module, f"quantize{{dtype={dtype}}}")
    packed = apply_passes(narrow, "bake")
    assert f"panels{width}" in str(packed)
    np.testing.assert_array_equal(run_module(narrow, inputs)[0], run_module(packed, inputs)[0])


def test_rows_of_zeros_and_outliers():
    module = parse_module(TEXT.format(k=8, n=4))
    weight = np.zeros((4, 8), np.float32)
    weight[1] = 1e30
    weight[2, 3] = -127
    attach_store(module, store_from({"w": weight, "b": np.ones(4, np.float32)}))
    x = np.zeros((3, 8), np.float32)
    x[1, 3] = 2.0
    narrow = apply_passes(module, "quantize{dtype=int8}")
    expected = run_module(module, [x])[0]
    np.testing.assert_allclose(run_module(narrow, [x])[0], expected, rtol=1e-6)


ATTENTION = """
func.func @main(%x: tensor<1x?x64xf32> {kaoken.shape = #kaoken.shape<[1, rows, 64]>})
    -> tensor<1x?x64xf32> attributes {kaoken.max = {rows = 40}} {
  %w = kaoken.weight "w" : tensor<192x64xf32>
  %b = kaoken.weight "b" : tensor<192xf32>
  %y = kaoken.linear %x, %w bias %b : tensor<192xf32>
    : tensor<1x?x64xf32>, tensor<192x64xf32> -> tensor<1x?x192xf32>
  %q = kaoken.slice %y <[0, 64]> {dim = 2} : tensor<1x?x192xf32> -> tensor<1x?x64xf32>
  %k = kaoken.slice %y <[64, 128]> {dim = 2} : tensor<1x?x192xf32> -> tensor<1x?x64xf32>
  %v = kaoken.slice %y <[128, 192]> {dim = 2} : tensor<1x?x192xf32> -> tensor<1x?x64xf32>
  %z = kaoken.attention %q, %k, %v {num_heads = 2, scale = 0.25 : f64}
    : tensor<1x?x64xf32>, tensor<1x?x64xf32>, tensor<1x?x64xf32> -> tensor<1x?x64xf32>
  return %z : tensor<1x?x64xf32>
}
"""


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
@pytest.mark.parametrize("target", ["native", "x86-64-v4+vnni+bf16", "x86-64-v3"])
def test_factors_of_attention_are_rounded_by_their_layer(
    dtype: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The bits are those of rounding them in the attention."""
    machine = TargetMachine.parse(target)
    if not machine.runs_here():
        pytest.skip(f"this CPU does not run {target}")
    module = parse_module(ATTENTION)
    fill_weights(module)
    at_once = apply_passes(module, f"quantize{{dtype={dtype}}}")
    monkeypatch.setattr(quantize, "_round_before_attention", lambda block: None)
    later = apply_passes(module, f"quantize{{dtype={dtype}}}")
    assert "-> tensor<1x?x192xbf16>" in str(at_once)
    assert "-> tensor<1x?x192xbf16>" not in str(later)
    models = []
    for narrow in (at_once, later):
        low = apply_passes(narrow, f'choose-schedule{{target="{machine.text}"}},bake')
        for one in loop_pipeline(CompileOptions()):
            one.apply(make_context(), low)
        models.append(compile_stage(low, tmp_path / str(len(models)), machine))
    for rows in (1, 7, 33):
        inputs = random_inputs(module, {"rows": rows})
        found, expected = (run_stage(model, inputs)[0] for model in models)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(found, run_module(at_once, inputs)[0], rtol=0.02, atol=0.02)


def test_factors_that_others_read_stay_as_they_are():
    relu = "%s = kaoken.relu %v : tensor<1x?x64xf32> -> tensor<1x?x64xf32>"
    text = ATTENTION.replace("return %z", f"{relu}\n  return %s")
    module = parse_module(text)
    fill_weights(module)
    assert "xbf16>" not in str(apply_passes(module, "quantize{dtype=int8}"))


@pytest.mark.parametrize("target", ["native", "x86-64-v3", "generic"])
def test_what_is_not_a_number_shows(target: str, tmp_path: Path):
    """A maximum passes over NaN on some CPUs; other rows keep their bits."""
    machine = TargetMachine.parse(target)
    if machine.description.architecture not in ("", platform.machine()):
        pytest.skip("another architecture")
    module = parse_module(TEXT.format(k=129, n=17))
    fill_weights(module)
    narrow = apply_passes(module, "quantize{dtype=int8}")
    low = apply_passes(narrow, f'choose-schedule{{target="{machine.text}"}},bake')
    for one in loop_pipeline(CompileOptions()):
        one.apply(make_context(), low)
    model = compile_stage(low, tmp_path / "model", machine)
    (x,) = random_inputs(module, {"rows": 7})
    (clean,) = run_stage(model, [x])
    np.testing.assert_allclose(clean, run_module(narrow, [x])[0], rtol=1e-4, atol=1e-4)
    x[0, 0], x[2, 63], x[3, 128], x[5, 64] = np.nan, np.nan, np.nan, np.inf
    (found,) = run_stage(model, [x])
    assert not np.isfinite(found[[0, 2, 3, 5]]).any()
    np.testing.assert_array_equal(found[[1, 4, 6]], clean[[1, 4, 6]])


SHORT = """
func.func @main(%x: tensor<?x{k}xf32> {{kaoken.shape = #kaoken.shape<[rows, {k}]>}})
    -> tensor<?x{n}xf32> attributes {{kaoken.max = {{rows = 129}}}} {{
  %w = kaoken.weight "w" : tensor<{n}x{k}xi8>
  %s = kaoken.weight "s" : tensor<{n}xf32>
  %f = kaoken.weight "f" : tensor<{k}xf32>
  %q = kaoken.quantize %x factor %f : tensor<{k}xf32> {{zero_point = 128}}
    : tensor<?x{k}xf32> -> tensor<?x{k}xui8>
  %y = kaoken.linear %q, %w weight_scale %s : tensor<{n}xf32> {{weight_bits = 7}}
    : tensor<?x{k}xui8>, tensor<{n}x{k}xi8> -> tensor<?x{n}xf32>
  return %y : tensor<?x{n}xf32>
}}
"""
"""A layer whose inputs are codes already, less 128."""
LARGEST = (-64, -63, 0, 63)


@pytest.mark.parametrize(
    "target",
    ["generic", "x86-64-v3", "x86-64-v4", "x86-64-v4+vnni", "x86-64-v4+amx"],
)
@pytest.mark.parametrize(("k", "n"), [(4, 1), (68, 17), (1000, 129)])
def test_the_largest_sums_of_seven_bits_are_exact(target: str, k: int, n: int, tmp_path: Path):
    """Codes of 255 and 0 beside 63 and -64, all of one sign and with changing ones."""
    machine = TargetMachine.parse(target)
    if not machine.runs_here():
        pytest.skip(f"this CPU does not run {target}")
    rng = np.random.default_rng(k)
    weight = rng.choice(LARGEST, (n, k)).astype(np.int8)
    weight[:4] = np.array([-64, 63, -63, 0], np.int8)[: min(n, 4), None]
    weight[4:6, 0::2], weight[4:6, 1::2] = -64, 63
    module = parse_module(SHORT.format(k=k, n=n))
    ones = {"s": np.ones(n, np.float32), "f": np.ones(k, np.float32)}
    attach_store(module, store_from({"w": weight, **ones}))
    low = apply_passes(module, f'choose-schedule{{target="{target}"}},bake')
    for one in loop_pipeline(CompileOptions()):
        one.apply(make_context(), low)
    model = compile_stage(low, tmp_path / "model", machine)
    for rows in (1, 7, 17, 129):
        x = rng.choice((-128, 127), (rows, k)).astype(np.float32)
        x[0] = 127
        x[1:2], x[2:3, 0::2], x[2:3, 1::2] = -128, 127, -128
        expected = x.astype(np.int64) @ weight.T.astype(np.int64)
        np.testing.assert_array_equal(run_stage(model, [x])[0], expected)
        np.testing.assert_array_equal(run_module(module, [x])[0], expected)


def test_codes_beyond_a_layers_bits_are_refused():
    text = SHORT.format(k=8, n=16).replace("= 7}", "= 7, schedule = #kaoken.schedule<panel(16)>}")
    module = parse_module(text)
    weight = np.zeros((16, 8), np.int8)
    weight[3, 5] = 64
    attach_store(module, store_from({"w": weight, "s": np.ones(16), "f": np.ones(8)}))
    with pytest.raises(KaokenError, match="weight w has codes of more than the 7 bits"):
        apply_passes(module, "bake")


@pytest.mark.parametrize("target", ["generic", "x86-64-v3"])
def test_codes_saturate_at_their_bits(target: str, tmp_path: Path):
    text = """
func.func @main(%x: tensor<?x17xf32> {kaoken.shape = #kaoken.shape<[rows, 17]>})
    -> (tensor<?xf32>, tensor<?x17xf32>) attributes {kaoken.max = {rows = 7}} {
  %f = arith.constant dense<2.0> : tensor<17xf32>
  %s = kaoken.row_scale %x {bits = 7} : tensor<?x17xf32> -> tensor<?xf32>
  %q = kaoken.quantize %x factor %f : tensor<17xf32> {bits = 7}
    : tensor<?x17xf32> -> tensor<?x17xi8>
  %y = kaoken.cast %q : tensor<?x17xi8> -> tensor<?x17xf32>
  return %s, %y : tensor<?xf32>, tensor<?x17xf32>
}
"""
    module, machine = parse_module(text), TargetMachine.parse(target)
    low = apply_passes(module, f'choose-schedule{{target="{target}"}},bake')
    for one in loop_pipeline(CompileOptions()):
        one.apply(make_context(), low)
    model = compile_stage(low, tmp_path / "model", machine)
    x = np.linspace(-50, 50, 7 * 17, dtype=np.float32).reshape(7, 17)
    scale, codes = run_stage(model, [x])
    np.testing.assert_array_equal(codes, np.clip(np.rint(x * 2), -64, 63))
    np.testing.assert_array_equal(codes, run_module(module, [x])[1])
    np.testing.assert_allclose(scale, np.abs(x).max(1) / 63, rtol=1e-6)
