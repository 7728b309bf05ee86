"""Numbers that xDSL prints as their bits are read back as what they are."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
from xdsl.dialects import arith
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr, ModuleOp, VectorType, f16, f32, f64

from kaoken.errors import KaokenError
from kaoken.modules import parse_module
from kaoken.tools import kaoken_opt

NUMBERS = (-math.inf, math.inf, 8388608.0, -12582912.0, 0.0, -0.0, 1.5, 0.1, 2.0**-149, 3e38)


@pytest.mark.parametrize("type_", [f32, f64])
def test_dense_numbers_survive_as_text(type_) -> None:
    numbers = [[x] * 2 for x in NUMBERS] + [list(NUMBERS)]
    for values in numbers:
        dense = DenseIntOrFPElementsAttr.from_list(VectorType(type_, [len(values)]), values)
        module = ModuleOp([arith.ConstantOp(dense)])
        assert constant(str(module)).data == dense.data


def test_nan_and_half_precision() -> None:
    nan = constant(
        '"arith.constant"() {value = dense<0x7fc00000> : vector<3xf32>} : () -> vector<3xf32>'
    )
    assert nan.data.data == struct.pack("<I", 0x7FC00000) * 3
    half = DenseIntOrFPElementsAttr.from_list(VectorType(f16, [2]), [-math.inf] * 2)
    assert constant(str(ModuleOp([arith.ConstantOp(half)]))).data == half.data


def test_integers_stay_integers() -> None:
    text = "%c = arith.constant dense<0x10> : vector<2xi32>"
    assert constant(text).get_values() == (16, 16)


def test_too_many_bits() -> None:
    with pytest.raises(KaokenError, match="0x1ff800000 has more bits than f32"):
        parse_module("%c = arith.constant dense<0x1ff800000> : vector<2xf32>")


def test_kaoken_opt_reads_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "%c = arith.constant dense<0xff800000> : vector<2xf32>"
    path = tmp_path / "inf.mlir"
    path.write_text(text)
    kaoken_opt.main([str(path)])
    printed = capsys.readouterr().out
    assert constant(printed).data.data == struct.pack("<2f", -math.inf, -math.inf)


def constant(text: str) -> DenseIntOrFPElementsAttr:
    """The value of a module's only op."""
    op = parse_module(text).body.block.first_op
    assert isinstance(op, arith.ConstantOp)
    assert isinstance(op.value, DenseIntOrFPElementsAttr)
    return op.value
