"""`bake` keeps what a module computes, packs rightly, is done after one run and leaves no waste."""

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from kaoken.analysis.constants import is_constant
from kaoken.dialect.nn import AttentionOp, EmbeddingOp, LinearOp, WeightOp
from kaoken.dialect.reference.linear import unpack_weight
from kaoken.dialect.tensor import BroadcastOp, ElementwiseOp
from kaoken.errors import KaokenError
from kaoken.modules import parse_module
from kaoken.passes.baking.panels import pack
from kaoken.passes.baking.workspace import joined_key
from kaoken.weights import store_of
from tests.helpers import apply_passes, assert_same_before_and_after, fill_weights

ENCODER = """
func.func @main(%x: tensor<?x?x12xf32> {kaoken.shape = #kaoken.shape<[b, s, 12]>}) -> tensor<?x?x12xf32> {
  %wq = kaoken.weight "layer.0.attention.query.weight" : tensor<12x12xf32>
  %bq = kaoken.weight "layer.0.attention.query.bias" : tensor<12xf32>
  %wk = kaoken.weight "layer.0.attention.key.weight" : tensor<12x12xf32>
  %wv = kaoken.weight "layer.0.attention.value.weight" : tensor<12x12xf32>
  %bv = kaoken.weight "layer.0.attention.value.bias" : tensor<12xf32>
  %wo = kaoken.weight "layer.0.output.weight" : tensor<12x12xf32>
  %q = kaoken.linear %x, %wq bias %bq : tensor<12xf32> : tensor<?x?x12xf32>, tensor<12x12xf32> -> tensor<?x?x12xf32>
  %k = kaoken.linear %x, %wk : tensor<?x?x12xf32>, tensor<12x12xf32> -> tensor<?x?x12xf32>
  %v = kaoken.linear %x, %wv bias %bv : tensor<12xf32> : tensor<?x?x12xf32>, tensor<12x12xf32> -> tensor<?x?x12xf32>
  %a = kaoken.attention %q, %k, %v {num_heads = 3, scale = 0.3 : f64} : tensor<?x?x12xf32>, tensor<?x?x12xf32>, tensor<?x?x12xf32> -> tensor<?x?x12xf32>
  %y = kaoken.linear %a, %wo : tensor<?x?x12xf32>, tensor<12x12xf32> -> tensor<?x?x12xf32>
  return %y : tensor<?x?x12xf32>
}
"""  # noqa: E501


def ops(module: ModuleOp, kind: type) -> list:
    return [op for op in module.walk() if isinstance(op, kind)]


def main(arguments: str, results: str, body: str) -> str:
    return f"func.func @main({arguments}) -> {results} {{\n{body}\n}}"


@pytest.mark.parametrize(
    "pipeline", ["bake", "fuse,bake", "fuse,choose-schedule,bake", "bake,fuse"]
)
@pytest.mark.parametrize("tokens", [1, 5])
def test_encoder_keeps_its_meaning(pipeline: str, tokens: int) -> None:
    after = assert_same_before_and_after(ENCODER, pipeline, sizes={"b": 2, "s": tokens})
    assert str(apply_passes(after, "bake")) == str(after)
    assert ops(after, AttentionOp)[0].scale.value.data == 1.0
    assert all(op.is_packed for op in ops(after, LinearOp))


def test_joined_weights_get_a_readable_key() -> None:
    after = assert_same_before_and_after(ENCODER, "fuse,bake{target=generic}")
    keys = {op.key.data for op in ops(after, WeightOp)}
    assert any(k.startswith("layer.0.attention.qkv.weight.scaled.panels") for k in keys)
    assert len(keys) == 3


def test_steps_on_the_way_are_not_kept() -> None:
    module = parse_module(ENCODER)
    fill_weights(module)
    before = set(store_of(module).keys())
    after = apply_passes(module, "fuse,bake")
    named = {op.key.data for op in ops(after, WeightOp)}
    assert set(store_of(after).keys()) - before == named


