"""Rounding with error feedback: less error in what layers give, and through `quantize`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kaoken.analysis.shapes import argument_name
from kaoken.dialect.reference import run_module
from kaoken.error_feedback import rounded_with_feedback
from kaoken.modules import parse_module
from kaoken.rounding import GRIDS, rounded
from kaoken.weights import attach_store
from tests.helpers import apply_passes, main_function, store_from


def correlated_inputs(k: int, rows: int = 600) -> np.ndarray:
    random = np.random.default_rng(0)
    mixing = np.eye(k) + 0.4 * random.standard_normal((k, k))
    return (random.standard_normal((rows, k)) @ mixing).astype(np.float32)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("k", [1, 7, 70, 300])
def test_errors_of_results_are_less(name: str, k: int):
    x = correlated_inputs(k)
    weight = np.random.default_rng(1).standard_normal((17, k)).astype(np.float32)
    weight[3] = 0
    moments = x.T @ x / len(x)
    plain, better = rounded(weight, name), rounded_with_feedback(weight, moments, name)
    assert better.format == plain.format
    np.testing.assert_array_equal(better.dequantized()[3], 0)
    errors = [np.square(x @ (q.dequantized() - weight).T).mean() for q in (plain, better)]
    assert errors[1] <= (0.85 if k >= 70 else 1.5) * errors[0] + 1e-6


def test_inputs_that_never_came():
    weight = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
    found = rounded_with_feedback(weight, np.zeros((64, 64), np.float32), "int4")
    assert np.abs(found.dequantized() - weight).max() < 0.3


LAYER = """
func.func @main(%x: tensor<?x72xf32> {kaoken.shape = #kaoken.shape<[rows, 72]>})
    -> tensor<?x33xf32> attributes {kaoken.max = {rows = 900}} {
  %w = kaoken.weight "w" : tensor<33x72xf32>
  %y = kaoken.linear %x, %w : tensor<?x72xf32>, tensor<33x72xf32> -> tensor<?x33xf32>
  func.return %y : tensor<?x33xf32>
}
"""


def test_the_pass_reads_samples(tmp_path: Path):
    weight = np.random.default_rng(1).standard_normal((33, 72)).astype(np.float32)
    x = correlated_inputs(72, 900)
    name = argument_name(main_function(parse_module(LAYER)), 0)
    samples = {f"0/{name}": x[:300], f"1/{name}": x[300:600]}
    np.savez(tmp_path / "samples.npz", **samples)  # pyright: ignore[reportArgumentType]
    errors = []
    for options in ("", f' inputs="{tmp_path / "samples.npz"}"'):
        module = parse_module(LAYER)
        attach_store(module, store_from({"w": weight}))
        module = apply_passes(module, f"quantize{{dtype=int2{options}}}")
        errors.append(np.square(run_module(module, [x[600:]])[0] - x[600:] @ weight.T).mean())
    assert errors[1] < 0.8 * errors[0]
