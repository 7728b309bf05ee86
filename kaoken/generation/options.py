"""What `generate` may be told: transformers' names, defaults and meaning.

    GenerationOptions.of(recorded, {"temperature": 0.7, "do_sample": True})

An option that is None counts as not given. What is not given comes from the model's own
generation_config, as far as the package has it recorded, else from transformers' defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

import numpy as np

from kaoken.errors import KaokenError

MOST_GUESSES = 7
"""Tokens that one pass can check behind a known one."""
DEFAULT_NEW_TOKENS = 20
EARLY_STOPPING = (True, False, "never")


@dataclass(frozen=True)
class GenerationOptions:
    """How a text goes on. Raises KaokenError for a value out of its range."""

    max_new_tokens: int | None = None
    """The most tokens to add; `max_length` counts the prompt's as well, and is the weaker one."""
    max_length: int | None = None
    min_new_tokens: int = 0
    """So many tokens come before the text may end."""
    min_length: int = 0
    """The same, but with the prompt's tokens; `min_new_tokens` comes before it."""
    no_repeat_ngram_size: int = 0
    """So many tokens never come a second time in the same order; 0: they may."""
    bad_words_ids: Sequence[Sequence[int]] = ()
    """Tokens in these orders never come."""
    suppress_tokens: Sequence[int] = ()
    """These tokens never come, and `begin_suppress_tokens` not as the first new one."""
    begin_suppress_tokens: Sequence[int] = ()
    forced_bos_token_id: int | None = None
    """What comes second in the text, as the language that a translation begins with."""
    forced_eos_token_id: int | Sequence[int] | None = None
    """What comes last in a text that reaches its greatest length."""
    do_sample: bool = False
    """Draw tokens; otherwise always take the likeliest."""
    temperature: float = 1.0
    top_k: int = 50
    """Only so many of the likeliest tokens are drawn from; 0: all."""
    top_p: float = 1.0
    """Only the likeliest tokens whose probabilities make up this much are drawn from."""
    min_p: float | None = None
    """Only tokens with at least this part of the likeliest one's probability are drawn."""
    repetition_penalty: float = 1.0
    num_return_sequences: int = 1
    """Texts for each prompt: samples, or the best beams."""
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    prompt_lookup_num_tokens: int = 0
    """The most guesses at a time, taken from earlier in the text; the result is the same."""
    eos_token_id: int | Sequence[int] | None = None
    pad_token_id: int | None = None

    @staticmethod
    def of(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> GenerationOptions:
        """The options of one call. KaokenError names an option that does not exist."""
        names = [field.name for field in fields(GenerationOptions)]
        if unknown := [name for name in given if name not in names]:
            raise KaokenError(f"generate has no option {unknown[0]}; it has {', '.join(names)}")
        own = {name: value for name, value in given.items() if value is not None}
        kept = {name: value for name, value in recorded.items() if name in names}
        if "max_new_tokens" in own or "max_length" in own:
            kept = {n: v for n, v in kept.items() if n not in ("max_new_tokens", "max_length")}
        return GenerationOptions(**(kept | own))

    def __post_init__(self) -> None:
        self._check_lengths()
        self._check_constraints()
        self._check_sampling()
        self._check_beams()

    def _check_lengths(self) -> None:
        for name in ("max_new_tokens", "max_length"):
            if (value := getattr(self, name)) is not None:
                at_least(name, value, 1)
        for name in ("min_new_tokens", "min_length", "no_repeat_ngram_size"):
            at_least(name, getattr(self, name), 0)
        _whole("prompt_lookup_num_tokens", self.prompt_lookup_num_tokens)
        _in_range("prompt_lookup_num_tokens", self.prompt_lookup_num_tokens, 0, MOST_GUESSES)

    def _check_constraints(self) -> None:
        for name in ("suppress_tokens", "begin_suppress_tokens"):
            _tokens(name, getattr(self, name))
        if self.forced_bos_token_id is not None:
            at_least("forced_bos_token_id", self.forced_bos_token_id, 0)
        if self.forced_eos_token_id is not None:
            _tokens("forced_eos_token_id", np.ravel(self.forced_eos_token_id).tolist())
        if isinstance(self.bad_words_ids, str) or not isinstance(self.bad_words_ids, Sequence):
            raise KaokenError(
                f"bad_words_ids is {self.bad_words_ids!r}, but must be lists of tokens"
            )
        for word in self.bad_words_ids:
            _tokens("a word of bad_words_ids", word)
            if not len(word):
                raise KaokenError("a word of bad_words_ids is empty: give at least one token")

    def _check_sampling(self) -> None:
        for name in ("temperature", "top_p", "min_p", "repetition_penalty", "length_penalty"):
            _number(name, getattr(self, name))
        likeliest = self.temperature == 0 and not self.do_sample
        if not likeliest and not 0 < self.temperature < float("inf"):
            raise KaokenError(
                f"temperature is {self.temperature}, but must be above 0: "
                "for the likeliest tokens say do_sample=False"
            )
        if not 0 < self.repetition_penalty < float("inf"):
            raise KaokenError(
                f"repetition_penalty is {self.repetition_penalty}, but must be above 0: "
                "1 is no penalty"
            )
        at_least("top_k", self.top_k, 0)
        _in_range("top_p", self.top_p, 0, 1)
        if self.min_p is not None:
            _in_range("min_p", self.min_p, 0, 1)

    def _check_beams(self) -> None:
        at_least("num_beams", self.num_beams, 1)
        at_least("num_return_sequences", self.num_return_sequences, 1)
        if self.early_stopping not in EARLY_STOPPING:
            raise KaokenError(
                f"early_stopping is {self.early_stopping!r}, but must be True, False or 'never'"
            )
        if 1 < self.num_beams < self.num_return_sequences:
            raise KaokenError(
                f"num_return_sequences is {self.num_return_sequences}, but there are only "
                f"num_beams = {self.num_beams}"
            )
        if self.num_beams == 1 < self.num_return_sequences and not self.do_sample:
            raise KaokenError(
                f"num_return_sequences is {self.num_return_sequences}, but without do_sample or "
                "num_beams all would be equal"
            )

    def new_tokens(self, prompt: int) -> int:
        """The most tokens to add to a prompt of that many; KaokenError where none may be added."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        if self.max_length is None:
            return DEFAULT_NEW_TOKENS
        if self.max_length <= prompt:
            raise KaokenError(
                f"max_length is {self.max_length}, but the prompt alone has {prompt} tokens: "
                "give max_new_tokens, or more"
            )
        return self.max_length - prompt

    @property
    def end_tokens(self) -> tuple[int, ...] | None:
        """Those given; None where the model's own hold."""
        if self.eos_token_id is None:
            return None
        return tuple(int(token) for token in np.ravel(self.eos_token_id))


def _whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or (not isinstance(value, int) and not hasattr(value, "__index__")):
        raise KaokenError(f"{name} is {value!r}, but must be a whole number")


def _tokens(name: str, value: Any) -> None:
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
        raise KaokenError(f"{name} is {value!r}, but must be a list of tokens")
    for token in value:
        at_least(f"a token of {name}", token, 0)


def _number(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, Real):
        raise KaokenError(f"{name} is {value!r}, but must be a number")


def at_least(name: str, value: Any, least: int) -> None:
    _whole(name, value)
    if value < least:
        raise KaokenError(f"{name} is {value}, but must be at least {least}")


def _in_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise KaokenError(f"{name} is {value}, but must be from {least} to {most}")
