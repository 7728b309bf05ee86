"""What a module that generates text says about itself: its open sizes and what they may be.

`past` tokens are in the caches; a call adds `tokens` and gives the logits that follow the last
`outputs` of them: 0 for all pieces of a prompt but the last, 1 for a step, more to check guesses.
"""

from __future__ import annotations

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr
from xdsl.dialects.func import FuncOp

from kaoken.dialect.attributes import ShapeAttr, int_attr
from kaoken.dialect.dims import Dim

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


def sequence_sizes(count: int) -> list[tuple[Dim, Dim]]:
    """For each of the sequences of a context its tokens in a call, and those in its caches."""
    if count == 1:
        return [(TOKENS, PAST)]
    return [(Dim.symbol(f"tokens_{n}"), Dim.symbol(f"past_{n}")) for n in range(count)]


def set_generation_sizes(function: FuncOp, capacity: int, sequences: int = 1) -> None:
    """Bound the open sizes of a function whose caches hold `capacity` tokens of each sequence."""
    piece = min(MAX_PIECE, capacity)
    sizes = sequence_sizes(sequences)
    most = {str(tokens): piece for tokens, _ in sizes}
    # A full sequence may stand by while others go on.
    most |= {str(past): capacity - (sequences == 1) for _, past in sizes}
    least = {str(past): 0 for _, past in sizes} | {"outputs": 0}
    limits = [ShapeAttr((past + tokens, Dim.of(capacity))) for tokens, past in sizes]
    all_tokens = sum((tokens for tokens, _ in sizes), Dim.of(0))
    if sequences > 1:
        least |= {str(tokens): 0 for tokens, _ in sizes}
        limits.append(ShapeAttr((all_tokens, Dim.of(piece))))
    function.attributes["kaoken.max"] = _numbers({**most, "outputs": min(MAX_OUTPUTS, piece)})
    function.attributes["kaoken.least"] = _numbers(least)
    limits.append(ShapeAttr((OUTPUTS, all_tokens)))
    function.attributes["kaoken.limits"] = ArrayAttr(limits)


def _numbers(values: dict[str, int]) -> DictionaryAttr:
    return DictionaryAttr({name: int_attr(n) for name, n in values.items()})
