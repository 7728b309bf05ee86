"""quantize: how far narrow linear layers are from the layers they stand for."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

from kaoken.backend.machine import TargetMachine
from kaoken.dialect.reference import run_module
from kaoken.modules import parse_module
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
    for one in loop_pipeline(1):
        one.apply(make_context(), low)
    model = compile_stage(low, tmp_path / "model", machine)
    (x,) = random_inputs(module, {"rows": 7})
    (clean,) = run_stage(model, [x])
    np.testing.assert_allclose(clean, run_module(narrow, [x])[0], rtol=1e-4, atol=1e-4)
    x[0, 0], x[2, 63], x[3, 128], x[5, 64] = np.nan, np.nan, np.nan, np.inf
    (found,) = run_stage(model, [x])
    assert not np.isfinite(found[[0, 2, 3, 5]]).any()
    np.testing.assert_array_equal(found[[1, 4, 6]], clean[[1, 4, 6]])
