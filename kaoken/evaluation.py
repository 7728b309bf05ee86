"""How well a decoder knows a text: perplexity, and how far its guesses are from another model's.

Perplexity is exp of the mean negative logarithm of the probability that the model gives to each
token after those before it (Jelinek et al., 1977). The text is read in windows that do not overlap,
as many tokens as the context holds, each from an empty context; a window begins with the token
that the tokenizer puts before a text, where it does so. The first token of a window without such a
one has nothing before it and does not count. So figures compare only at equal windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from kaoken.compiled_decoder import CompiledDecoder
from kaoken.errors import KaokenError

Progress = Callable[[int], None]
"""Told how many more tokens are done."""

_ROWS = 64
"""Logits that are worked on at once: what float64 makes of them fits the cache of a core."""


@dataclass
class Score:
    """What one model makes of a text."""

    losses: list[np.ndarray] = field(default_factory=list)
    """Of each predicted token its negative log-probability, in nats."""

    @property
    def predicted(self) -> int:
        return sum(map(len, self.losses))

    @property
    def perplexity(self) -> float:
        return float(np.exp(np.concatenate(self.losses).mean()))

    @property
    def error(self) -> float:
        """The standard error of the perplexity, were the tokens independent."""
        losses = np.concatenate(self.losses)
        return float(self.perplexity * losses.std() / np.sqrt(len(losses)))


@dataclass
class Comparison:
    """How a model's distributions differ from those of a reference, token by token."""

    divergences: list[np.ndarray] = field(default_factory=list)
    """Kullback-Leibler, of the reference from the model, in nats."""
    agreements: list[np.ndarray] = field(default_factory=list)
    """Whether both have the same likeliest token."""

    @property
    def divergence(self) -> float:
        """sum of p log(p / q) over the vocabulary, the mean over tokens; p the reference's."""
        return float(np.concatenate(self.divergences).mean())

    @property
    def agreement(self) -> float:
        """The share of tokens where the likeliest is the same."""
        return float(np.concatenate(self.agreements).mean())


def windows_of(ids: Sequence[int], size: int, before: Sequence[int] = ()) -> list[np.ndarray]:
    """The text in pieces of up to `size` tokens, `before` at the start of each.

    The last one is dropped when nothing in it can be predicted. Raises KaokenError when that leaves
    none.
    """
    new = size - len(before)
    if new < 1:
        raise KaokenError(f"windows of {size} tokens are too small: give at least 2")
    starts = range(0, len(ids), new)
    windows = [np.array([*before, *ids[at : at + new]], np.int64) for at in starts]
    kept = [window for window in windows if len(window) > 1]
    if not kept:
        raise KaokenError("the text has too few tokens: give at least 2")
    return kept


def evaluate(
    model: CompiledDecoder,
    windows: Sequence[np.ndarray],
    reference: CompiledDecoder | None = None,
    progress: Progress = lambda tokens: None,
) -> tuple[Score, Score | None, Comparison | None]:
    """The scores of a model and, if there is one, a reference on the same windows.

    Raises KaokenError when their vocabularies differ, for a token outside the vocabulary, and for
    logits that are not numbers.
    """
    if reference is not None:
        other, [(score, comparison)] = evaluate_beside(reference, [model], windows, progress)
        return score, other, comparison
    score = Score()
    for window in windows:
        for at, rows in log_probabilities(model, window):
            score.losses.append(_losses(rows, window[at:]))
            progress(len(rows))
    return score, None, None


def evaluate_beside(
    reference: CompiledDecoder,
    models: Sequence[CompiledDecoder],
    windows: Sequence[np.ndarray],
    progress: Progress = lambda tokens: None,
) -> tuple[Score, list[tuple[Score, Comparison]]]:
    """The score of a reference, and of each model its own and how it differs, in one reading.

    Raises KaokenError as `evaluate`.
    """
    for model in models:
        if reference.vocabulary != model.vocabulary:
            raise KaokenError(
                f"{model.name} has {model.vocabulary} tokens, {reference.name} "
                f"{reference.vocabulary}: only models of one vocabulary can be compared"
            )
    other, found = Score(), [(Score(), Comparison()) for _ in models]
    for window in windows:
        for at, (p, *rows) in _in_step([reference, *models], window):
            other.losses.append(_losses(p, window[at:]))
            probability, best = np.exp(p), p.argmax(1)
            for (score, comparison), q in zip(found, rows, strict=True):
                score.losses.append(_losses(q, window[at:]))
                comparison.divergences.append((probability * (p - q)).sum(1))
                comparison.agreements.append(best == q.argmax(1))
            progress(len(p))
    return other, found


def log_probabilities(
    model: CompiledDecoder, window: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """For tokens 1, 2 ... of a window the place of the first, and rows float64 [some, vocabulary].

    Row i holds the logarithms of the probabilities of what stands at that place + i.
    """
    place = 1
    for logits in model.all_logits(window[:-1]):
        for start in range(0, len(logits), _ROWS):
            rows = log_softmax(logits[start : start + _ROWS])
            if not np.isfinite(rows).all():
                raise KaokenError(f"{model.name} gives logits that are not numbers")
            yield place, rows
            place += len(rows)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """x - log(sum(exp(x))) of each row, in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def _losses(rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    return -rows[np.arange(len(rows)), tokens[: len(rows)]]


def _in_step(
    models: Sequence[CompiledDecoder], window: np.ndarray
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """`log_probabilities` of all, cut where any of them has a piece's end."""
    streams = [log_probabilities(one, window) for one in models]
    place, last = 1, len(window)
    held = [np.empty((0, one.vocabulary)) for one in models]
    while place < last:
        for i, stream in enumerate(streams):
            if len(held[i]) == 0:
                held[i] = next(stream)[1]
        count = min(map(len, held))
        yield place, [rows[:count] for rows in held]
        held = [rows[count:] for rows in held]
        place += count
