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


def model(body: str, attention: str = "causal = true", mask: str = "") -> str:
    """A model of 12 numbers a token, of which `body` makes %y from %x and %positions.

    `mask` makes %mask of %apart, how far each key is before each query.
    """
    masked = " mask %mask : " + mask.rpartition("-> ")[2].strip() if mask else ""
    return f"""
    func.func @main(%ids: tensor<1x?xi64> {{kaoken.shape = #kaoken.shape<[1, tokens]>}})
        -> tensor<1x?x{VOCABULARY}xf32> attributes {{kaoken.max = {{tokens = 130 : i64}}}} {{
      %table = kaoken.weight "table" : tensor<{VOCABULARY}x12xf32>
      %e = kaoken.embedding %table, %ids
        : tensor<{VOCABULARY}x12xf32>, tensor<1x?xi64> -> {ROWS}
      %positions = kaoken.iota <[tokens]> : tensor<?xi64>
      %place = kaoken.cast %positions : tensor<?xi64> -> tensor<?xf32>
      %query = kaoken.reshape %place to <[tokens, 1]> : tensor<?xf32> -> tensor<?x1xf32>
      %apart = kaoken.elementwise sub %query, %place
        : tensor<?x1xf32>, tensor<?xf32> -> tensor<?x?xf32>
      %zero = kaoken.full 0.0 : f32 to <[]> : tensor<f32>
      %three = kaoken.full 3.0 : f32 to <[]> : tensor<f32>
      %hidden = kaoken.full -3.4e38 : f32 to <[]> : tensor<f32>
      %slopes = kaoken.weight "slopes" : tensor<3x1x1xf32>
      %causal = kaoken.elementwise ge %apart, %zero : tensor<?x?xf32>, tensor<f32> -> tensor<?x?xi1>
      {mask}
      %a = kaoken.attention %e, %e, %e{masked}
        {{num_heads = 3 : i64, scale = 0.5 : f64, {attention}}}
        : {ROWS}, {ROWS}, {ROWS} -> {ROWS}
      %x = kaoken.elementwise add %e, %a : {ROWS}, {ROWS} -> {ROWS}
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

SCORES = """
      %b = kaoken.elementwise mul %slopes, %apart
        : tensor<3x1x1xf32>, tensor<?x?xf32> -> tensor<3x?x?xf32>
      %s = kaoken.elementwise select %causal, %b, %hidden
        : tensor<?x?xi1>, tensor<3x?x?xf32>, tensor<f32> -> tensor<3x?x?xf32>"""
MASKS = {
    "causal": "%mask = kaoken.reshape %causal to <[1, 1, tokens, tokens]>"
    " : tensor<?x?xi1> -> tensor<1x1x?x?xi1>",
    "window": """
      %near = kaoken.elementwise lt %apart, %three
        : tensor<?x?xf32>, tensor<f32> -> tensor<?x?xi1>
      %both = kaoken.elementwise and %causal, %near
        : tensor<?x?xi1>, tensor<?x?xi1> -> tensor<?x?xi1>
      %mask = kaoken.reshape %both to <[1, 1, tokens, tokens]>
        : tensor<?x?xi1> -> tensor<1x1x?x?xi1>""",
    "ALiBi": SCORES
    + """
      %mask = kaoken.reshape %s to <[1, 3, tokens, tokens]>
        : tensor<3x?x?xf32> -> tensor<1x3x?x?xf32>""",
    "ALiBi of keys": SCORES
    + """
      %k = kaoken.elementwise add %s, %place
        : tensor<3x?x?xf32>, tensor<?xf32> -> tensor<3x?x?xf32>
      %mask = kaoken.reshape %k to <[1, 3, tokens, tokens]>
        : tensor<3x?x?xf32> -> tensor<1x3x?x?xf32>""",
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("attention", ["causal = true", "causal = true, window = 5 : i64"])
def test_pieces_give_the_logits_of_the_whole(name: str, attention: str) -> None:
    assert_pieces(model(BODIES[name], attention))


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_distances(name: str) -> None:
    assert_pieces(model(BODIES["nothing"], "causal = false", MASKS[name]))


def assert_pieces(text: str) -> None:
    module = parse_module(text)
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


REFUSED = {
    "the text": (
        """
      %t = kaoken.reshape %ids to <[1, 1, 1, tokens]> : tensor<1x?xi64> -> tensor<1x1x1x?xi64>
      %mask = kaoken.cast %t : tensor<1x1x1x?xi64> -> tensor<1x1x1x?xi1>""",
        "has a mask that depends on the text",
    ),
    "squares": (
        """
      %b = kaoken.elementwise mul %apart, %query
        : tensor<?x?xf32>, tensor<?x1xf32> -> tensor<?x?xf32>
      %mask = kaoken.reshape %b to <[1, 1, tokens, tokens]>
        : tensor<?x?xf32> -> tensor<1x1x?x?xf32>""",
        "a mask that is not one of distances",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_masks_are_refused(name: str) -> None:
    mask, text = REFUSED[name]
    module = parse_module(model(BODIES["nothing"], "causal = true", mask))
    fill_weights(module)
    with pytest.raises(KaokenError, match=text):
        apply_passes(module, "add-caches")


def test_an_encoder_is_refused() -> None:
    module = parse_module(model(BODIES["nothing"], "causal = false"))
    fill_weights(module)
    with pytest.raises(KaokenError, match="sees the tokens to come: the model is an encoder"):
        apply_passes(module, "add-caches")