@pytest.mark.parametrize("n", [1, 7, 8, 9, 17])
@pytest.mark.parametrize("width", [1, 4, 8])
def test_pack_and_unpack(n: int, width: int) -> None:
    weight = np.random.default_rng(n).standard_normal((n, 5)).astype(np.float32)
    panels = pack(weight, width)
    assert panels.shape == (-(-n // width), 5, width)
    np.testing.assert_array_equal(unpack_weight(panels, *weight.shape), weight)


@pytest.mark.parametrize("n", [1, 7, 33])
def test_odd_widths_with_every_epilogue(n: int) -> None:
    body = f"""
  %w = kaoken.weight "w" : tensor<{n}x5xf32>
  %b = kaoken.weight "b" : tensor<{n}xf32>
  %g = kaoken.weight "g" : tensor<{n}xf32>
  %y = kaoken.linear %x, %w bias %b : tensor<{n}xf32> residual %r : tensor<?x{n}xf32> norm_weight %g : tensor<{n}xf32> {{activation = #kaoken<activation gelu>, norm = #kaoken<norm layer_norm>, eps = 1.0e-5 : f64}} : tensor<?x5xf32>, tensor<{n}x5xf32> -> tensor<?x{n}xf32>
  return %y : tensor<?x{n}xf32>"""  # noqa: E501
    rows = "{kaoken.shape = #kaoken.shape<[m, %d]>}"
    arguments = f"%x: tensor<?x5xf32> {rows % 5}, %r: tensor<?x{n}xf32> {rows % n}"
    after = assert_same_before_and_after(main(arguments, f"tensor<?x{n}xf32>", body), "bake")
    assert ops(after, LinearOp)[0].n == n


X = "%x: tensor<?x6xf32> {kaoken.shape = #kaoken.shape<[m, 6]>}"
LAYER = """
  %w = kaoken.weight "w" : tensor<4x6xf32>
  %b = kaoken.weight "b" : tensor<4xf32>
  %h = kaoken.linear %x, %w bias %b : tensor<4xf32> : tensor<?x6xf32>, tensor<4x6xf32> -> tensor<?x4xf32>"""  # noqa: E501


@pytest.mark.parametrize("function", ["mul", "div"])
@pytest.mark.parametrize(
    "factor",
    [
        ('kaoken.weight "c" : tensor<4xf32>', "tensor<4xf32>"),
        ('kaoken.weight "c" : tensor<1x4xf32>', "tensor<1x4xf32>"),
        ("kaoken.full 0.3 : f32 to <[]> : tensor<f32>", "tensor<f32>"),
        ("arith.constant dense<0.3> : tensor<1xf32>", "tensor<1xf32>"),
    ],
)
def test_a_factor_after_a_linear_goes_into_its_weights(
    function: str, factor: tuple[str, str]
) -> None:
    body = f"""{LAYER}
  %c = {factor[0]}
  %y = kaoken.elementwise {function} %h, %c : tensor<?x4xf32>, {factor[1]} -> tensor<?x4xf32>
  return %y : tensor<?x4xf32>"""
    after = assert_same_before_and_after(main(X, "tensor<?x4xf32>", body), "canonicalize,bake")
    is_column = factor[1] == "tensor<1x4xf32>"
    assert len(ops(after, ElementwiseOp)) == is_column


def test_a_factor_of_a_value_read_twice_stays() -> None:
    body = f"""{LAYER}
  %c = kaoken.full 0.3 : f32 to <[]> : tensor<f32>
  %y = kaoken.elementwise mul %h, %c : tensor<?x4xf32>, tensor<f32> -> tensor<?x4xf32>
  return %y, %h : tensor<?x4xf32>, tensor<?x4xf32>"""
    text = main(X, "(tensor<?x4xf32>, tensor<?x4xf32>)", body)
    assert len(ops(assert_same_before_and_after(text, "bake"), ElementwiseOp)) == 1


@pytest.mark.parametrize("key", ["%q", "%h"])
def test_a_query_that_is_read_twice_keeps_its_scale(key: str) -> None:
    body = f"""
  %w = kaoken.weight "w" : tensor<8x6xf32>
  %h = kaoken.linear %x, %w : tensor<1x?x6xf32>, tensor<8x6xf32> -> tensor<1x?x8xf32>
  %q = kaoken.slice %h <[0, 8]> {{dim = 2}} : tensor<1x?x8xf32> -> tensor<1x?x8xf32>
  %y = kaoken.attention %q, {key}, %h {{num_heads = 2, scale = 0.3 : f64}} : tensor<1x?x8xf32>, tensor<1x?x8xf32>, tensor<1x?x8xf32> -> tensor<1x?x8xf32>
  return %y : tensor<1x?x8xf32>"""  # noqa: E501
    x = "%x: tensor<1x?x6xf32> {kaoken.shape = #kaoken.shape<[1, m, 6]>}"
    after = assert_same_before_and_after(main(x, "tensor<1x?x8xf32>", body), "bake")
    assert ops(after, AttentionOp)[0].scale.value.data == 0.3


def test_a_large_broadcast_is_not_stored() -> None:
    body = """
  %w = kaoken.weight "w" : tensor<1x6xf32>
  %v = kaoken.elementwise neg %w : tensor<1x6xf32> -> tensor<1x6xf32>
  %b = kaoken.broadcast %v to <[5000, 6]> : tensor<1x6xf32> -> tensor<5000x6xf32>
  return %b : tensor<5000x6xf32>"""
    after = assert_same_before_and_after(main("", "tensor<5000x6xf32>", body), "bake")
    assert len(ops(after, BroadcastOp)) == 1
    assert not ops(after, ElementwiseOp)


def test_positions_past_the_table_stay_a_look_up() -> None:
    """The declared maximum exceeds the table: the look-up must stay, for its error at run time."""
    body = """
  %t = kaoken.weight "t" : tensor<4x6xf32>
  %i = kaoken.iota <[m]> : tensor<?xi64>
  %p = kaoken.embedding %t, %i : tensor<4x6xf32>, tensor<?xi64> -> tensor<?x6xf32>
  %y = kaoken.elementwise add %x, %p : tensor<?x6xf32>, tensor<?x6xf32> -> tensor<?x6xf32>
  return %y : tensor<?x6xf32>"""
    for maximum, left in ((4, 0), (5, 1)):
        text = main(X, f"tensor<?x6xf32> attributes {{kaoken.max = {{m = {maximum}}}}}", body)
        after = assert_same_before_and_after(text, "bake")
        assert len(ops(after, EmbeddingOp)) == left


def test_shared_and_half_precision_weights() -> None:
    body = """
  %a = kaoken.weight "w" : tensor<6x6xbf16>
  %b = kaoken.weight "w" : tensor<6x6xbf16>
  %c = kaoken.cast %a : tensor<6x6xbf16> -> tensor<6x6xf32>
  %d = kaoken.cast %b : tensor<6x6xbf16> -> tensor<6x6xf32>
  %y = kaoken.linear %x, %c : tensor<?x6xf32>, tensor<6x6xf32> -> tensor<?x6xf32>
  %z = kaoken.linear %y, %d : tensor<?x6xf32>, tensor<6x6xf32> -> tensor<?x6xf32>
  return %z : tensor<?x6xf32>"""
    after = assert_same_before_and_after(main(X, "tensor<?x6xf32>", body), "bake{target=generic}")
    (weight,) = ops(after, WeightOp)
    assert weight.key.data.startswith("w.f32.panels")


def test_a_name_that_is_taken_gets_a_number() -> None:
    body = """
  %a = kaoken.weight "w" : tensor<6x6xf32>
  %b = kaoken.weight "w.transposed" : tensor<6x6xf32>
  %c = kaoken.transpose %a [1, 0] : tensor<6x6xf32> -> tensor<6x6xf32>
  return %b, %c : tensor<6x6xf32>, tensor<6x6xf32>"""
    text = main("", "(tensor<6x6xf32>, tensor<6x6xf32>)", body)
    after = assert_same_before_and_after(text, "bake")
    assert [w.key.data for w in ops(after, WeightOp)] == ["w.transposed", "w.transposed_2"]


def test_literal_keeps_the_meaning() -> None:
    text = main(X, "tensor<?x4xf32>", f"{LAYER}\n  return %h : tensor<?x4xf32>")
    after = assert_same_before_and_after(text, "bake{mode=literal}")
    assert not ops(after, WeightOp)
    assert all(is_constant(op.weight) for op in ops(after, LinearOp))
    assert str(apply_passes(after, "bake{mode=literal}")) == str(after)
    assert str(apply_passes(after, "bake")) == str(after)


def test_a_layer_over_the_limit_is_named() -> None:
    text = main(X, "tensor<?x4xf32>", f"{LAYER}\n  return %h : tensor<?x4xf32>")
    module = parse_module(text)
    fill_weights(module)
    with pytest.raises(KaokenError, match=r'layer "w" has 28 weights.*at most 27.*limit=28'):
        apply_passes(module, "bake{mode=literal literal-limit=27}")


def test_joined_keys() -> None:
    assert joined_key(["a.q.weight", "a.k.weight", "a.v.weight"]) == "a.qkv.weight"
    assert joined_key(["a.query.bias", "a.value.bias"]) == "a.query_value.bias"
    assert joined_key(["x"]) == joined_key(["x", "x"]) == "x"
    assert joined_key(["a", "a.b"]) == "a.b"
    assert joined_key([]) == "constant"
