"""`generate` as transformers has it, on a compiled decoder: prompts in, all tokens out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from kaoken.errors import KaokenError
from kaoken.generation.beams import beam_search
from kaoken.generation.choice import Choice, UserProcessor
from kaoken.generation.lanes import Lanes
from kaoken.generation.options import GenerationOptions, at_least
from kaoken.generation.speculation import Speculation
from kaoken.generation.text import TextStream, ends_in

if TYPE_CHECKING:
    from kaoken.compiled_decoder import CompiledDecoder

Stopping = Callable[[np.ndarray, Any], Any]
"""transformers' convention: (ids [1, tokens], None) -> whether to stop."""


@dataclass(frozen=True)
class Callbacks:
    """What looks on while tokens come."""

    streamer: Any = None
    stopping: Sequence[Stopping] = ()
    processors: Sequence[UserProcessor] = ()
    stop_strings: Sequence[str] = ()
    tokenizer: Any = None


@dataclass(frozen=True)
class Prompts:
    """The prompts of one call: their tokens, and the array [texts, longest] that holds them."""

    tokens: list[list[int]]
    array: np.ndarray | None
    """As given; None for lists of different lengths."""
    sources: list[list[int]] | None = None
    """What each text is made from, for models with an encoder."""
    longest: int = field(init=False)

    def __post_init__(self) -> None:
        longest = max(map(len, self.tokens)) if self.array is None else self.array.shape[1]
        object.__setattr__(self, "longest", longest)

    def begins(self) -> list[Begin]:
        sources = self.sources or [None] * len(self.tokens)
        return [Begin(tokens, source) for tokens, source in zip(self.tokens, sources, strict=True)]


@dataclass(frozen=True)
class Begin:
    """What one text begins with, and what it is made from if the model has an encoder."""

    tokens: list[int]
    source: list[int] | None = None


def whole_tokens(ids: Any) -> np.ndarray:
    """Token ids as an array; KaokenError where they are of another type."""
    array = np.asarray(ids)
    if array.size and array.dtype.kind not in "iu":
        raise KaokenError(f"input_ids are whole numbers, not {array.dtype.name}")
    return array


def prompts_of(input_ids: Any, attention_mask: Any = None) -> Prompts:
    """One prompt [tokens], several [texts, tokens] padded at the left, or lists of any lengths."""
    if _is_ragged(input_ids):
        if attention_mask is not None:
            raise KaokenError("attention_mask goes with an array of prompts, not with lists")
        tokens = [[int(token) for token in prompt] for prompt in input_ids]
        array = None
    else:
        array = whole_tokens(input_ids)
        array = array.astype(np.int64)
        array = array[None] if array.ndim == 1 else array
        if array.ndim != 2:
            raise KaokenError(f"input_ids are [texts, tokens], not {array.ndim} dimensions")
        tokens = _without_padding(array, attention_mask)
    for n, prompt in enumerate(tokens):
        if not prompt:
            raise KaokenError(f"prompt {n} has no tokens: a text begins with at least one")
    if not tokens:
        raise KaokenError("there are no prompts")
    return Prompts(tokens, array)


def _is_ragged(input_ids: Any) -> bool:
    return (
        isinstance(input_ids, list | tuple)
        and len(input_ids) > 0
        and not np.isscalar(input_ids[0])
        and len({len(prompt) for prompt in input_ids}) > 1
    )


def _without_padding(array: np.ndarray, attention_mask: Any) -> list[list[int]]:
    if attention_mask is None:
        return array.tolist()
    mask = np.asarray(attention_mask)
    mask = mask[None] if mask.ndim == 1 else mask
    if mask.shape != array.shape:
        raise KaokenError(
            f"attention_mask is {list(mask.shape)}, but input_ids are {list(array.shape)}"
        )
    if not np.isin(mask, (0, 1)).all() or (np.diff(mask.astype(np.int8), axis=1) < 0).any():
        raise KaokenError("attention_mask has its zeros at the left, then ones: pad at the left")
    return [row[kept != 0].tolist() for row, kept in zip(array, mask, strict=True)]


