"""A table that a linear layer multiplies too is stored once, packed, in every type of weights."""

from pathlib import Path

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from kaoken.backend.machine import TargetMachine
from kaoken.dialect.formats import Format
from kaoken.dialect.nn import EmbeddingOp, WeightOp
from kaoken.dialect.reference import run_module
from kaoken.dialect.tensor import ElementwiseOp
from kaoken.errors import KaokenError
from kaoken.modules import parse_module
from kaoken.options import CompileOptions
from kaoken.pipelines import loop_pipeline
from kaoken.universe import make_context
from kaoken.weights import attach_store, store_of
from tests.c.stages import compile_stage, run_stage
from tests.helpers import (
    apply_passes,
    assert_same_before_and_after,
    fill_weights,
    store_from,
    tensor_text,
)
from tests.unit.few_bit_weights import random_weight

IDS = '%ids: tensor<?xi64> {kaoken.shape = #kaoken.shape<[s]>, kaoken.name = "ids"}'


def tied(rows: int, columns: int, head: str = "%x") -> str:
    """A look-up in a table, and a layer of logits of the same table on what `head` names."""
    x, table = f"tensor<?x{columns}xf32>", f"tensor<{rows}x{columns}xf32>"
    logits = f"tensor<?x{rows}xf32>"
    return f"""
func.func @main({IDS}) -> ({x}, {logits}) attributes {{kaoken.max = {{s = 32}}}} {{
  %w = kaoken.weight "w" : {table}
  %u = kaoken.weight "w" : {table}
  %x = kaoken.embedding %w, %ids : {table}, tensor<?xi64> -> {x}
  %g = kaoken.weight "g" : tensor<{columns}xf32>
  %n = kaoken.rms_norm %x, %g {{eps = 1.0e-5 : f64}} : {x}, tensor<{columns}xf32> -> {x}
  %y = kaoken.linear {head}, %u : {x}, {table} -> {logits}
  return %x, %y : {x}, {logits}
}}"""


def look_ups(module: ModuleOp) -> list[EmbeddingOp]:
    return [op for op in module.walk() if isinstance(op, EmbeddingOp)]


def stored(module: ModuleOp) -> int:
    """The bytes of all weights that the module names, each key once."""
    keys = {op.key.data for op in module.walk() if isinstance(op, WeightOp)}
    return sum(store_of(module)[key].nbytes for key in keys)


def run_in_c(module: ModuleOp, ids: np.ndarray, folder: Path) -> tuple[np.ndarray, ...]:
    machine = TargetMachine.parse("native")
    for step in loop_pipeline(CompileOptions()):
        step.apply(make_context(), module)
    return run_stage(compile_stage(module, folder, machine), [ids])


@pytest.mark.parametrize("dtype", ["f32", "bf16", "int8"])
def test_one_copy_gives_the_same_rows(dtype: str, tmp_path: Path) -> None:
    """At 17 rows the last panel is not full."""
    module = parse_module(tied(17, 20))
    fill_weights(module)
    ids = np.array([16, 0, 7, 15, 16], np.int64)
    plain = apply_passes(module, f"quantize{{dtype={dtype}}}")
    baked = apply_passes(plain, "choose-schedule,bake")
    assert look_ups(baked)[0].is_packed
    assert str(apply_passes(baked, f"quantize{{dtype={dtype}}},bake")) == str(baked)
    before, after = run_module(plain, [ids]), run_module(baked, [ids])
    np.testing.assert_array_equal(before[0], after[0])
    weight = store_of(module)["w"]
    error = {"f32": 0, "bf16": 2**-8, "int8": 2**-7}[dtype]
    assert np.abs(after[0] - weight[ids]).max() <= error * np.abs(weight).max()
    compiled = run_in_c(baked, ids, tmp_path / "c")
    np.testing.assert_array_equal(compiled[0], after[0])
    np.testing.assert_allclose(compiled[1], after[1], rtol=0, atol=2e-5 * np.abs(after[1]).max())


FORMATS = [
    Format(8, 32, 128),
    Format(4, 32),
    Format(4, 32, 8),
    Format(2, 0, 1),
    Format(1, 32, 1, 2),
    Format(5, 32, 16),
    Format(6, 16, 32),
]


