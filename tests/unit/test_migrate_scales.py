"""calibrate, migrate-scales and what quantize makes of them, against the reference semantics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from kaoken.backend.machine import TargetMachine
from kaoken.calibration import Observation, random_samples
from kaoken.dialect.nn import WeightOp
from kaoken.dialect.reference import run_module
from kaoken.errors import KaokenError
from kaoken.modules import parse_module, stored_keys
from kaoken.weights import store_of
from tests.c.stages import compile_stage, run_stage
from tests.helpers import apply_passes, assert_close, fill_weights, main_function, random_inputs

HEAD = """
func.func @main(%x: tensor<1x?x16xf32> {{kaoken.shape = #kaoken.shape<[1, rows, 16]>}})
    -> tensor<1x?x{n}xf32> attributes {{kaoken.max = {{rows = 129}}}} {{
  %g = kaoken.weight "g" : tensor<16xf32>
  %b = kaoken.weight "b" : tensor<16xf32>
  %p = kaoken.weight "p" : tensor<16x16xf32>
  %q = kaoken.weight "q" : tensor<16x16xf32>
  %kv = kaoken.weight "kv" : tensor<16x16xf32>
  %w = kaoken.weight "w" : tensor<{n}x16xf32>
  %c = kaoken.weight "c" : tensor<{n}xf32>
  {body}
  %y = kaoken.linear %h, %w bias %c : tensor<{n}xf32>
    : tensor<1x?x16xf32>, tensor<{n}x16xf32> -> tensor<1x?x{n}xf32>
  return %y : tensor<1x?x{n}xf32>
}}
"""
LINEAR = "tensor<1x?x16xf32>, tensor<16x16xf32> -> tensor<1x?x16xf32>"
NORMED = "{eps = 1.0e-5 : f64} : tensor<1x?x16xf32>, tensor<16xf32> -> tensor<1x?x16xf32>"
SAME = "tensor<1x?x16xf32>, tensor<1x?x16xf32> -> tensor<1x?x16xf32>"
HALF = "tensor<1x?x16xf32> -> tensor<1x?x8xf32>"
PRODUCERS = {
    "layer_norm": f"%h = kaoken.layer_norm %x, %g bias %b : tensor<16xf32> {NORMED}",
    "shared": f"""%h = kaoken.layer_norm %x, %g bias %b : tensor<16xf32> {NORMED}
  %other = kaoken.relu %h : tensor<1x?x16xf32> -> tensor<1x?x16xf32>""",
    "rms_norm": f"%h = kaoken.rms_norm %x, %g {NORMED}",
    "epilogue": "%h = kaoken.linear %x, %p residual %x : tensor<1x?x16xf32> "
    "norm_weight %g : tensor<16xf32> norm_bias %b : tensor<16xf32> "
    f"{{norm = #kaoken<norm layer_norm>, eps = 1.0e-5 : f64}} : {LINEAR}",
    "product": f"""%s = kaoken.silu %x : tensor<1x?x16xf32> -> tensor<1x?x16xf32>
  %u = kaoken.linear %x, %p bias %b : tensor<16xf32> : {LINEAR}
  %h = kaoken.elementwise mul %s, %u : {SAME}""",
    "relu": f"%h = kaoken.linear %x, %p bias %b : tensor<16xf32> "
    f"{{activation = #kaoken<activation relu>}} : {LINEAR}",
    "attention": f"""%a = kaoken.linear %x, %q : {LINEAR}
  %both = kaoken.linear %x, %kv bias %b : tensor<16xf32> : {LINEAR}
  %k = kaoken.slice %both <[0, 8]> {{dim = 2}} : {HALF}
  %v = kaoken.slice %both <[8, 16]> {{dim = 2}} : {HALF}
  %h = kaoken.attention %a, %k, %v {{num_heads = 4, num_kv_heads = 2, scale = 0.5 : f64}}
    : tensor<1x?x16xf32>, tensor<1x?x8xf32>, tensor<1x?x8xf32> -> tensor<1x?x16xf32>""",
}


def outlier_module(producer: str, n: int = 17) -> ModuleOp:
    """A layer whose input has two channels 30 times as large as the others."""
    module = parse_module(HEAD.format(n=n, body=PRODUCERS[producer]))
    store = store_of(module)
    random = np.random.default_rng(3)
    uneven = np.ones(16, np.float32)
    uneven[[3, 9]] = 30
    store.add("g", uneven)
    store.add("b", random.standard_normal(16).astype("f4") * uneven)
    store.add("p", random.standard_normal((16, 16)).astype("f4") * uneven[:, None])
    values = np.ones((16, 1), np.float32)
    values[11] = 30
    store.add("kv", random.standard_normal((16, 16)).astype("f4") * values)
    fill_weights(module)
    return module


def samples_file(folder: Path, module: ModuleOp) -> Path:
    arrays = {f"{i}/x": random_inputs(module, {"rows": 40}, 50 + i)[0] for i in range(3)}
    np.savez(folder / "samples.npz", allow_pickle=False, **arrays)
    return folder / "samples.npz"


def errors(module: ModuleOp, narrow: ModuleOp, rows: int = 17) -> float:
    """The error of a narrow module relative to what it approximates."""
    inputs = random_inputs(module, {"rows": rows})
    (before,), (after,) = run_module(module, inputs), run_module(narrow, inputs)
    return float(np.linalg.norm(after - before) / np.linalg.norm(before))


@pytest.mark.parametrize("producer", PRODUCERS)
def test_migration_keeps_the_function_and_makes_eight_bits_better(producer: str, tmp_path: Path):
    module = outlier_module(producer)
    calibrate = f'calibrate{{inputs="{samples_file(tmp_path, module)}"}}'
    migrated = apply_passes(module, f"{calibrate},migrate-scales")
    assert "migrated" in str(migrated)
    assert ("mul %h," in str(migrated)) is (producer == "shared")
    for rows in (1, 7, 129):
        inputs = random_inputs(module, {"rows": rows})
        (before,), (after,) = run_module(module, inputs), run_module(migrated, inputs)
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * np.abs(before).max())
    plain = errors(module, apply_passes(module, "quantize"))
    # Around attention, other products' errors are as large: there it only gets no worse.
    gain = 1.0 if producer == "attention" else 0.8
    assert errors(module, apply_passes(migrated, "quantize")) < gain * plain


@pytest.mark.parametrize("producer", PRODUCERS)
def test_migration_is_idempotent(producer: str, tmp_path: Path):
    module = outlier_module(producer)
    calibrate = f'calibrate{{inputs="{samples_file(tmp_path, module)}"}}'
    once = apply_passes(module, f"{calibrate},migrate-scales")
    assert str(apply_passes(once, "calibrate,migrate-scales")) == str(once)


@pytest.mark.parametrize(
    ("target", "alpha"), [("x86-64-v3", 0.5), ("x86-64-v3+avxvnni", 0.7), ("generic", 0.7)]
)
def test_less_of_a_size_goes_into_weights_of_seven_bits(target: str, alpha: float, tmp_path: Path):
    module = outlier_module("layer_norm")
    calibrate = f'calibrate{{inputs="{samples_file(tmp_path, module)}"}}'
    found, expected = (
        apply_passes(module, f"{calibrate},migrate-scales{{{option}}}")
        for option in (f'target="{target}"', f"alpha={alpha}")
    )
    keys = [key for key in stored_keys(expected) if key.endswith(".migrated")]
    assert keys
    for key in keys:
        np.testing.assert_array_equal(store_of(found)[key], store_of(expected)[key])


@pytest.mark.parametrize("activations", ["dynamic", "static"])
@pytest.mark.parametrize("producer", ["layer_norm", "shared", "relu"])
@pytest.mark.parametrize("n", [1, 17, 129])
def test_compiled_equals_reference(producer: str, activations: str, n: int, tmp_path: Path):
    module = outlier_module(producer, n)
    calibrate = f'calibrate{{inputs="{samples_file(tmp_path, module)}"}}'
    quantize = f"quantize{{activations={activations}}}"
    narrow = apply_passes(module, f"{calibrate},migrate-scales,{quantize},choose-schedule,bake")
    assert ("row_scale" in str(narrow)) is (activations == "dynamic")
    assert ("factor" in str(narrow)) is (producer == "shared" or activations == "static")
    assert "kaoken.observe" not in str(narrow)
    stage = apply_passes(narrow, "vectorize,lower-math,plan-memory")
    model = compile_stage(stage, tmp_path / "stage", TargetMachine.native())
    for rows in (1, 7, 17, 129):
        inputs = random_inputs(module, {"rows": rows})
        wanted = run_module(narrow, inputs)
        # What lies between two steps may be rounded to either: one step of one of 16 inputs.
        step = 0.02 * np.abs(wanted[0]).max()
        assert_close(wanted, run_stage(model, inputs), step)
    assert errors(module, narrow, 129) < 0.05


def test_bias_correction_takes_the_mean_error_back(tmp_path: Path):
    module = outlier_module("relu")
    calibrate = f'calibrate{{inputs="{samples_file(tmp_path, module)}"}}'
    with_means = apply_passes(module, f"{calibrate},quantize")
    inputs = [np.load(samples_file(tmp_path, module))[f"{i}/x"] for i in range(3)]
    without = apply_passes(module, "quantize")

    def mean_error(narrow: ModuleOp) -> float:
        differences = [run_module(narrow, [x])[0] - run_module(module, [x])[0] for x in inputs]
        return float(np.abs(np.concatenate(differences, 1).mean((0, 1))).max())

    assert mean_error(with_means) < 0.5 * mean_error(without)


def test_zero_point_follows_the_rows():
    lopsided = Observation.of(4)
    lopsided.add(np.array([[0.0, 8.0, -0.1, 1.0]]))
    assert lopsided.zero_point == 32
    even = Observation.of(4)
    even.add(np.array([[-8.0, 8.0, -0.1, 1.0]]))
    assert even.zero_point == 128


ENCODER_AND_HEAD = """
func.func @encode(%ids: tensor<1x?xi64> {kaoken.shape = #kaoken.shape<[1, s]>, kaoken.name = "ids"})
    -> tensor<1x?x16xf32> attributes {kaoken.max = {s = 32}} {
  %t = kaoken.weight "w" : tensor<17x16xf32>
  %x = kaoken.embedding %t, %ids : tensor<17x16xf32>, tensor<1x?xi64> -> tensor<1x?x16xf32>
  return %x : tensor<1x?x16xf32>
}
func.func @main(%x: tensor<1x?x16xf32> {kaoken.shape = #kaoken.shape<[1, rows, 16]>})
    -> tensor<1x?x17xf32> attributes {kaoken.max = {rows = 129}} {
  %w = kaoken.weight "w" : tensor<17x16xf32>
  %g = kaoken.weight "g" : tensor<16xf32>
  %n = kaoken.rms_norm %x, %g {eps = 1.0e-5 : f64}
    : tensor<1x?x16xf32>, tensor<16xf32> -> tensor<1x?x16xf32>
  %range = kaoken.weight "range" : tensor<2x16xf32>
  %o = kaoken.observe %n, %range {zero_point = 128 : i64}
    : tensor<1x?x16xf32>, tensor<2x16xf32> -> tensor<1x?x16xf32>
  %y = kaoken.linear %o, %w : tensor<1x?x16xf32>, tensor<17x16xf32> -> tensor<1x?x17xf32>
  return %y : tensor<1x?x17xf32>
}
"""


def test_a_table_that_another_function_looks_rows_up_in_stays_one():
    module = parse_module(ENCODER_AND_HEAD)
    sizes = np.ones(16, np.float32)
    sizes[[3, 9]] = 30
    store_of(module).add("range", np.stack([-sizes, sizes]))
    fill_weights(module)
    migrated = apply_passes(module, "migrate-scales")
    ids = np.array([[16, 0, 7, 3]])
    before, after = (run_module(m, [ids], function="encode")[0] for m in (module, migrated))
    np.testing.assert_allclose(after, before, rtol=1e-5)
    packed = apply_passes(migrated, "choose-schedule,bake")
    keys = [op.key.data for op in packed.walk() if isinstance(op, WeightOp)]
    (table,) = {key for key in keys if "panels" in key}
    assert keys.count(table) == 2


def test_models_of_floats_are_not_calibrated_at_random():
    module = outlier_module("relu")
    assert random_samples(main_function(module)) is None
    assert "observe" not in str(apply_passes(module, "calibrate"))


def test_samples_that_do_not_fit(tmp_path: Path):
    module = outlier_module("relu")
    np.savez(tmp_path / "wrong.npz", allow_pickle=False, **{"0/y": np.zeros((1, 2, 16), "f4")})
    with pytest.raises(KaokenError, match="a calibration sample has no 'x', only y"):
        apply_passes(module, f'calibrate{{inputs="{tmp_path / "wrong.npz"}"}}')
    np.savez(tmp_path / "nan.npz", allow_pickle=False, **{"0/x": np.full((1, 2, 16), np.nan, "f4")})
    with pytest.raises(KaokenError, match="not finite"):
        apply_passes(module, f'calibrate{{inputs="{tmp_path / "nan.npz"}"}}')


@pytest.mark.parametrize("name", ["calibrate", "quantize"])
def test_samples_of_a_module_without_main(name: str, tmp_path: Path):
    module = parse_module(HEAD.format(n=17, body=PRODUCERS["relu"]).replace("@main", "@head"))
    samples = samples_file(tmp_path, outlier_module("relu"))
    with pytest.raises(KaokenError, match=r"samples.npz are inputs of @main, .* has none"):
        apply_passes(module, f'{name}{{inputs="{samples}"}}')
