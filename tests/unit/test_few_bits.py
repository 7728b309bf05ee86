"""Weights of few bits: formats, packing, rounding, and compiled code against numpy, bit for bit."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest
from ml_dtypes import bfloat16
from xdsl.dialects.builtin import ModuleOp

import kaoken
from kaoken.backend.machine import TargetMachine
from kaoken.compiler import compile_module
from kaoken.dialect.formats import Format
from kaoken.dialect.reference import run_module
from kaoken.errors import KaokenError
from kaoken.modules import parse_module
from kaoken.options import CompileOptions
from kaoken.pipelines import loop_pipeline
from kaoken.quantized import (
    Quantized,
    group_numbers,
    multiply,
    pack_codes,
    pack_groups,
    quantize_blocks,
    unpack_codes,
    unpack_groups,
)
from kaoken.rounding import GRIDS, rounded
from kaoken.universe import make_context
from kaoken.weights import attach_store
from tests.c.stages import compile_stage, run_stage
from tests.helpers import apply_passes, store_from
from tests.unit.few_bit_weights import FORMATS, MINIMA, random_weight


@pytest.mark.parametrize("format_", FORMATS, ids=str)
@pytest.mark.parametrize("k", [1, 7, 129, 512])
def test_packing_loses_nothing(format_: Format, k: int):
    weight = random_weight(format_, 17, k)
    panels = pack_codes(weight.codes, format_, 16)
    assert panels.nbytes == 32 * format_.groups(k) * format_.block(k) * format_.bits // 8
    np.testing.assert_array_equal(unpack_codes(panels, format_, 17, k), weight.codes)
    scales = pack_groups(weight.scale, 16)
    np.testing.assert_array_equal(unpack_groups(scales, 17), weight.scale)


@pytest.mark.parametrize("format_", FORMATS, ids=str)
def test_the_product_is_that_of_the_numbers(format_: Format):
    weight = random_weight(format_, 5, 70)
    x = np.random.default_rng(1).standard_normal((3, 70)).astype(np.float32)
    blocks = quantize_blocks(x, format_.block(70))
    numbers = group_numbers(weight.scale, weight.minimum, weight.supers, format_)
    y = multiply(blocks, weight.codes, *numbers, format_)
    steps = blocks[..., :-2].copy().view(np.int8).reshape(*blocks.shape[:-1], -1)
    inputs = steps * blocks[..., -2, None].view(np.float32)
    exact = inputs.reshape(3, -1)[:, :70] @ weight.dequantized().T
    np.testing.assert_allclose(y, exact, rtol=0, atol=1e-4 * np.abs(exact).max())
    assert np.abs(inputs.reshape(3, -1)[:, :70] - x).max() <= np.abs(x).max() / 254 * 1.001


BOUNDS = {"int8g": 0.01, "int6": 0.02, "int5": 0.04, "int4": 0.11, "int3": 0.17}
BOUNDS |= {"int2": 0.35, "ternary": 0.46, "int1": 0.65}
"""Of the root of the mean squared error of normal numbers."""


@pytest.mark.parametrize("name", GRIDS)
def test_rounding(name: str):
    weight = np.random.default_rng(0).standard_normal((6, 70)).astype(np.float32)
    weight[2] = 0
    found = rounded(weight, name)
    values = found.dequantized()
    np.testing.assert_array_equal(values[2], 0)
    plain = np.abs(weight).max() / (1 << found.format.bits)
    assert np.sqrt(np.mean((values - weight) ** 2)) < BOUNDS[name], plain
    if name != "int1":
        again = rounded(values, name).dequantized()
        tolerance = 0.02 if found.supers is not None else 2e-3
        np.testing.assert_allclose(again, values, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e9, 1e30])
def test_sizes_that_float16_does_not_hold(name: str, size: float):
    weight = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    expected = rounded(weight, name).dequantized()
    found = rounded(weight * np.float32(size), name)
    assert (found.scale if found.supers is None else found.supers).dtype == bfloat16
    values = found.dequantized() / np.float32(size)
    errors = [np.sqrt(np.square(one - weight).mean()) for one in (expected, values)]
    assert errors[1] < 1.02 * errors[0] + 2e-3


def test_errors_count_as_much_as_their_columns():
    weight = np.random.default_rng(0).standard_normal((9, 70)).astype(np.float32)
    importance = np.where(np.arange(70) % 2, 1, 1e-3)
    errors = [
        np.square(rounded(weight, "int2", 32, counts).dequantized() - weight).mean(0)[1::2].mean()
        for counts in (None, importance)
    ]
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("name", GRIDS)
def test_numbers_too_small_for_scales_are_zero(name: str):
    weight = np.full((3, 64), 1e-40, np.float32)
    weight[1, 40:] = -0.5
    found = rounded(weight, name).dequantized()
    np.testing.assert_array_equal(found[[0, 2]], 0)
    np.testing.assert_array_equal(found[1, :32], 0)
    assert np.abs(found[1, 40:] + 0.5).max() < 0.2


@pytest.mark.parametrize(
    ("value", "reason"),
    [(np.nan, "NaN or infinity"), (np.inf, "infinity"), (3e38, "beyond 8e37, which no scale fits")],
)
def test_numbers_that_no_scale_fits(value: float, reason: str):
    module = parse_module(_linears([Format(4, 32, 8)], 64, 3, plain=True))
    weight = np.ones((3, 64), np.float32)
    weight[1, 5] = value
    attach_store(module, store_from({"w0": weight}))
    with pytest.raises(KaokenError, match=f'the weight "w0" cannot be rounded: .*{reason}'):
        apply_passes(module, "quantize{dtype=int4}")


def test_a_group_must_fill_words():
    module = parse_module(_linears([Format(4, 32, 8)], 64, 3, plain=True))
    attach_store(module, store_from({"w0": np.ones((3, 64), np.float32)}))
    with pytest.raises(KaokenError, match="a group of 12 codes of 4 bits does not fill"):
        apply_passes(module, "quantize{dtype=int4 group=12}")


def _linears(formats: list[Format], k: int, n: int, plain: bool = False) -> str:
    """A layer for each format, all with the same input."""
    lines, results = [], []
    for i, format_ in enumerate(formats):
        if plain:
            lines.append(f'%v{i} = kaoken.weight "w{i}" : tensor<{n}x{k}xf32>')
        else:
            lines += _dequantized(i, format_, n, k)
        lines.append(
            f"%y{i} = kaoken.linear %x, %v{i} : tensor<?x{k}xf32>, tensor<{n}x{k}xf32> "
            f"-> tensor<?x{n}xf32>"
        )
        results.append(f"tensor<?x{n}xf32>")
    names = ", ".join(f"%y{i}" for i in range(len(formats)))
    types = ", ".join(results)
    body = "\n  ".join(lines)
    return f"""