def generate(
    decoder: CompiledDecoder,
    prompts: Prompts,
    options: GenerationOptions,
    callbacks: Callbacks,
    random: np.random.Generator,
) -> np.ndarray:
    """Each prompt with what follows it, int64 [texts, all tokens], padded at the right."""
    ends = decoder.end_tokens if options.end_tokens is None else options.end_tokens
    copies = options.num_return_sequences
    count = len(prompts.tokens) * copies
    if callbacks.streamer is not None and count > 1:
        raise KaokenError(f"a streamer follows one text, not {count}")
    for n, prompt in enumerate(prompts.tokens):
        if len(prompt) > decoder.capacity:
            raise KaokenError(
                f"prompt {n} has {len(prompt)} tokens, but the context holds at most "
                f"{decoder.capacity} tokens, prompt and answer together"
            )
    limit = options.new_tokens(prompts.longest)
    run = _Run(decoder, options, ends, callbacks, limit)
    begins = prompts.begins()
    if options.num_beams > 1:
        new = run.beams(begins, random)
    else:
        texts = [begin for begin in begins for _ in range(copies)]
        choices = [run.choice(b.tokens, r) for b, r in zip(texts, random.spawn(count), strict=True)]
        alone = count == 1 or decoder.batch == 1
        new = (run.in_turn if alone else run.side_by_side)(texts, choices)
    return _padded(prompts, copies, new, _pad_token(options, ends, new, prompts))


@dataclass(frozen=True)
class _Run:
    """The texts of one call, in one of the ways to make them."""

    decoder: CompiledDecoder
    options: GenerationOptions
    ends: Sequence[int]
    callbacks: Callbacks
    limit: int

    def choice(self, prompt: Sequence[int], random: np.random.Generator | None) -> Choice:
        calls = self.callbacks.processors
        return Choice(self.options, len(prompt), self.ends, random, calls, self.limit)

    def in_turn(self, texts: Sequence[Begin], choices: Sequence[Choice]) -> list[list[int]]:
        """One text after the other, with guesses where they are asked for."""
        new: list[list[int]] = []
        guesses = self.options.prompt_lookup_num_tokens
        before: Begin | None = None
        for text, choice in zip(texts, choices, strict=True):
            self.decoder.speculation = Speculation(guesses) if guesses else None
            if text is not before:
                self.decoder.read(text.source)
            before, prompt = text, text.tokens
            self.decoder.begin(prompt)
            run = self.decoder.tokens_of(
                choice, prompt, self.limit, self.ends, self.decoder.speculation
            )
            new.append(_watched(prompt, run, self.callbacks))
        return new

    def side_by_side(self, texts: Sequence[Begin], choices: Sequence[Choice]) -> list[list[int]]:
        """As many texts at once as the model was compiled for; one that ends makes room."""
        watches = [Watch(text.tokens, self.callbacks) for text in texts]
        with closing(Lanes(self.decoder, min(self.decoder.batch, len(texts)))) as lanes:
            self._fill(lanes, texts, choices, watches)
        return [watch.new for watch in watches]

    def _fill(
        self,
        lanes: Lanes,
        texts: Sequence[Begin],
        choices: Sequence[Choice],
        watches: Sequence[Watch],
    ) -> None:
        """Go on until all texts have ended."""
        waiting, at = deque(range(len(texts))), dict[int, int]()
        free, logits = list(range(lanes.count)), dict[int, np.ndarray]()
        while waiting or at:
            while waiting and free:
                lane = free.pop(0)
                at[lane] = waiting.popleft()
                begin = texts[at[lane]]
                lanes.read(lane, begin.source)
                logits[lane] = lanes.begin(lane, begin.tokens)
            for lane, text in list(at.items()):
                watch = watches[text]
                token = choices[text]([*texts[text].tokens, *watch.new], logits[lane])
                stops = watch.stops_at(token) or token in self.ends
                full = lanes.length(lane) == self.decoder.capacity
                if stops or full or len(watch.new) == self.limit:
                    free.append(lane)
                    del at[lane]
            if at:
                tokens = [watches[text].new[-1] for text in at.values()]
                logits = dict(zip(at, lanes.step(list(at), tokens), strict=True))

    def beams(self, begins: Sequence[Begin], random: np.random.Generator) -> list[list[int]]:
        """The best texts of each prompt."""
        self._check_beams()
        draws = random.spawn(len(begins)) if self.options.do_sample else [None] * len(begins)
        new: list[list[int]] = []
        with closing(Lanes(self.decoder, self.options.num_beams)) as lanes:
            for begin, draw in zip(begins, draws, strict=True):
                prompt = begin.tokens
                lanes.read(0, begin.source)
                limit = min(self.limit, self.decoder.capacity + 1 - len(prompt))
                choice, stops = self.choice(prompt, None), stopping_of(prompt, self.callbacks)
                found = beam_search(
                    lanes, prompt, self.options, choice, self.ends, limit, draw, stops
                )
                new += found[: self.options.num_return_sequences]
        return new

    def _check_beams(self) -> None:
        calls = self.callbacks
        for name, given in [
            ("prompt_lookup_num_tokens", self.options.prompt_lookup_num_tokens),
            ("a streamer", calls.streamer is not None),
        ]:
            if given:
                raise KaokenError(f"num_beams does not go with {name}: leave out one of them")


