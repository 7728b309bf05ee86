"""What a module that generates text says about itself: its open sizes and what they may be.

`past` tokens are in the caches; a call adds `tokens` and gives the logits that follow the last
`outputs` of them: 0 for all pieces of a prompt but the last, 1 for a step, more to check guesses.
"""

from __future__ import annotations

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr
from xdsl.dialects.func import FuncOp

from kaoken.dialect.attributes import ShapeAttr
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import int_attr

TOKENS, PAST, OUTPUTS = (Dim.symbol(name) for name in ("tokens", "past", "outputs"))
MAX_OUTPUTS = 8
"""The most rows of logits of one call."""
MAX_PIECE = 256
"""The most tokens that go through the layers at once; longer prompts go in pieces."""
ENCODE, SOURCE = "encode", "source"
"""The function that reads what a text is made from, and the symbol of how many tokens that has."""
GENERATION = "kaoken.generation"
"""Module attribute: how many tokens a context holds, which tokens end a text, and how the model
wants to generate; see `kaoken.frontend.generation_config`."""


def set_generation_sizes(function: FuncOp, capacity: int) -> None:
    """Bound the open sizes of a function whose caches hold `capacity` tokens."""
    piece = min(MAX_PIECE, capacity)
    most = {"tokens": piece, "past": capacity - 1, "outputs": min(MAX_OUTPUTS, piece)}
    function.attributes["kaoken.max"] = _numbers(most)
    function.attributes["kaoken.least"] = _numbers({"past": 0, "outputs": 0})
    function.attributes["kaoken.limits"] = ArrayAttr(
        [ShapeAttr((PAST + TOKENS, Dim.of(capacity))), ShapeAttr((OUTPUTS, TOKENS))]
    )


def _numbers(values: dict[str, int]) -> DictionaryAttr:
    return DictionaryAttr({name: int_attr(n) for name, n in values.items()})