func.func @main(%x: tensor<?x{k}xf32> {{kaoken.shape = #kaoken.shape<[rows, {k}]>}}) -> ({types})
    attributes {{kaoken.max = {{rows = 20}}}} {{
  {body}
  return {names} : {types}
}}
"""


def _dequantized(i: int, format_: Format, n: int, k: int) -> list[str]:
    """The weights of one layer, and what makes numbers of them."""
    number = "i8" if format_.groups_of_super else "f16"
    types = {"scale": f"tensor<{n}x{format_.groups(k)}x{number}>"}
    if format_ in MINIMA:
        types["min"] = types["scale"]
    if format_.groups_of_super:
        types["supers"] = f"tensor<{n}x{format_.super_blocks(k) * len(types)}xf16>"
    weights = {"codes": f"tensor<{n}x{k}xui8>"} | types
    lines = [f'%{name}{i} = kaoken.weight "{name}{i}" : {type_}' for name, type_ in weights.items()]
    operands = " ".join(f"{name} %{name}{i} : {type_}" for name, type_ in types.items())
    return [
        *lines,
        f"%v{i} = kaoken.dequantize %codes{i} {operands} {{format = #kaoken.format<{format_}>}} "
        f": tensor<{n}x{k}xui8> -> tensor<{n}x{k}xf32>",
    ]


def _stored(i: int, weight: Quantized) -> dict[str, np.ndarray]:
    """The parts of a weight by the names that `_dequantized` gives them."""
    parts = (weight.codes, weight.scale, weight.minimum, weight.supers)
    named = zip(("codes", "scale", "min", "supers"), parts, strict=True)
    return {f"{name}{i}": part for name, part in named if part is not None}


def _kept(formats: list[Format], k: int, n: int) -> ModuleOp:
    """The layers as `quantize` makes them; the first column's codes are the largest there are."""
    module = parse_module(_linears(formats, k, n))
    arrays: dict[str, np.ndarray] = {}
    for i, format_ in enumerate(formats):
        weight = random_weight(format_, n, k, i)
        weight.codes[0] = format_.largest
        arrays |= _stored(i, weight)
    attach_store(module, store_from(arrays))
    return apply_passes(module, "quantize{dtype=auto}")


@pytest.mark.parametrize(
    ("target", "n"),
    [
        ("native", 64),
        ("x86-64-v4+vnni", 64),
        ("x86-64-v4", 50),
        ("x86-64-v3", 48),
        ("x86-64-v3", 50),
        ("generic", 50),
    ],
)
def test_compiled_code_equals_numpy(target: str, n: int, tmp_path: Path):
    """Odd sizes, a block of zeros, and rows of the largest inputs against the largest codes. Where
    panels are full, 8 rows and more meet unpacked codes, on a matrix unit if there is one."""
    machine = TargetMachine.parse(target)
    if machine.description.architecture not in ("", platform.machine()) or not machine.runs_here():
        pytest.skip("another CPU")
    formats = FORMATS if target != "generic" else [*FORMATS[1:3], *FORMATS[-3:-1]]
    kept = _kept(formats, 129, n)
    low = apply_passes(kept, f'choose-schedule{{target="{machine.text}"}},bake')
    for one in loop_pipeline(CompileOptions()):
        one.apply(make_context(), low)
    model = compile_stage(low, tmp_path / "model", machine)
    for rows in (1, 2, 7, 8, 17, 20):
        x = np.random.default_rng(rows).standard_normal((rows, 129)).astype(np.float32)
        x[0, :40] = 0
        x[1:2], x[2:3] = 1, -1
        expected = run_module(kept, [x])
        for found, wanted in zip(run_stage(model, [x]), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    clean = run_stage(model, [x])
    x[3, 50], x[4, 128] = np.nan, np.inf
    for found, wanted in zip(run_stage(model, [x]), clean, strict=True):
        assert not np.isfinite(found[3:5]).any()
        np.testing.assert_array_equal(found[5:], wanted[5:])


LOOKUP = """linear {
    panel(16) tile(m, 8) tile(m_in, 2) order(m, n0, m_in, m_in_in, n1)
    lookup(k) vectorize(m_in_in, n1) vectorize(n1) parallel(n0)
}"""


@pytest.mark.parametrize("target", ["native", "x86-64-v4+vbmi", "x86-64-v3", "generic"])
def test_products_that_are_looked_up(target: str, tmp_path: Path):
    """Tables take the least and the largest sums; a row alone looks up, several are multiplied."""
    machine = TargetMachine.parse(target)
    if machine.description.architecture not in ("", platform.machine()) or not machine.runs_here():
        pytest.skip("another CPU")
    kept = _kept(
        [Format(2, 256, 1), Format(2, 0, 1), Format(1, 32, 1, 2), Format(1, 0, 1, 2)], 300, 48
    )
    schedule = LOOKUP.replace(chr(10), " ")
    low = apply_passes(kept, f'apply-schedule{{target="{machine.text}" file="{schedule}"}},bake')
    for one in loop_pipeline(CompileOptions()):
        one.apply(make_context(), low)
    assert str(low).count("call @lookup_tables") == 4
    model = compile_stage(low, tmp_path / "model", machine)
    random = np.random.default_rng(0).standard_normal((1, 300)).astype(np.float32)
    ones = np.ones_like(random)
    for x in (random, ones, -ones, 0 * ones, np.repeat(random, 3, 0)):
        for found, wanted in zip(run_stage(model, [x]), run_module(kept, [x]), strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_rows_and_threads_change_no_bit(tmp_path: Path):
    """As many rows as go to a matrix unit, if there is one, each alone, and on two threads."""
    kept = _kept([FORMATS[1], FORMATS[3]], 512, 64)
    x = np.random.default_rng(0).standard_normal((19, 512)).astype(np.float32)
    wanted = run_module(kept, [x])
    compile_module(kept, tmp_path / "model", CompileOptions(threads=2))
    for threads in (1, 2):
        model = kaoken.load(tmp_path / "model", threads=threads)
        for found, whole in zip(model(x), wanted, strict=True):
            np.testing.assert_array_equal(found, whole)
        for row in (0, 9, 18):
            for found, whole in zip(model(x[row : row + 1]), wanted, strict=True):
                np.testing.assert_array_equal(found, whole[row : row + 1])


def test_gguf_blocks_are_what_gguf_reads():
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("transformers")
    from kaoken.frontend.gguf_blocks import KEPT, gguf_blocks
    from tests.unit.gguf_files import random_blocks

    for kind in KEPT:
        type_ = gguf.GGMLQuantizationType[kind]
        data = random_blocks(type_, 5, 512)
        values = gguf_blocks(kind, data, 512).dequantized()
        np.testing.assert_array_equal(values, gguf.quants.dequantize(data, type_), err_msg=kind)


def test_rows_that_are_looked_up(tmp_path: Path):
    """Scales and minima of super-blocks, and both at once, in compiled code."""
    format_, n, k = FORMATS[-2], 9, 161
    lines = "\n  ".join(_dequantized(0, format_, n, k))
    module = parse_module(f"""
func.func @main(%ids: tensor<?xi64> {{kaoken.shape = #kaoken.shape<[rows]>}}) -> tensor<?x{k}xf32>
    attributes {{kaoken.max = {{rows = 20}}}} {{
  {lines}
  %y = kaoken.embedding %v0, %ids : tensor<{n}x{k}xf32>, tensor<?xi64> -> tensor<?x{k}xf32>
  return %y : tensor<?x{k}xf32>
}}
""")
    weight = random_weight(format_, n, k)
    attach_store(module, store_from(_stored(0, weight)))
    low = apply_passes(module, "quantize{dtype=auto},choose-schedule,bake,lower-to-loops")
    assert "ui8" in str(low)
    model = compile_stage(low, tmp_path / "model", TargetMachine.parse("native"))
    ids = np.array([3, 0, 8, 8, 1])
    (found,) = run_stage(model, [ids])
    np.testing.assert_array_equal(found, weight.dequantized()[ids])
