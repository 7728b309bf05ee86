"""`--dtype mixed`: what is chosen within a budget, by `quantize`, in a package and its file."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ArrayAttr, ModuleOp

import kaoken
from kaoken.analysis.shapes import argument_name
from kaoken.calibration import Samples
from kaoken.choices import FEW_BITS, MIXED
from kaoken.compiler import POLICY_FILE, compile_module
from kaoken.dialect.nn import LinearOp
from kaoken.dialect.reference import run_module
from kaoken.errors import KaokenError
from kaoken.modules import parse_module
from kaoken.options import CompileOptions
from kaoken.passes.quantize import QuantizePass, chosen_policy
from kaoken.passes.quantizing.policy import GROUPED_INT8
from kaoken.passes.quantizing.widths import Budget, Width, cheapest_errors
from kaoken.rounding import GRIDS
from kaoken.weights import attach_store
from tests.helpers import apply_passes, main_function, store_from

torch = pytest.importorskip("torch")


def random_menus(seed: int) -> list[list[Width]]:
    random = np.random.default_rng(seed)
    return [
        [Width(str(i), int(s), float(e)) for i, (s, e) in enumerate(random.random((4, 2)) * 100)]
        for _ in range(5)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_no_choice_of_that_size_is_better(seed: int):
    menus = random_menus(seed)
    least = sum(min(w.size for w in menu) for menu in menus)
    for allowed in (least, least + 30, least + 90, 10**6):
        found = cheapest_errors(menus, allowed)
        size = sum(w.size for w in found)
        error = sum(w.error for w in found)
        assert size <= allowed
        every = [(sum(w.size for w in c), sum(w.error for w in c)) for c in product(*menus)]
        assert error == min(e for _, e in every) or allowed < 10**6
        # What a step costs at most is what the greedy choice may leave unused.
        bound = allowed - max(w.size for menu in menus for w in menu)
        assert error <= min((e for s, e in every if s <= bound), default=np.inf) + 1e-9


def test_a_budget_that_is_too_small():
    with pytest.raises(KaokenError, match=r"leaves 1e-06 MB .* take 2e-06 MB .* give more"):
        cheapest_errors([[Width("a", 2, 1.0), Width("b", 3, 0.5)]], 1)


@pytest.mark.parametrize("text", ["", "-1", "0", "4 bits", "12GB", "60MB/s", "nan"])
def test_budgets_that_are_none(text: str):
    with pytest.raises(KaokenError, match=r"give bits a weight such as 4\.5, the size of all"):
        Budget.parse(text)


def test_options_that_do_not_go_together():
    with pytest.raises(KaokenError, match="a budget is for dtype mixed, not int4"):
        CompileOptions(dtype="int4", budget="4")


LAYERS = """
func.func @main(%x: tensor<?x64xf32> {kaoken.shape = #kaoken.shape<[rows, 64]>})
    -> tensor<?x64xf32> attributes {kaoken.max = {rows = 900}} {
  %a = kaoken.weight "loud" : tensor<64x64xf32>
  %b = kaoken.weight "quiet" : tensor<64x64xf32>
  %y = kaoken.linear %x, %a : tensor<?x64xf32>, tensor<64x64xf32> -> tensor<?x64xf32>
  %z = kaoken.linear %x, %b : tensor<?x64xf32>, tensor<64x64xf32> -> tensor<?x64xf32>
  %s = kaoken.elementwise add %y, %z : tensor<?x64xf32>, tensor<?x64xf32> -> tensor<?x64xf32>
  func.return %s : tensor<?x64xf32>
}
"""


def layers() -> ModuleOp:
    """Two layers whose sum is the output, one of which gives far smaller numbers."""
    random = np.random.default_rng(0)
    weights = {n: random.standard_normal((64, 64)).astype(np.float32) for n in ("loud", "quiet")}
    weights["quiet"] *= 0.01
    module = parse_module(LAYERS)
    attach_store(module, store_from(weights))
    return module


def bits(module: ModuleOp) -> list[int]:
    ops = [op for op in module.walk() if isinstance(op, LinearOp)]
    return [op.format.data.bits for op in ops if op.format is not None]


def test_weights_that_show_get_more_bits(tmp_path: Path):
    x = np.random.default_rng(1).standard_normal((80, 64)).astype(np.float32)
    name = argument_name(main_function(layers()), 0)
    np.savez(tmp_path / "samples.npz", **{f"0/{name}": x})  # pyright: ignore[reportArgumentType]
    exact = run_module(layers(), [x])[0]
    errors = []
    for dtype, more in (("int4", ""), ("mixed", f' inputs="{tmp_path / "samples.npz"}"')):
        module = apply_passes(layers(), f"quantize{{dtype={dtype}{more}}},dce")
        errors.append(np.square(run_module(module, [x])[0] - exact).mean())
    loud, quiet = bits(module)
    assert loud > 4 > quiet
    assert errors[1] < 0.5 * errors[0]


def test_the_module_keeps_what_was_chosen(tmp_path: Path):
    once = apply_passes(layers(), 'quantize{dtype=mixed budget="5"},dce')
    lines = once.attributes["kaoken.policy"]
    assert isinstance(lines, ArrayAttr)
    assert len(lines) == 2
    text = str(once)
    assert str(apply_passes(once, "quantize{dtype=mixed},dce")) == text
    (tmp_path / "p").write_text("loud int2\n")
    named = apply_passes(
        layers(), f'quantize{{dtype=mixed budget="5" policy="{tmp_path / "p"}"}},dce'
    )
    assert bits(named) == [2, 4]


TEXT_MODEL = """
func.func @main(%ids: tensor<?xi64> {kaoken.shape = #kaoken.shape<[rows]>})
    -> tensor<?x960xf32> attributes {kaoken.max = {rows = 64}} {
  %t = kaoken.weight "head" : tensor<960x256xf32>
  %a = kaoken.weight "up" : tensor<512x256xf32>
  %b = kaoken.weight "down" : tensor<256x512xf32>
  %x = kaoken.embedding %t, %ids : tensor<960x256xf32>, tensor<?xi64> -> tensor<?x256xf32>
  %1 = kaoken.linear %x, %a : tensor<?x256xf32>, tensor<512x256xf32> -> tensor<?x512xf32>
  %2 = kaoken.linear %1, %b : tensor<?x512xf32>, tensor<256x512xf32> -> tensor<?x256xf32>
  %3 = kaoken.linear %2, %t : tensor<?x256xf32>, tensor<960x256xf32> -> tensor<?x960xf32>
  func.return %3 : tensor<?x960xf32>
}
"""
SHAPES = {"head": (960, 256), "up": (512, 256), "down": (256, 512)}


def written(out: Path, **options: Any) -> tuple[int, list[list[str]]]:
    """The size of the weights file of that model, and the lines of its policy."""
    random = np.random.default_rng(0)
    weights = {n: random.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()}
    module = parse_module(TEXT_MODEL)
    attach_store(module, store_from(weights))
    compile_module(module, out, CompileOptions(**options, library=False))
    lines = (out / POLICY_FILE).read_text().splitlines() if options["dtype"] == MIXED else []
    return (out / f"{out.name}.weights").stat().st_size, [line.split() for line in lines[1:]]


@pytest.mark.parametrize("dtype", [*FEW_BITS, MIXED])
def test_files_are_as_large_as_codes_scales_and_head(dtype: str, tmp_path: Path):
    size, lines = written(tmp_path / "m", dtype=dtype)
    chosen = {name: what for name, what, *_ in lines} or {"up": dtype, "down": dtype}
    chosen["head"] = chosen.get("head", "int8").replace("int8", GROUPED_INT8)
    expected = sum(GRIDS[chosen[n]].stored_bytes(*SHAPES[n]) for n in SHAPES)
    assert abs(size - expected) <= 0.03 * expected


@pytest.mark.parametrize(
    ("budget", "most", "counted"),
    [
        ("6.5", 6.5 / 8 * (960 * 256 + 2 * 512 * 256), SHAPES),
        ("0.4MB", 0.4e6, SHAPES),
        ("0.38MB/token", 0.38e6, SHAPES),
    ],
)
def test_budgets_are_used_and_kept(
    budget: str, most: float, counted: Iterable[str], tmp_path: Path
):
    size, lines = written(tmp_path / "m", dtype=MIXED, budget=budget)
    chosen = {name: what.replace("int8", GROUPED_INT8) for name, what, *_ in lines}
    used = sum(GRIDS[chosen[n]].stored_bytes(*SHAPES[n]) for n in counted)
    assert 0.85 * most <= used <= most
    assert size < 1.03 * used


def test_a_file_that_is_changed_and_given_again(tmp_path: Path):
    _, lines = written(tmp_path / "m", dtype=MIXED)
    assert sorted(name for name, *_ in lines) == sorted(SHAPES)
    changed = [f"{name} {'int2' if name == 'up' else ' '.join(what)}" for name, *what in lines]
    (tmp_path / "again.policy").write_text("\n".join(changed))
    _, again = written(tmp_path / "n", dtype=MIXED, policy=tmp_path / "again.policy")
    assert [" ".join(line) for line in again] == changed


def test_from_python(tmp_path: Path):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(96, 256), torch.nn.GELU(), torch.nn.Linear(256, 250)
    )
    x = torch.randn(9, 96)
    model = kaoken.compile(
        network, (x,), dtype="mixed", budget="4", calibrate=[{"input": x}], out=tmp_path / "m"
    )
    lines = (tmp_path / "m" / POLICY_FILE).read_text().splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["0.weight", "2.weight"]
    with torch.no_grad():
        expected = network(x).numpy()
    assert np.linalg.norm(model(x.numpy()) - expected) < 0.4 * np.linalg.norm(expected)


def test_a_model_that_looks_up_rows_is_measured():
    random = np.random.default_rng(0)
    weights = {n: random.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()}
    module = parse_module(TEXT_MODEL)
    attach_store(module, store_from(weights))
    ids = random.integers(0, 960, 64)
    QuantizePass(MIXED).quantize(module, Samples([[ids]]))
    names = {line.split()[0] for line in chosen_policy(module) or []}
    assert names == set(SHAPES)