def test_rows_of_codes(tmp_path: Path) -> None:
    """Groups and words that a row of 40 does not fill; several tables in one compiled module."""
    arrays: dict[str, np.ndarray] = {}
    body, results = "", []
    for i, format_ in enumerate(FORMATS):
        weight = random_weight(format_, 17, 40, seed=i)
        parts = {f"q{i}": weight.codes, f"s{i}": weight.scale}
        if weight.minimum is not None:
            parts[f"m{i}"] = weight.minimum
        arrays |= parts
        for key, array in parts.items():
            body += f'  %{key} = kaoken.weight "{key}" : {tensor_text(array)}\n'
        low = f" min %m{i} : {tensor_text(weight.scale)}" if weight.minimum is not None else ""
        body += f"""
  %w{i} = kaoken.dequantize %q{i} scale %s{i} : {tensor_text(weight.scale)}{low} {{format = #kaoken.format<{format_}>}} : tensor<17x40xui8> -> tensor<17x40xf32>
  %u{i} = kaoken.dequantize %q{i} scale %s{i} : {tensor_text(weight.scale)}{low} {{format = #kaoken.format<{format_}>}} : tensor<17x40xui8> -> tensor<17x40xf32>
  %x{i} = kaoken.embedding %w{i}, %ids : tensor<17x40xf32>, tensor<?xi64> -> tensor<?x40xf32>
  %y{i} = kaoken.linear %x{i}, %u{i} : tensor<?x40xf32>, tensor<17x40xf32> -> tensor<?x17xf32>
"""  # noqa: E501
        results += [(f"%x{i}", "tensor<?x40xf32>"), (f"%y{i}", "tensor<?x17xf32>")]
    values, types = (", ".join(texts) for texts in zip(*results, strict=True))
    module = parse_module(
        f"func.func @main({IDS}) -> ({types}) attributes {{kaoken.max = {{s = 32}}}} {{\n"
        f"{body}  return {values} : {types}\n}}"
    )
    attach_store(module, store_from(arrays))
    ids = np.array([16, 3, 0], np.int64)
    plain = apply_passes(module, "quantize{dtype=auto}")
    baked = apply_passes(plain, "choose-schedule,bake")
    assert all(op.is_packed for op in look_ups(baked))
    assert all("panels" in op.key.data for op in baked.walk() if isinstance(op, WeightOp))
    narrow = apply_passes(module, "quantize{dtype=bf16},bake")
    assert len([op for op in narrow.walk() if isinstance(op, WeightOp)]) == len(FORMATS)
    before, after = run_module(plain, [ids]), run_module(baked, [ids])
    for a, b, c in zip(before, after, run_in_c(baked, ids, tmp_path / "c"), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(b, c, rtol=0, atol=2e-5 * np.abs(b).max())


def test_what_is_stored_is_one_table() -> None:
    module = parse_module(tied(96, 32))
    fill_weights(module)
    sizes = {}
    for dtype in ("f32", "bf16", "int8", "int4"):
        sizes[dtype] = stored(apply_passes(module, f"quantize{{dtype={dtype}}},bake"))
    weights = 96 * 32
    assert sizes["f32"] == 4 * weights
    assert sizes["bf16"] == 2 * weights
    assert sizes["int8"] == weights + 96 * 4 * 3  # each column's sum, and its scale twice
    assert sizes["int4"] == weights + 96 * 2  # eight bits, and a float16 scale a group


def test_look_ups_of_another_function_read_the_same_panels() -> None:
    """An encoder looks up in the table that the decoder's logits are made with."""
    encode = f"""
func.func @encode({IDS}) -> tensor<?x32xf32> attributes {{kaoken.max = {{s = 32}}}} {{
  %w = kaoken.weight "w" : tensor<96x32xf32>
  %x = kaoken.embedding %w, %ids : tensor<96x32xf32>, tensor<?xi64> -> tensor<?x32xf32>
  return %x : tensor<?x32xf32>
}}"""
    module = parse_module(encode + tied(96, 32))
    fill_weights(module)
    baked = apply_passes(module, "quantize{dtype=bf16},bake")
    first, second = look_ups(baked)
    assert first.table.type == second.table.type
    assert len({op.key.data for op in baked.walk() if isinstance(op, WeightOp)}) == 1


def test_a_factor_after_the_layer_does_not_part_it_from_the_table() -> None:
    text = tied(96, 32).replace(
        "return %x, %y",
        """%c = kaoken.full 0.3 : f32 to <[]> : tensor<f32>
  %z = kaoken.elementwise mul %y, %c : tensor<?x96xf32>, tensor<f32> -> tensor<?x96xf32>
  return %x, %z""",
    )
    after = assert_same_before_and_after(text, "bake")
    assert look_ups(after)[0].is_packed
    assert stored(after) == 4 * 96 * 32


def test_migrated_scales_keep_the_tie() -> None:
    """The layer's columns are scaled, so rows of the table are scaled back."""
    module = parse_module(tied(96, 32, head="%n"))
    fill_weights(module)
    uneven = np.ones(32, np.float32)
    uneven[3] = 50
    weights = {"w": store_of(module)["w"], "g": uneven}
    attach_store(module, store_from(weights))
    ids = np.arange(0, 96, 9)
    migrated = apply_passes(module, "calibrate,migrate-scales")
    (table,) = {op.table for op in look_ups(migrated)}
    assert isinstance(table.owner, ElementwiseOp)
    for before, after in zip(run_module(module, [ids]), run_module(migrated, [ids]), strict=True):
        np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-4)
    baked = apply_passes(migrated, "quantize,bake")
    assert stored(baked) == 96 * 32 + 96 * 4 * 3 + 32 * 4 * 2


def test_an_id_outside_of_the_packed_table_is_told() -> None:
    module = parse_module(tied(17, 20))
    fill_weights(module)
    with pytest.raises(KaokenError, match=r"ids holds 17, which is outside 0\.\.16"):
        run_module(apply_passes(module, "bake"), [np.array([17])])
