"""Every loop stage is printed as C, compiled, run, and compared with the reference semantics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kaoken.backend.machine import TargetMachine
from kaoken.dialect.reference import run_module
from kaoken.modules import parse_module
from tests.c.layers import ATTENTION, LINEAR
from tests.c.stages import compile_stage, run_stage
from tests.helpers import apply_passes, assert_close, fill_weights, random_inputs

STAGES = (
    "lower-to-loops",
    "reorder",
    "tile",
    "tensorize",
    "vectorize",
    "vectorize,lower-math",
    "vectorize,lower-math,plan-memory",
    "parallelize{threads=2},lower-math,plan-memory",
)
TARGETS = ("generic", "x86-64-v3", "x86-64-v4")


ROUNDED = """
func.func @main(
    %x: tensor<?x28xf32> {{kaoken.shape = #kaoken.shape<[rows, 28]>, kaoken.name = "x"}},
    %r: tensor<?x50xf32> {{kaoken.shape = #kaoken.shape<[rows, 50]>, kaoken.name = "r"}})
    -> tensor<?x50xf32> attributes {{kaoken.max = {{rows = 129}}}} {{
  %w = kaoken.weight "w" : tensor<50x28xf32>
  %xn = kaoken.cast %x : tensor<?x28xf32> -> tensor<?x28xbf16>
  %wn = kaoken.cast %w : tensor<50x28xf32> -> tensor<50x28xbf16>
  %y = kaoken.linear %xn, %wn residual %r : tensor<?x50xf32>
    {{activation = #kaoken<activation gelu>}}
    : tensor<?x28xbf16>, tensor<50x28xbf16> -> tensor<?x50x{type}>
  {round}
  %z = kaoken.cast {rounded} : tensor<?x50xbf16> -> tensor<?x50xf32>
  return %z : tensor<?x50xf32>
}}
"""


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("n", [1, 17, 129])
def test_linear_at_every_stage(stage: str, n: int, tmp_path: Path):
    check(LINEAR.format(n=n), stage, tmp_path, [{"rows": r} for r in (1, 7, 17, 129)])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("causal", ["false", "true"])
def test_attention_at_every_stage(stage: str, causal: str, tmp_path: Path):
    sizes = [{"batch": 1, "tokens": 1}, {"batch": 3, "tokens": 17}, {"batch": 2, "tokens": 40}]
    check(ATTENTION.replace("CAUSAL", causal), stage, tmp_path, sizes)


@pytest.mark.parametrize("n", [17, 129])
def test_prefetching_changes_no_bit(n: int, tmp_path: Path):
    text = LINEAR.replace("7xf32", "300xf32").replace("rows, 7]", "rows, 300]").format(n=n)
    module, machine = parse_module(text), TargetMachine.native()
    fill_weights(module)
    schedule = "panel(16) tile(m, 4) order(n0, m, m_in, n1) vectorize(m_in, n1)"
    results = []
    for directives in (schedule, f"{schedule} prefetch(k, 7) prefetch(n0, 1)"):
        apply = f'apply-schedule{{file="linear {{ {directives} }}"}},choose-schedule,bake'
        stage = apply_passes(module, f"{apply},vectorize,prefetch,lower-math,plan-memory")
        model = compile_stage(stage, tmp_path / f"stage{len(results)}", machine)
        inputs = [random_inputs(module, {"rows": rows}) for rows in (1, 7, 17, 129)]
        results.append([run_stage(model, i)[0] for i in inputs])
    for without, with_ in zip(*results, strict=True):
        np.testing.assert_array_equal(without, with_)
    code = (tmp_path / "stage1" / "stage.c").read_text()
    assert "0, 3);" in code
    assert "0, 2);" in code


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("text", [LINEAR.format(n=50), ATTENTION.replace("CAUSAL", "false")])
def test_every_target(target: str, text: str, tmp_path: Path):
    machine = TargetMachine.parse(target)
    if not machine.runs_here():
        pytest.skip(f"this CPU does not run {target}")
    symbols = {"rows": 17, "batch": 2, "tokens": 33}
    check(text, STAGES[-2], tmp_path, [symbols], machine)


def check(
    text: str,
    stage: str,
    folder: Path,
    sizes: list[dict[str, int]],
    machine: TargetMachine | None = None,
    atol: float = 1e-5,
) -> None:
    """One library for all sizes; the sums of a row are short, so 1e-5 is far above rounding."""
    machine = machine or TargetMachine.native()
    module = parse_module(text)
    fill_weights(module)
    lowered = apply_passes(module, f'choose-schedule{{target="{machine.name}"}},{stage}')
    threads = 2 if "threads=2" in stage else 1
    model = compile_stage(lowered, folder / "stage", machine, threads)
    for chosen in sizes:
        inputs = random_inputs(module, chosen)
        assert_close(run_module(module, inputs), run_stage(model, inputs), atol)


@pytest.mark.parametrize("target", [*TARGETS, "x86-64-v4+vnni+bf16", "x86-64-v4+amx"])
@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_narrow_linear_on_every_target(dtype: str, target: str, tmp_path: Path):
    text = LINEAR.replace("7xf32", "28xf32").replace("rows, 7]", "rows, 28]").format(n=50)
    module = parse_module(text)
    fill_weights(module)
    machine = TargetMachine.parse(target)
    if not machine.runs_here():
        pytest.skip(f"this CPU does not run {target}")
    narrow_to = f'quantize{{dtype={dtype} target="{target}"}}'
    choose = f'{narrow_to},choose-schedule{{target="{target}"}},bake'
    narrow = apply_passes(module, choose)
    model = compile_stage(apply_passes(narrow, STAGES[-2]), tmp_path / "stage", machine)
    inputs = random_inputs(module, {"rows": 17})
    # Both sides round inputs alike; what differs is the order of few sums in f32.
    assert_close(run_module(narrow, inputs), run_stage(model, inputs), 2e-5)


@pytest.mark.parametrize("target", [*TARGETS, "x86-64-v4+vnni+bf16", "x86-64-v4+bf16+amx"])
def test_a_layer_that_rounds_is_a_layer_and_a_cast(target: str, tmp_path: Path):
    machine = TargetMachine.parse(target)
    if not machine.runs_here():
        pytest.skip(f"this CPU does not run {target}")
    cast = "%c = kaoken.cast %y : tensor<?x50xf32> -> tensor<?x50xbf16>"
    results: list[np.ndarray] = []
    for i, (type_, rounding, rounded) in enumerate([("f32", cast, "%c"), ("bf16", "", "%y")]):
        module = parse_module(ROUNDED.format(type=type_, round=rounding, rounded=rounded))
        fill_weights(module)
        passes = f'choose-schedule{{target="{target}"}},{STAGES[-2]}'
        model = compile_stage(apply_passes(module, passes), tmp_path / str(i), machine)
        inputs = random_inputs(module, {"rows": 33})
        assert_close(run_module(module, inputs), run_stage(model, inputs), 2e-2)
        results.append(run_stage(model, inputs)[0])
    once, again = results
    np.testing.assert_array_equal(once, again)


@pytest.mark.parametrize("target", [*TARGETS, "x86-64-v4+vnni+bf16", "x86-64-v4+amx"])
@pytest.mark.parametrize("causal", ["false", "true"])
def test_attention_of_bf16_on_every_target(causal: str, target: str, tmp_path: Path):
    text = ATTENTION.replace("CAUSAL", causal).replace("num_heads = 4", "num_heads = 2")
    text = text.replace("num_kv_heads = 2", "num_kv_heads = 1, bf16_products")
    machine = TargetMachine.parse(target)
    if not machine.runs_here():
        pytest.skip(f"this CPU does not run {target}")
    sizes = [{"batch": 1, "tokens": 1}, {"batch": 3, "tokens": 17}, {"batch": 2, "tokens": 40}]
    # An exponential may round to the other neighbour: one of 40, by 2^-9 of itself.
    check(text, STAGES[-2], tmp_path, sizes, machine, 4e-3)