def _watched(prompt: Sequence[int], run: Generator[int], callbacks: Callbacks) -> list[int]:
    """The tokens of a run, up to where one of the callbacks stops it."""
    watch = Watch(prompt, callbacks)
    with closing(run):
        for token in run:
            if watch.stops_at(token):
                break
    watch.end()
    return watch.new


def stopping_of(prompt: Sequence[int], callbacks: Callbacks) -> Callable[[list[int]], bool] | None:
    """Whether new tokens end a text, for texts of which several are looked at in any order."""
    if not callbacks.stopping and not callbacks.stop_strings:
        return None

    def stops(new: list[int]) -> bool:
        asked = [_asks(criterion, [*prompt, *new]) for criterion in callbacks.stopping]
        return any(asked) or ends_in(callbacks.stop_strings, callbacks.tokenizer, prompt, new)

    return stops


def _asks(criterion: Stopping, tokens: list[int]) -> bool:
    return bool(np.all(criterion(np.array([tokens], np.int64), None)))


class Watch:
    """Tells the callbacks of one text's tokens, and whether they stop it."""

    def __init__(self, prompt: Sequence[int], callbacks: Callbacks):
        self.new: list[int] = []
        self._prompt, self._callbacks = list(prompt), callbacks
        stop, tokenizer = callbacks.stop_strings, callbacks.tokenizer
        self._text = TextStream(tokenizer, prompt, stop) if stop else None
        if callbacks.streamer is not None:
            callbacks.streamer.put(np.array([self._prompt], np.int64))

    def stops_at(self, token: int) -> bool:
        """Whether this is the last token."""
        self.new.append(token)
        if self._callbacks.streamer is not None:
            self._callbacks.streamer.put(np.array([token], np.int64))
        if self._text is not None:
            self._text.put(token)
        stopped = self._text is not None and self._text.stopped
        tokens = self._prompt + self.new
        return any([_asks(criterion, tokens) for criterion in self._callbacks.stopping]) or stopped

    def end(self) -> None:
        if self._callbacks.streamer is not None:
            self._callbacks.streamer.end()


def _pad_token(
    options: GenerationOptions, ends: Sequence[int], new: Sequence[list[int]], prompts: Prompts
) -> int:
    """What fills the rows; as in transformers the first end token unless another is given."""
    if options.pad_token_id is not None:
        return int(options.pad_token_id)
    if ends:
        return int(ends[0])
    if len(set(map(len, new))) > 1 or prompts.array is None:
        raise KaokenError("texts of different lengths need padding: give pad_token_id")
    return 0


def _padded(prompts: Prompts, copies: int, new: Sequence[list[int]], pad: int) -> np.ndarray:
    longest = max(map(len, new))
    result = np.full((len(new), prompts.longest + longest), pad, np.int64)
    for n, (row, tokens) in enumerate(zip(result, new, strict=True)):
        own = prompts.tokens[n // copies] if prompts.array is None else prompts.array[n // copies]
        row[prompts.longest - len(own) : prompts.longest] = own
        row[prompts.longest : prompts.longest + len(tokens)] = tokens
    return result


def random_of(seed: int | None, generator: np.random.Generator | None) -> np.random.Generator:
    """Where draws come from; KaokenError for a seed that is none, or both given."""
    if generator is not None:
        if seed is not None:
            raise KaokenError("give a seed or a generator, not both")
        return generator
    if seed is not None:
        at_least("seed", seed, 0)
    return np.random.default_rng(seed)


def strings_of(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Stop strings; KaokenError for an empty one, which would stop everything."""
    strings = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if "" in strings:
        raise KaokenError("a stop string is empty: give at least one character")
    return strings


def recorded_of(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's own defaults, as its generation_config gave them."""
    return manifest["generation"].get("defaults", {})
