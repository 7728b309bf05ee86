"""A single row that passes several panels at once: the same sums as among other rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kaoken.backend.machine import TargetMachine
from kaoken.dialect.reference import run_module
from kaoken.modules import parse_module
from tests.c.stages import compile_stage, run_stage
from tests.helpers import apply_passes, assert_close, fill_weights, random_inputs

LAYER = """
func.func @main(
    %x: tensor<{rows}x{k}xf32> {{kaoken.shape = #kaoken.shape<[{size}, {k}]>, kaoken.name = "x"}},
    %r: tensor<{rows}x{n}xf32> {{kaoken.shape = #kaoken.shape<[{size}, {n}]>, kaoken.name = "r"}})
    -> tensor<{rows}x{n}xf32> attributes {{kaoken.max = {{{limit}}}}} {{
  %w = kaoken.weight "w" : tensor<{n}x{k}xf32>
  %b = kaoken.weight "b" : tensor<{n}xf32>
  %y = kaoken.linear %x, %w bias %b : tensor<{n}xf32> residual %r : tensor<{rows}x{n}xf32>
    : tensor<{rows}x{k}xf32>, tensor<{n}x{k}xf32> -> tensor<{rows}x{n}xf32>
  return %y : tensor<{rows}x{n}xf32>
}}
"""
TARGETS = ("x86-64-v3", "x86-64-v4")
SCHEDULE = (
    "linear { panel(16) tile(m, 12) tile(m_in, 6) order(m, n0, m_in, m_in_in, n1) "
    "try vectorize(m_in_in, n1) try tile(p, 4) try vectorize(p_in, n1) try vectorize(n1) "
    "unroll(k, 4) try parallel(p) parallel(n0) }"
)
# Panels in fours, fours and a rest, no fours, and panels of which the last is not full.
COLUMNS = (128, 96, 48, 16 * 9 + 1, 16 * 4 + 15)


def layer(k: int, n: int, rows: str = "?"):
    size, limit = ("rows", "rows = 17") if rows == "?" else (rows, "")
    module = parse_module(LAYER.format(k=k, n=n, rows=rows, size=size, limit=limit))
    fill_weights(module)
    return module


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("n", COLUMNS)
def test_a_row_alone_is_the_row_among_others(n: int, dtype: str, target: str, tmp_path: Path):
    if not TargetMachine.parse(target).runs_here():
        pytest.skip(f"this CPU does not run {target}")
    module = layer(260, n)
    inputs = random_inputs(module, {"rows": 17})
    alone = [x[:1] for x in inputs]
    narrow = f'quantize{{dtype={dtype} target="{target}"}}'
    passes = f"{narrow},apply-schedule{{target={target} file=\"{SCHEDULE}\"}},choose-schedule"
    results = []
    for threads in (1, 2):
        last = f"vectorize,prefetch,parallelize{{threads={threads}}},lower-math,plan-memory"
        stage = apply_passes(module, f"{passes},{last}")
        place = tmp_path / f"threads{threads}"
        model = compile_stage(stage, place, TargetMachine.parse(target), threads)
        results += [run_stage(model, alone)[0], run_stage(model, inputs)[0][:1]]
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])
    if dtype == "f32":
        assert_close(run_module(module, alone), (results[0],), 1e-4)


@pytest.mark.parametrize(("k", "n"), [(7, 129), (257, 576), (768, 16 * 11 + 7)])
def test_what_kaoken_chooses_for_one_row(k: int, n: int, tmp_path: Path):
    one, any_ = layer(k, n, "1"), layer(k, n)
    inputs = random_inputs(any_, {"rows": 17})
    alone = [x[:1] for x in inputs]
    passes = "choose-schedule,vectorize,prefetch,lower-math,plan-memory"
    machine = TargetMachine.native()
    models = [
        compile_stage(apply_passes(module, passes), tmp_path / name, machine)
        for name, module in (("one", one), ("any", any_))
    ]
    expected = run_stage(models[1], inputs)[0][:1]
    assert_close(run_module(one, alone), (expected,), 1e-4)
    for model in models:
        np.testing.assert_array_equal(run_stage(model, alone)[0], expected)
