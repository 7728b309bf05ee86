"""What happens to logits before a token is drawn: transformers' logit processors in numpy.

Each takes one sequence's scores, float32 [vocabulary], and gives new ones; what may not be drawn
is -inf. `of_options` puts them into transformers' order. Sources: `repetition_penalty` Keskar et
al. (arXiv 1909.05858), `top_p` Holtzman et al. (arXiv 1904.09751), `min_p` Nguyen et al. (arXiv
2407.01082).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from kaoken.errors import KaokenError
from kaoken.generation.options import GenerationOptions

Processor = Callable[[Sequence[int], np.ndarray], np.ndarray]
"""(the tokens so far, scores [vocabulary]) -> scores."""


def of_options(
    options: GenerationOptions, prompt: int, end_tokens: Sequence[int], limit: int | None = None
) -> list[Processor]:
    """What these options ask for in any mode.

    `prompt` is how many tokens came before, `limit` the most that come now, where that is known.
    """
    found: list[Processor] = []
    if options.repetition_penalty != 1.0:
        found.append(partial(repetition_penalty, options.repetition_penalty))
    if options.no_repeat_ngram_size:
        found.append(partial(no_repeated_ngram, options.no_repeat_ngram_size))
    if words := [word for word in options.bad_words_ids if list(word) not in _single(end_tokens)]:
        found.append(partial(no_bad_words, words))
    least = prompt + options.min_new_tokens if options.min_new_tokens else options.min_length
    if least > prompt and end_tokens:
        found.append(partial(no_early_end, least, end_tokens))
    return found + _of_places(options, prompt, limit)


def _of_places(options: GenerationOptions, prompt: int, limit: int | None) -> list[Processor]:
    """What is forced or left out at some places of the text, or everywhere."""
    found: list[Processor] = []
    first, last = options.forced_bos_token_id, options.forced_eos_token_id
    if first is not None:
        found.append(partial(forced, 1, [first]))
    if limit is not None and (last_ones := [] if last is None else np.ravel(last).tolist()):
        found.append(partial(forced, prompt + limit - 1, last_ones))
    if len(options.suppress_tokens):
        found.append(partial(suppressed, options.suppress_tokens, None))
    if len(options.begin_suppress_tokens):
        begin = prompt if prompt > 1 or first is None else prompt + 1
        found.append(partial(suppressed, options.begin_suppress_tokens, begin))
    return found


def of_sampling(options: GenerationOptions, end_tokens: Sequence[int]) -> list[Processor]:
    """What comes behind them where tokens are drawn; beams keep a token besides those that end."""
    keep = 1 + len(end_tokens) if options.num_beams > 1 else 1
    found: list[Processor] = []
    if options.temperature != 1.0:
        found.append(lambda _, scores: temperature(options.temperature, scores))
    if options.top_k:
        found.append(lambda _, scores: top_k(max(options.top_k, keep), scores))
    if options.top_p < 1.0:
        found.append(lambda _, scores: top_p(options.top_p, scores, keep))
    if options.min_p is not None:
        smallest = options.min_p
        found.append(lambda _, scores: min_p(smallest, scores, keep))
    return found


def repetition_penalty(penalty: float, tokens: Sequence[int], scores: np.ndarray) -> np.ndarray:
    """Scores of tokens that have come already: divided by the penalty, or times it below 0."""
    seen = np.unique(np.asarray(tokens, np.int64))
    seen = seen[seen < len(scores)]
    old, scores = scores[seen], scores.copy()
    scores[seen] = np.where(old < 0, old * np.float32(penalty), old / np.float32(penalty))
    return scores


def no_repeated_ngram(size: int, tokens: Sequence[int], scores: np.ndarray) -> np.ndarray:
    """No token that would make the last `size` tokens what has come before."""
    if len(tokens) < size:
        return scores
    ids = np.asarray(tokens, np.int64)
    ngrams = np.lib.stride_tricks.sliding_window_view(ids, size)
    again = (ngrams[:, :-1] == ids[len(ids) - size + 1 :]).all(1)
    scores = scores.copy()
    scores[ngrams[again, -1]] = -np.inf
    return scores


def no_bad_words(
    words: Sequence[Sequence[int]], tokens: Sequence[int], scores: np.ndarray
) -> np.ndarray:
    """No token that would be the last one of a word."""
    scores = scores.copy()
    for word in words:
        if not word[-1] < len(scores):
            raise KaokenError(
                f"bad_words_ids has the token {word[-1]}, but the vocabulary {len(scores)} tokens"
            )
        before = list(word[:-1])
        if not before or list(tokens[-len(before) :]) == before:
            scores[word[-1]] = -np.inf
    return scores


def _single(tokens: Sequence[int]) -> list[list[int]]:
    return [[token] for token in tokens]


def forced(at: int, only: Sequence[int], tokens: Sequence[int], scores: np.ndarray) -> np.ndarray:
    """Behind `at` tokens nothing but these."""
    if len(tokens) != at:
        return scores
    if max(only) >= len(scores):
        raise KaokenError(
            f"the forced token {max(only)} is not among the vocabulary's {len(scores)} tokens"
        )
    result = np.full_like(scores, -np.inf)
    result[list(only)] = 0
    return result


def suppressed(
    which: Sequence[int], at: int | None, tokens: Sequence[int], scores: np.ndarray
) -> np.ndarray:
    """None of these tokens, behind `at` tokens or anywhere."""
    if at is not None and len(tokens) != at:
        return scores
    scores = scores.copy()
    scores[[token for token in which if token < len(scores)]] = -np.inf
    return scores


def no_early_end(
    least: int, ends: Sequence[int], tokens: Sequence[int], scores: np.ndarray
) -> np.ndarray:
    """No token that ends the text before there are `least` tokens."""
    if len(tokens) >= least:
        return scores
    scores = scores.copy()
    scores[[token for token in ends if 0 <= token < len(scores)]] = -np.inf
    return scores


def temperature(value: float, scores: np.ndarray) -> np.ndarray:
    return scores / np.float32(value)


def top_k(count: int, scores: np.ndarray) -> np.ndarray:
    """Only the `count` largest, and what equals the smallest of them."""
    count = min(count, len(scores))
    least = np.partition(scores, -count)[-count]
    return np.where(scores < least, np.float32(-np.inf), scores)


def top_p(mass: float, scores: np.ndarray, keep: int = 1) -> np.ndarray:
    """Only the likeliest whose probabilities add up to `mass`, the one that reaches it included."""
    open_ = np.flatnonzero(scores > -np.inf)
    ascending = open_[np.argsort(scores[open_], kind="stable")]
    # Summed in float64 and rounded, as PyTorch does on CPUs.
    below = np.cumsum(softmax(scores[ascending]), dtype=np.float64).astype(np.float32)
    out = below <= np.float32(1 - mass)
    out[-keep:] = False
    result = scores.copy()
    result[ascending[out]] = -np.inf
    return result


def min_p(part: float, scores: np.ndarray, keep: int = 1) -> np.ndarray:
    """Only what has `part` of the largest probability, and at least `keep` tokens."""
    probabilities = softmax(scores)
    out = probabilities < np.float32(part) * probabilities.max()
    out[np.argpartition(probabilities, -keep)[-keep:]] = False
    return np.where(out, np.float32(-np.inf), scores)


def softmax(scores: np.ndarray) -> np.ndarray:
    """float32 [n] -> float32 [n], of sum 1."""
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """float32 [..., n] -> float32 [..., n], along the last axis."""
    shifted = scores - scores.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
