"""Beam search, as transformers has it: the most likely texts among several that are followed.

Each beam is a lane. A beam that goes on in two ways is copied into the lane of one that ends.
Scores, and when a text is done, are those of `GenerationMixin._beam_search` for one prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from kaoken.generation.choice import Choice, check_logits
from kaoken.generation.lanes import Lanes
from kaoken.generation.options import GenerationOptions
from kaoken.generation.processors import log_softmax

_NEVER = np.float32(-1e9)


@dataclass
class _Texts:
    """Some texts, the best first: their new tokens, and sums of logarithms of probabilities."""

    tokens: list[list[int]]
    scores: np.ndarray
    ended: np.ndarray
    parents: list[int] = field(default_factory=list)
    """Which beam each comes from."""

    @staticmethod
    def begin(count: int, first: float) -> _Texts:
        scores = np.full(count, _NEVER, np.float32)
        scores[0] = first
        return _Texts([[] for _ in range(count)], scores, np.zeros(count, bool), [0] * count)

    def best(self, scores: np.ndarray, count: int) -> _Texts:
        """The `count` texts with the largest of these scores, which become theirs."""
        order = np.argsort(-scores, kind="stable")[:count]
        return _Texts(
            [self.tokens[k] for k in order],
            scores[order],
            self.ended[order],
            [self.parents[k] for k in order],
        )


def beam_search(
    lanes: Lanes,
    prompt: Sequence[int],
    options: GenerationOptions,
    choice: Choice,
    end_tokens: Sequence[int],
    limit: int,
    random: np.random.Generator | None = None,
    stops: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:
    """The new tokens of the best texts, `num_beams` of them, the best first.

    `choice` changes the logarithms of probabilities as the options say. At most `limit` tokens.
    Continuations are the likeliest, or with `random` drawn. A text also ends where `stops` says so
    of its new tokens.
    """
    return _Search(lanes, list(prompt), options, choice, end_tokens, limit, random, stops).run()


@dataclass
class _Search:
    lanes: Lanes
    prompt: list[int]
    options: GenerationOptions
    choice: Choice
    end_tokens: Sequence[int]
    limit: int
    random: np.random.Generator | None
    stops: Callable[[list[int]], bool] | None

    def run(self) -> list[list[int]]:
        count = self.lanes.count
        running, done = _Texts.begin(count, 0.0), _Texts.begin(count, float(_NEVER))
        places = [0] * count
        rows = np.repeat(self.lanes.begin(0, self.prompt)[None], count, axis=0)
        hopeful = True
        for length in range(1, self.limit + 1):
            found = self._continuations(running, rows, length)
            running = found.best(found.scores + found.ended * _NEVER, count)
            done = self._finished(done, found, length, hopeful)
            hopeful = hopeful and self._can_improve(running, done, length)
            full = bool(done.ended.all()) and self.options.early_stopping is True
            if not hopeful or full or found.ended.all():
                break
            places = self._reordered([places[parent] for parent in running.parents])
            rows = self.lanes.step(places, [tokens[-1] for tokens in running.tokens])
        return done.tokens

    def _continuations(self, running: _Texts, rows: np.ndarray, length: int) -> _Texts:
        """More continuations than beams, so that enough are left where some end."""
        scores = [
            score + self._scores(tokens, row)
            for tokens, score, row in zip(running.tokens, running.scores, rows, strict=True)
        ]
        flat, vocabulary = np.concatenate(scores), rows.shape[1]
        keep = min(max(2, 1 + len(self.end_tokens)) * self.lanes.count, flat.size)
        best = self._best(flat, keep)
        parents, last = (best // vocabulary).tolist(), (best % vocabulary).tolist()
        texts = [
            [*running.tokens[parent], token] for parent, token in zip(parents, last, strict=True)
        ]
        ended = np.isin(last, list(self.end_tokens)) | (length == self.limit)
        if self.stops is not None:
            ended |= [self.stops(text) for text in texts]
        return _Texts(texts, flat[best], ended, parents)

    def _best(self, scores: np.ndarray, count: int) -> np.ndarray:
        """The places of the largest scores, the largest first, or of as many drawn ones.

        The largest of scores with Gumbel noise are what one draws by their probabilities, one after
        the other without putting back (Kool et al., arXiv 1903.06059).
        """
        if self.random is not None:
            scores = scores + self.random.gumbel(size=scores.size)
        best = np.argpartition(-scores, count - 1)[:count]
        return best[np.lexsort((best, -scores[best]))]

    def _scores(self, tokens: list[int], row: np.ndarray) -> np.ndarray:
        check_logits(row)
        return self.choice.scores([*self.prompt, *tokens], log_softmax(row))

    def _finished(self, done: _Texts, found: _Texts, length: int, hopeful: bool) -> _Texts:
        """The best of the texts that are done and those that end now among the first beams."""
        ends = found.ended & (np.arange(len(found.ended)) < self.lanes.count)
        scores = found.scores / np.float32(length**self.options.length_penalty)
        if not hopeful or (done.ended.all() and self.options.early_stopping is True):
            scores = scores + _NEVER
        scores = scores + ~ends * _NEVER
        both = _Texts(
            done.tokens + found.tokens,
            np.concatenate([done.scores, scores]),
            np.concatenate([done.ended, ends]),
            done.parents + found.parents,
        )
        return both.best(both.scores, self.lanes.count)

    def _can_improve(self, running: _Texts, done: _Texts, length: int) -> bool:
        """Whether a running text might become better than the worst that is done."""
        penalty = self.options.length_penalty
        longest = self.options.early_stopping == "never" and penalty > 0
        possible = running.scores[0] / (self.limit if longest else length) ** penalty
        worst = np.where(done.ended, done.scores.min(), _NEVER)
        return bool((possible > worst).any())

    def _reordered(self, wanted: list[int]) -> list[int]:
        """The lanes of the new beams, of which the old lanes are `wanted`."""
        free = [lane for lane in range(self.lanes.count) if lane not in wanted]
        places: list[int] = []
        for lane in wanted:
            if lane in places:
                self.lanes.copy(free[-1], lane)
                lane = free.pop()
            places.append(lane)
        return places
