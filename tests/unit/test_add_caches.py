"""`add-caches`: what it makes gives the logits of the whole text, in whichever pieces it comes."""

from __future__ import annotations

import numpy as np
import pytest

from kaoken.dialect.reference import run_module
from kaoken.errors import KaokenError
from kaoken.modules import parse_module
from tests.helpers import apply_passes, fill_weights

ROWS = "tensor<1x?x12xf32>"
VOCABULARY = 11


def model(body: str, attention: str = "causal = true") -> str:
    """A model of 12 numbers a token, of which `body` makes %y from %x and %positions."""
    return f"""
    func.func @main(%ids: tensor<1x?xi64> {{kaoken.shape = #kaoken.shape<[1, tokens]>}})
        -> tensor<1x?x{VOCABULARY}xf32> attributes {{kaoken.max = {{tokens = 130 : i64}}}} {{
      %table = kaoken.weight "table" : tensor<{VOCABULARY}x12xf32>
      %e = kaoken.embedding %table, %ids
        : tensor<{VOCABULARY}x12xf32>, tensor<1x?xi64> -> {ROWS}
      %a = kaoken.attention %e, %e, %e {{num_heads = 3 : i64, scale = 0.5 : f64, {attention}}}
        : {ROWS}, {ROWS}, {ROWS} -> {ROWS}
      %x = kaoken.elementwise add %e, %a : {ROWS}, {ROWS} -> {ROWS}
      %positions = kaoken.iota <[tokens]> : tensor<?xi64>
      {body}
      %logits = kaoken.linear %y, %table
        : {ROWS}, tensor<{VOCABULARY}x12xf32> -> tensor<1x?x{VOCABULARY}xf32>
      func.return %logits : tensor<1x?x{VOCABULARY}xf32>
    }}"""


BODIES = {
    "nothing": f"%y = kaoken.silu %x : {ROWS} -> {ROWS}",
    "learned positions": f"""
      %all = kaoken.weight "positions" : tensor<140x12xf32>
      %p = kaoken.slice %all <[2, "tokens + 2"]> {{dim = 0 : i64}}
        : tensor<140x12xf32> -> tensor<?x12xf32>
      %y = kaoken.elementwise add %x, %p : {ROWS}, tensor<?x12xf32> -> {ROWS}""",
    "computed positions": f"""
      %column = kaoken.reshape %positions to <[1, tokens, 1]> : tensor<?xi64> -> tensor<1x?x1xi64>
      %f = kaoken.cast %column : tensor<1x?x1xi64> -> tensor<1x?x1xf32>
      %c = kaoken.elementwise cos %f : tensor<1x?x1xf32> -> tensor<1x?x1xf32>
      %y = kaoken.elementwise mul %x, %c : {ROWS}, tensor<1x?x1xf32> -> {ROWS}""",
    "tokens moved": f"""
      %t = kaoken.transpose %x [2, 1, 0] : {ROWS} -> tensor<12x?x1xf32>
      %flat = kaoken.reshape %t to <[3, 4, tokens]> : tensor<12x?x1xf32> -> tensor<3x4x?xf32>
      %s = kaoken.silu %flat : tensor<3x4x?xf32> -> tensor<3x4x?xf32>
      %back = kaoken.reshape %s to <[12, tokens, 1]> : tensor<3x4x?xf32> -> tensor<12x?x1xf32>
      %y = kaoken.transpose %back [2, 1, 0] : tensor<12x?x1xf32> -> {ROWS}""",
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("attention", ["causal = true", "causal = true, window = 5 : i64"])
def test_pieces_give_the_logits_of_the_whole(name: str, attention: str) -> None:
    module = parse_module(model(BODIES[name], attention))
    fill_weights(module)
    generating = apply_passes(module, "add-caches")
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (1, 130))
    (wanted,) = run_module(module, [ids])
    caches: dict[str, np.ndarray] = {}
    past = 0
    for piece, outputs in ((1, 1), (7, 0), (17, 3), (64, 1), (1, 1), (40, 8)):
        sizes = {"past": past, "outputs": outputs}
        (got,) = run_module(generating, [ids[:, past : past + piece]], sizes=sizes, caches=caches)
        past += piece
        np.testing.assert_allclose(got[0], wanted[0, past - outputs : past], atol=1e-5)


MIXING = {
    "a mean": f"""
      %m = kaoken.reduce mean %x over [1] {{keepdim = true}} : {ROWS} -> tensor<1x1x12xf32>
      %y = kaoken.elementwise add %x, %m : {ROWS}, tensor<1x1x12xf32> -> {ROWS}""",
    "running sums": f"%y = kaoken.cumsum %x {{dim = 1 : i64}} : {ROWS} -> {ROWS}",
    "rows for columns": f"""
      %flat = kaoken.reshape %x to <[12, tokens]> : {ROWS} -> tensor<12x?xf32>
      %t = kaoken.transpose %flat [1, 0] : tensor<12x?xf32> -> tensor<?x12xf32>
      %y = kaoken.reshape %t to <[1, tokens, 12]> : tensor<?x12xf32> -> {ROWS}""",
    "a softmax over tokens": f"""
      %t = kaoken.transpose %x [0, 2, 1] : {ROWS} -> tensor<1x12x?xf32>
      %s = kaoken.softmax %t : tensor<1x12x?xf32> -> tensor<1x12x?xf32>
      %y = kaoken.transpose %s [0, 2, 1] : tensor<1x12x?xf32> -> {ROWS}""",
    "the length": f"""
      %ones = kaoken.full 1.0 : f32 to <[tokens]> : tensor<?xf32>
      %n = kaoken.reduce sum %ones over [0] : tensor<?xf32> -> tensor<f32>
      %y = kaoken.elementwise mul %x, %n : {ROWS}, tensor<f32> -> {ROWS}""",
}


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_tokens_is_refused(name: str) -> None:
    module = parse_module(model(MIXING[name]))
    fill_weights(module)
    with pytest.raises(KaokenError, match="mixes tokens: kaoken generates text with models whose"):
        apply_passes(module, "add-caches")


def test_an_encoder_is_refused() -> None:
    module = parse_module(model(BODIES["nothing"], "causal = false"))
    fill_weights(module)
    with pytest.raises(KaokenError, match="sees the tokens to come: the model is an encoder"):
        apply_passes(module, "add-caches")
