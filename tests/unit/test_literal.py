"""Literal layers as C: straight-line arithmetic that gives the interpreter's numbers."""

from pathlib import Path

import numpy as np
import pytest

import kaoken
from kaoken.compiler import compile_module
from kaoken.dialect.reference import run_module
from kaoken.modules import parse_module
from kaoken.options import CompileOptions
from tests.helpers import apply_passes, random_inputs

MODULE = """
builtin.module attributes {{kaoken.name = "tiny"}} {{
  func.func @main(%x: tensor<{rows}x4xf32> {{kaoken.shape = #kaoken.shape<[{dim}, 4]>}}) -> tensor<{rows}x3xf32> attributes {{kaoken.max = {{{maximum}}}}} {{
    %w = arith.constant dense<[[0.25, 0.0, 1.0, 0.0], [0.0, -3.0, -1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]> : tensor<3x4xf32>
    %b = arith.constant dense<[0.0, 2.0, 1.5]> : tensor<3xf32>
    %v = arith.constant dense<[[-1.0, 1.0, 0.5], [0.0, 1.0, 0.0], [0.1, 0.2, 0.3]]> : tensor<3x3xf32>
    %h = kaoken.linear %x, %w bias %b : tensor<3xf32> : tensor<{rows}x4xf32>, tensor<3x4xf32> -> tensor<{rows}x3xf32>
    %r = kaoken.{activation} %h : tensor<{rows}x3xf32> -> tensor<{rows}x3xf32>
    %y = kaoken.linear %r, %v residual %r : tensor<{rows}x3xf32> : tensor<{rows}x3xf32>, tensor<3x3xf32> -> tensor<{rows}x3xf32>
    return %y : tensor<{rows}x3xf32>
  }}
}}
"""  # noqa: E501


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("rows", [1, 3, None])
def test_literal_layers_as_c(tmp_path: Path, activation: str, rows: int | None) -> None:
    fixed = {"rows": str(rows), "dim": str(rows), "maximum": ""}
    sizes = {"rows": "?", "dim": "n", "maximum": "n = 5"} if rows is None else fixed
    module = parse_module(MODULE.format(activation=activation, **sizes))
    (x,) = random_inputs(module, {"n": 4})
    (expected,) = run_module(module, [x])
    literal = apply_passes(module, "fuse,bake{mode=literal}")
    compile_module(literal, tmp_path / "tiny", CompileOptions(target="generic"))
    np.testing.assert_allclose(kaoken.load(tmp_path / "tiny")(x), expected, atol=1e-6)


def test_zeros_and_ones_are_dropped(tmp_path: Path) -> None:
    text = MODULE.format(activation="relu", rows="1", dim="1", maximum="")
    literal = apply_passes(parse_module(text), "fuse,bake{mode=literal}")
    compile_module(literal, tmp_path / "tiny", CompileOptions(target="generic"))
    (code,) = (tmp_path / "tiny").glob("tiny.c")
    assert "x[0] * 0.25f + " in code.read_text()
    assert "x[3]" not in code.read_text()
    assert (tmp_path / "tiny/tiny.weights").stat().st_size <= 4096
