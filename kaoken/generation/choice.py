"""The next token of one sequence: the likeliest, or one drawn by probability.

A drawn token takes one number of the random generator. So the n-th token of a text comes from the
n-th number, whichever way the logits were computed: one by one, in a batch, or by checking guesses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kaoken.errors import KaokenError
from kaoken.generation.options import GenerationOptions
from kaoken.generation.processors import Processor, of_options, of_sampling, softmax

UserProcessor = Callable[[np.ndarray, np.ndarray], Any]
"""transformers' convention: (ids [1, tokens], scores [1, vocabulary]) -> scores."""


class Choice:
    """Chooses the tokens of one sequence. `random` is needed for drawing alone."""

    def __init__(
        self,
        options: GenerationOptions,
        prompt: int,
        end_tokens: Sequence[int],
        random: np.random.Generator | None = None,
        processors: Sequence[UserProcessor] = (),
        limit: int | None = None,
    ):
        """`prompt` tokens are there, and at most `limit` come."""
        self._random = random if options.do_sample else None
        self._processors = of_options(options, prompt, end_tokens, limit)
        self._processors += [_of_user(processor) for processor in processors]
        if options.do_sample:
            self._processors += of_sampling(options, end_tokens)

    def __call__(self, tokens: Sequence[int], logits: np.ndarray) -> int:
        """The token behind `tokens`. Raises KaokenError for logits that are not numbers."""
        scores = self.scores(tokens, logits)
        if self._random is None:
            return check_logits(scores)
        return draw(scores, self._random)

    def scores(self, tokens: Sequence[int], logits: np.ndarray) -> np.ndarray:
        """The logits [vocabulary] as the options change them."""
        for processor in self._processors:
            logits = processor(tokens, logits)
        return logits


def draw(scores: np.ndarray, random: np.random.Generator) -> int:
    """A token by the probabilities that softmax gives the scores [vocabulary]."""
    check_logits(scores)
    tokens = np.flatnonzero(scores > -np.inf)
    below = np.cumsum(softmax(scores[tokens]), dtype=np.float64)
    at = np.searchsorted(below, random.random() * below[-1], side="right")
    return int(tokens[min(at, len(tokens) - 1)])


def check_logits(scores: np.ndarray) -> int:
    """The largest score's index, the first of equals; KaokenError where there is none."""
    best = int(scores.argmax())
    if np.isnan(scores[best]):
        count = int(np.isnan(scores).sum())
        raise KaokenError(f"{count} of the logits are not numbers: the weights may be broken")
    if scores[best] == -np.inf:
        raise KaokenError("no token is left to choose from: all logits are minus infinity")
    return best


def _of_user(processor: UserProcessor) -> Processor:
    def apply(tokens: Sequence[int], scores: np.ndarray) -> np.ndarray:
        ids = np.asarray(tokens, np.int64)[None]
        result = np.asarray(processor(ids, scores[None].copy()), np.float32)
        if result.shape != (1, len(scores)):
            raise KaokenError(
                f"a logits_processor gave {list(result.shape)} scores, not [1, {len(scores)}]"
            )
        return result[0]

    return apply
