"""`fuse` keeps what a module computes and is done after one run."""

from pathlib import Path

import pytest
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp

from kaoken.dialect.nn import AttentionOp, LayerNormOp, LinearOp
from kaoken.modules import parse_module
from tests.helpers import apply_passes, assert_same_before_and_after

FILE = Path(__file__).parent.parent / "filecheck/passes/fuse.mlir"


def functions() -> list[FuncOp]:
    module = parse_module(FILE.read_text())
    return [op for op in module.ops if isinstance(op, FuncOp)]


@pytest.mark.parametrize("func", functions(), ids=lambda f: f.sym_name.data)
@pytest.mark.parametrize("rows", [1, 5])
def test_fusions_keep_the_meaning(func: FuncOp, rows: int) -> None:
    main = func.clone()
    main.sym_name = StringAttr("main")
    sizes = {"b": 2, "s": rows, "n": rows}
    after = assert_same_before_and_after(ModuleOp([main]), "fuse", sizes=sizes)
    assert str(apply_passes(after, "fuse")) == str(after)


CROSS_ATTENTION = """
func.func @main(%x: tensor<?x4xf32> {kaoken.shape = #kaoken.shape<[n, 4]>}, %e: tensor<?x4xf32> {kaoken.shape = #kaoken.shape<[m, 4]>}) -> (tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>) {
  %a = kaoken.weight "a" : tensor<4x4xf32>
  %b = kaoken.weight "b" : tensor<4x4xf32>
  %k0 = kaoken.linear %e, %a : tensor<?x4xf32>, tensor<4x4xf32> -> tensor<?x4xf32>
  %v0 = kaoken.linear %e, %b : tensor<?x4xf32>, tensor<4x4xf32> -> tensor<?x4xf32>
  %h = kaoken.linear %x, %a : tensor<?x4xf32>, tensor<4x4xf32> -> tensor<?x4xf32>
  %g = kaoken.relu %h : tensor<?x4xf32> -> tensor<?x4xf32>
  %k1 = kaoken.linear %e, %b : tensor<?x4xf32>, tensor<4x4xf32> -> tensor<?x4xf32>
  %v1 = kaoken.linear %e, %a : tensor<?x4xf32>, tensor<4x4xf32> -> tensor<?x4xf32>
  %s = kaoken.elementwise mul %v1, %k1 : tensor<?x4xf32>, tensor<?x4xf32> -> tensor<?x4xf32>
  return %k0, %v0, %g, %s : tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>
}
"""  # noqa: E501


def test_only_neighbouring_layers_join() -> None:
    """Keys and values of all decoder layers read the encoder: joined two by two, not all."""
    after = assert_same_before_and_after(CROSS_ATTENTION, "fuse")
    widths = [op.n for op in after.walk() if isinstance(op, LinearOp)]
    assert widths == [8, 4, 8]


def test_a_layer_with_a_schedule_is_left_alone() -> None:
    module = apply_passes(parse_module(CROSS_ATTENTION), "choose-schedule")
    after = apply_passes(module, "fuse")
    assert len([op for op in after.walk() if isinstance(op, LinearOp)]) == 5


def test_attention_reads_slices() -> None:
    module = ModuleOp([functions()[0].clone()])
    after = apply_passes(module, "fuse,canonicalize")
    (attention,) = [op for op in after.walk() if isinstance(op, AttentionOp)]
    assert {v.owner.name for v in attention.operands} == {"kaoken.slice"}  # pyright: ignore[reportAttributeAccessIssue]


PRE_NORM = """
func.func @main(%x: tensor<?x4xf32> {kaoken.shape = #kaoken.shape<[n, 4]>}) -> tensor<?x4xf32> {
  %g = kaoken.weight "g" : tensor<4xf32>
  %w = kaoken.weight "w" : tensor<4x4xf32>
  %a = kaoken.layer_norm %x, %g {eps = 1.0e-5 : f64} : tensor<?x4xf32>, tensor<4xf32> -> tensor<?x4xf32>
  %b = kaoken.linear %a, %w residual %x : tensor<?x4xf32> : tensor<?x4xf32>, tensor<4x4xf32> -> tensor<?x4xf32>
  %c = kaoken.layer_norm %b, %g {eps = 1.0e-5 : f64} : tensor<?x4xf32>, tensor<4xf32> -> tensor<?x4xf32>
  %d = kaoken.linear %c, %w residual %b : tensor<?x4xf32> : tensor<?x4xf32>, tensor<4x4xf32> -> tensor<?x4xf32>
  %e = kaoken.layer_norm %d, %g {eps = 1.0e-5 : f64} : tensor<?x4xf32>, tensor<4xf32> -> tensor<?x4xf32>
  return %e : tensor<?x4xf32>
}
"""  # noqa: E501


def test_the_last_pre_norm_layer_stays_like_the_others() -> None:
    after = assert_same_before_and_after(PRE_NORM, "fuse")
    assert len([op for op in after.walk() if isinstance(op, LayerNormOp)]) == 3
