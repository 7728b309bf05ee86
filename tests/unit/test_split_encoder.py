"""`split-encoder`: both functions together give what they gave before."""

from __future__ import annotations

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from kaoken.dialect.reference import run_module
from kaoken.errors import KaokenError
from kaoken.modules import parse_module
from kaoken.weights import WeightStore, attach_store
from tests.helpers import apply_passes

X, K = "tensor<1x?x8xf32>", "tensor<1x?x6xf32>"
NAME = 'kaoken.name = "encoder_hidden_states"'
WEIGHT = "tensor<6x8xf32>"
TEXT = f"""
builtin.module {{
  func.func @encode(%x: {X} {{kaoken.shape = #kaoken.shape<[1, source, 8]>}}) -> {X}
      attributes {{kaoken.max = {{source = 17 : i64}}}} {{
    %h = kaoken.relu %x : {X} -> {X}
    func.return %h : {X}
  }}
  func.func @main(
      %q: {K} {{kaoken.shape = #kaoken.shape<[1, tokens, 6]>}},
      %s: {X} {{kaoken.shape = #kaoken.shape<[1, source, 8]>, {NAME}}}
  ) -> {K} attributes {{kaoken.max = {{tokens = 12 : i64, source = 17 : i64}}}} {{
    %w = kaoken.weight "w" : {WEIGHT}
    %k = kaoken.linear %s, %w : {X}, {WEIGHT} -> {K}
    %v = kaoken.tanh %k : {K} -> {K}
    %y = kaoken.attention %q, %k, %v {{num_heads = 3 : i64, scale = 0.5 : f64}}
      : {K}, {K}, {K} -> {K}
    %z = kaoken.attention %y, %v, %k {{num_heads = 2 : i64, scale = 0.5 : f64}}
      : {K}, {K}, {K} -> {K}
    func.return %z : {K}
  }}
}}"""


def module(text: str = TEXT) -> ModuleOp:
    store = WeightStore()
    store.add("w", np.random.default_rng(0).standard_normal((6, 8)).astype("f4"))
    made = parse_module(text)
    attach_store(made, store)
    return made


@pytest.mark.parametrize(("source", "tokens"), [(1, 1), (7, 12), (17, 5)])
def test_both_functions_give_the_same(source: int, tokens: int) -> None:
    random = np.random.default_rng(1)
    x = random.standard_normal((1, source, 8)).astype("f4")
    q = random.standard_normal((1, tokens, 6)).astype("f4")
    (hidden,) = run_module(module(), [x], "encode")
    wanted = run_module(module(), [q, hidden])
    split = apply_passes(module(), "split-encoder")
    caches: dict[str, np.ndarray] = {}
    assert run_module(split, [x], "encode", caches=caches) == ()
    found = run_module(split, [q], sizes={"source": source}, caches=caches)
    np.testing.assert_array_equal(found, wanted)
    assert sorted(caches) == [f"layers.{i}.cross_{w}" for i in (0, 1) for w in ("keys", "values")]


def test_a_decoder_that_reads_the_source_elsewhere() -> None:
    text = TEXT.replace(
        "%k = kaoken.linear", "%r = kaoken.relu %s : {X} -> {X}\n%k = kaoken.linear"
    )
    text = text.replace("{X}", X).replace("func.return %z : " + K, "func.return %r : " + X)
    text = text.replace(f") -> {K} attributes", f") -> {X} attributes")
    with pytest.raises(KaokenError, match="reads the source besides cross-attention"):
        apply_passes(module(text), "split-encoder")
