"""What a module that generates text says about itself: its open sizes and what they may be.

`past` tokens are in the caches; a call adds `tokens` and gives the logits that follow the last
`outputs` of them: 0 for all pieces of a prompt but the last, 1 for a step, more to check guesses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, IntegerAttr, ModuleOp
from xdsl.dialects.func import FuncOp

from kaoken.dialect.attributes import ShapeAttr, int_attr
from kaoken.dialect.dims import Dim

if TYPE_CHECKING:
    import numpy as np

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


def source_symbol(sequence: int, count: int) -> Dim:
    """How many tokens the source of one of the `count` sequences of a context has."""
    return Dim.symbol(SOURCE if count == 1 else f"{SOURCE}_{sequence}")


def set_generation_sizes(
    function: FuncOp, capacity: int, sequences: int = 1, most_source: int | None = None
) -> None:
    """Bound the open sizes of a function whose caches hold `capacity` tokens of each sequence.

    `most_source` are the most tokens of what a text is made from, where it is made from one.
    """
    piece = min(MAX_PIECE, capacity)
    sizes = sequence_sizes(sequences)
    most = {str(tokens): piece for tokens, _ in sizes}
    # A full sequence may stand by while others go on.
    most |= {str(past): capacity - (sequences == 1) for _, past in sizes}
    least = {str(past): 0 for _, past in sizes} | {"outputs": 0}
    if most_source is not None:
        sources = [str(source_symbol(n, sequences)) for n in range(sequences)]
        most |= dict.fromkeys(sources, most_source)
        # A sequence without a source may stand by as well.
        least |= dict.fromkeys(sources, 0)
    limits = [ShapeAttr((past + tokens, Dim.of(capacity))) for tokens, past in sizes]
    all_tokens = sum((tokens for tokens, _ in sizes), Dim.of(0))
    if sequences > 1:
        least |= {str(tokens): 0 for tokens, _ in sizes}
        limits.append(ShapeAttr((all_tokens, Dim.of(piece))))
    function.attributes["kaoken.max"] = _numbers({**most, "outputs": min(MAX_OUTPUTS, piece)})
    function.attributes["kaoken.least"] = _numbers(least)
    limits.append(ShapeAttr((OUTPUTS, all_tokens)))
    function.attributes["kaoken.limits"] = ArrayAttr(limits)


def hand_on_source(module: ModuleOp, caches: dict[str, np.ndarray]) -> None:
    """What the caller of @encode does in a context of several sequences, for all of them.

    `caches` are those of the reference interpreter; see the pass `batch-sequences`.
    """
    facts = module.attributes.get(GENERATION)
    batch = facts.data.get("batch") if isinstance(facts, DictionaryAttr) else None
    if not isinstance(batch, IntegerAttr):
        return
    written = f".{batch.value.data}"
    for name in [name for name in caches if name.endswith(written)]:
        stem = name.removesuffix(written)
        caches |= {f"{stem}.{n}": caches[name].copy() for n in range(batch.value.data)}


def _numbers(values: dict[str, int]) -> DictionaryAttr:
    return DictionaryAttr({name: int_attr(n) for name, n in values.items()})
