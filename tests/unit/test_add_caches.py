"""`add-caches`: what it makes gives the logits of the whole text, in whichever pieces it comes."""

from __future__ import annotations

import numpy as np
import pytest

from kaoken.dialect.reference import run_module
from kaoken.errors import KaokenError
from kaoken.modules import parse_module
from tests.helpers import apply_passes, fill_weights
from tests.unit.causal_models import BODIES, ROWS, VOCABULARY, model

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
