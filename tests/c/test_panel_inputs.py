"""`panel-inputs`: where the inputs of the matrix unit lie changes no bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kaoken.backend.machine import TargetMachine
from kaoken.compiled_model import CompiledModel
from kaoken.modules import parse_module
from tests.c.stages import compile_stage
from tests.helpers import apply_passes, fill_weights

TILES = "x86-64-v4+vnni+bf16+amx"
ROWS = (1, 7, 17, 129)

# A cast (or eight bits), attention and a layer, each read by nothing but a layer.
TEXT = """
func.func @main(
    %x: tensor<1x?x128xf32> {kaoken.shape = #kaoken.shape<[1, rows, 128]>, kaoken.name = "x"})
    -> tensor<1x?x48xf32> attributes {kaoken.max = {rows = 200}} {
  %u = kaoken.weight "u" : tensor<128x128xf32>
  %v = kaoken.weight "v" : tensor<192x128xf32>
  %w = kaoken.weight "w" : tensor<48x192xf32>
  %q = kaoken.linear %x, %u : tensor<1x?x128xf32>, tensor<128x128xf32> -> tensor<1x?x128xf32>
  %a = kaoken.attention %q, %x, %x {num_heads = 2 : i64, scale = 0.125 : f64}
    : tensor<1x?x128xf32>, tensor<1x?x128xf32>, tensor<1x?x128xf32> -> tensor<1x?x128xf32>
  %h = kaoken.linear %a, %v {activation = #kaoken<activation gelu>}
    : tensor<1x?x128xf32>, tensor<192x128xf32> -> tensor<1x?x192xf32>
  %y = kaoken.linear %h, %w : tensor<1x?x192xf32>, tensor<48x192xf32> -> tensor<1x?x48xf32>
  return %y : tensor<1x?x48xf32>
}
"""


def compiled(dtype: str, layout: str, folder: Path) -> CompiledModel:
    module = parse_module(TEXT)
    fill_weights(module, 0)
    passes = f'quantize{{dtype={dtype}}},choose-schedule{{target="{TILES}"}},bake,{layout}'
    lowered = apply_passes(module, f"{passes}parallelize{{threads=2}},lower-math,plan-memory")
    assert ("lhs_in_panels" in str(lowered)) == bool(layout)
    return compile_stage(lowered, folder, TargetMachine.parse(TILES), threads=2)


@pytest.mark.skipif(not TargetMachine.parse(TILES).runs_here(), reason=f"no {TILES} here")
@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_panels_change_no_bit(dtype: str, tmp_path: Path) -> None:
    rows = compiled(dtype, "", tmp_path / "rows")
    panels = compiled(dtype, "panel-inputs,", tmp_path / "panels")
    x = np.random.default_rng(0).standard_normal((1, max(ROWS), 128)).astype(np.float32)
    for count in ROWS:
        expected, actual = rows(x=x[:, :count]), panels(x=x[:, :count])
        assert np.abs(expected).max() > 0.1
        np.testing.assert_array_equal(np.asarray(actual), np.asarray(expected))
