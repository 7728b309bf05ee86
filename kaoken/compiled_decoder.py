"""A compiled model that generates text, as a Python object: numpy and ctypes alone.

model = kaoken.load("smollm")
model.prefill(ids)
for token in model.stream(max_new_tokens=50):
    ...
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import numpy as np

from kaoken.backend.loader import Library
from kaoken.compiled_model import CompiledModel
from kaoken.errors import KaokenError
from kaoken.generation.choice import Choice, UserProcessor
from kaoken.generation.generate import (
    Callbacks,
    Prompts,
    Stopping,
    generate,
    prompts_of,
    random_of,
    recorded_of,
    strings_of,
    whole_tokens,
)
from kaoken.generation.options import MOST_GUESSES, GenerationOptions
from kaoken.generation.speculation import Speculation
from kaoken.texts import open_tokenizer

_FUNCTIONS = {
    "reset": (None, []),
    "prefill": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_int64]),
    "step": (ctypes.c_int, [ctypes.c_int64]),
    "logits": (ctypes.c_void_p, []),
    "best_token": (ctypes.c_int64, []),
    "length": (ctypes.c_int64, []),
    "rewind": (ctypes.c_int, [ctypes.c_int64]),
    "tokens": (ctypes.c_void_p, []),
    "guess": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_int64]),
    "lookup": (ctypes.c_int64, [ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64]),
}
_BATCH_FUNCTIONS = {
    "select": (ctypes.c_int, [ctypes.c_int64]),
    "step_batch": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]),
    "copy_sequence": (ctypes.c_int, [ctypes.c_int64, ctypes.c_int64]),
}
_STATE_FUNCTIONS = {
    "save": (ctypes.c_int, [ctypes.c_char_p]),
    "load": (ctypes.c_int, [ctypes.c_char_p]),
    "copy": (None, [ctypes.c_void_p]),
}


PIECE = 512
"""Tokens of a prompt that are computed without a look at whether Ctrl-C was pressed."""


class CompiledDecoder(CompiledModel):
    """One context of a decoder: the tokens it has seen, and the logits of what follows.

    For one caller at a time; `new_context` gives another one on the same weights. Raises
    KaokenError when the context is full, for a token outside the vocabulary, and for logits that
    are not numbers; the context then is as before. Ctrl-C between tokens leaves it usable as well.
    """

    def __init__(self, library: Library, threads: int | None = None):
        super().__init__(library, threads)
        generation = library.manifest["generation"]
        self.capacity: int = generation["capacity"]
        """The most tokens that the context holds."""
        self.end_tokens: tuple[int, ...] = tuple(generation["end_tokens"])
        self.batch: int = generation.get("batch", 1)
        """How many sequences a context holds; all calls are about the selected one."""
        self.vocabulary = int(library.manifest["outputs"][0]["shape"][-1])
        self._own = self._idle.pop()
        self._call = library.functions(_FUNCTIONS)
        if self.batch > 1:
            self._call |= library.functions(_BATCH_FUNCTIONS)
        self._guesses = np.empty(MOST_GUESSES, np.int64)
        self.reused = 0
        """How many tokens the last `begin` found in the context, and did not compute again."""
        self.speculation: Speculation | None = None
        """How guessing went in the last text of `generate` with prompt_lookup_num_tokens."""

    def new_context(self) -> Self:
        return type(self)(self._library, self.threads)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise KaokenError(
            f"{self.name} generates text: use prefill, step and generate, or `kaoken generate`"
        )

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        return self(*args, **kwargs)

    def profile(self, *args: Any, seconds: float = 1.0, **kwargs: Any) -> Any:
        raise KaokenError(f"{self.name} generates text: `kaoken bench` times such models")

    def __len__(self) -> int:
        """How many tokens the context holds."""
        return self._call["length"](self._own.handle)

    def __bool__(self) -> bool:
        return True

    def reset(self) -> None:
        """Forget all tokens."""
        self._call["reset"](self._own.handle)

    def prefill(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        """Add tokens behind those seen so far; gives `logits`.

        Ctrl-C ends it soon. What is interrupted or refused leaves the context with the tokens from
        before, whose logits are known again behind the next one.
        """
        ids = np.ascontiguousarray(whole_tokens(tokens), np.int64).reshape(-1)
        before = len(self)
        size = PIECE if self._takes(ids) else ids.size
        try:
            for start in range(0, max(ids.size, 1), size or 1):
                piece = ids[start : start + size]
                self._check(self._call["prefill"](self._own.handle, piece.ctypes.data, piece.size))
        except BaseException:
            if len(self) != before:
                self.rewind(before)
            raise
        return self.logits

    def _takes(self, ids: np.ndarray) -> bool:
        """Whether tokens fit; C says why not of all of them, before it computes any."""
        known = ((ids >= 0) & (ids < self.vocabulary)).all()
        return bool(known) and len(self) + ids.size <= self.capacity

    def step(self, token: int) -> np.ndarray:
        """Add one token; gives `logits`."""
        self._check(self._call["step"](self._own.handle, token))
        return self.logits

    @property
    def logits(self) -> np.ndarray:
        """float32 [vocabulary], what follows the last token: valid up to the next call.

        Raises KaokenError after a reset or rewind, when nothing has been added since.
        """
        address = self._call["logits"](self._own.handle)
        if not address:
            raise KaokenError("there are no logits: add a token first")
        return self._rows(address, 1)[0]

    def _rows(self, address: int, count: int) -> np.ndarray:
        values = (ctypes.c_float * (count * self.vocabulary)).from_address(address)
        return np.ctypeslib.as_array(values).reshape(count, self.vocabulary)

    @property
    def tokens(self) -> np.ndarray:
        """int64 [length], a copy of the tokens that the context holds."""
        address = self._call["tokens"](self._own.handle)
        return np.ctypeslib.as_array((ctypes.c_int64 * len(self)).from_address(address)).copy()

    def all_logits(self, tokens: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
        """What follows each of the tokens: float32 [rows, vocabulary], some rows at a time.

        Begins anew, and leaves the context empty. An array is valid up to the next one. How many
        rows come at once is the model's maximum of `outputs`: see `kaoken.evaluation`.
        """
        ids = np.ascontiguousarray(tokens, np.int64).reshape(-1)
        if ids.size > self.capacity:
            raise KaokenError(
                f"the context holds at most {self.capacity} tokens, but {ids.size} were given"
            )
        self.select(0)
        self.reset()
        limits = [name.removesuffix("_0") for name in self._library.symbols]
        largest = dict(zip(limits, self._library.symbols.values(), strict=True))
        piece = min(largest["tokens"], largest["outputs"])
        rows = np.empty((min(piece, ids.size), self.vocabulary), np.float32)
        for past in range(0, ids.size, piece):
            count = min(piece, ids.size - past)
            sizes = {"tokens": count, "past": past, "outputs": count}
            addresses = ids[past:].ctypes.data, rows.ctypes.data
            ordered = [sizes.get(name, 0) for name in limits]  # of other sequences nothing
            self._check(self._library.run(self._own.handle, *addresses, *ordered))
            yield rows[:count]

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self._check(self._call["rewind"](self._own.handle, length))

    def best_token(self) -> int:
        """The likeliest next token, the first of equals."""
        token = self._call["best_token"](self._own.handle)
        if token < 0:
            count = int(np.isnan(self.logits).sum())
            raise KaokenError(f"{count} of the logits are not numbers: the weights may be broken")
        return token

    def read(self, source: Sequence[int] | None) -> None:
        """Read what a text is made from: for models with an encoder."""

    def start(self, prompt: Sequence[int]) -> list[int]:
        """Take a prompt and nothing else; gives what the text begins with, which is the prompt."""
        self.begin(prompt)
        return list(prompt)

    def begin(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        """Hold these tokens and no others; gives `logits`.

        What the context has in common with them is not computed again; the bits are the same.
        """
        ids = np.ascontiguousarray(tokens, np.int64).reshape(-1)
        held = self.tokens[: ids.size]
        differing = np.flatnonzero(held != ids[: held.size])
        common = int(differing[0]) if differing.size else held.size
        if common == ids.size:
            self.rewind(common)
            self.reused = common
            if self._call["logits"](self._own.handle):
                return self.logits
        self.reused = min(common, max(ids.size - 1, 0))
        self.rewind(self.reused)
        return self.prefill(ids[self.reused :])

    def guess(self, tokens: Sequence[int]) -> np.ndarray:
        """Add a few tokens in one pass; gives float32 [tokens, vocabulary], what follows each.

        Valid up to the next call but `rewind`, which forgets those that turn out wrong.
        """
        ids = np.ascontiguousarray(tokens, np.int64)
        self._check(self._call["guess"](self._own.handle, ids.ctypes.data, ids.size))
        last = self._call["logits"](self._own.handle)
        return self._rows(last - 4 * self.vocabulary * (ids.size - 1), ids.size)

    def lookup(self, token: int, most: int) -> list[int]:
        """Guesses of what follows `token`, from an earlier place like this; up to 7, or none."""
        place = self._guesses.ctypes.data
        count = self._call["lookup"](self._own.handle, token, place, min(most, MOST_GUESSES))
        return self._guesses[:count].tolist()

    def select(self, sequence: int) -> None:
        """All other calls are about this sequence from now on, at first 0."""
        if self.batch > 1 or sequence:
            self._check(self._batch_call("select")(self._own.handle, sequence))

    def step_batch(self, tokens: Sequence[int], sequences: Sequence[int]) -> np.ndarray:
        """Add one token to each of some sequences, in one pass that reads each weight once.

        Gives float32 [sequences, vocabulary]; the last of the sequences is then the selected one.
        The bits are those that each sequence has alone.
        """
        ids, places = (np.ascontiguousarray(v, np.int64) for v in (tokens, sequences))
        if ids.shape != places.shape:
            raise KaokenError(f"{ids.size} tokens are given for {places.size} sequences")
        step = self._batch_call("step_batch")
        self._check(step(self._own.handle, places.ctypes.data, ids.ctypes.data, ids.size))
        rows = np.empty((ids.size, self.vocabulary), np.float32)
        for row, sequence in zip(rows, sequences, strict=True):
            self.select(sequence)
            row[:] = self.logits
        return rows

    def copy_sequence(self, to: int, sequence: int) -> None:
        """Make a sequence hold what another one of this context holds."""
        self._check(self._batch_call("copy_sequence")(self._own.handle, to, sequence))

    def _batch_call(self, verb: str) -> Any:
        if self.batch == 1:
            raise KaokenError(f"{self.name} goes on with one text: compile it with --batch")
        return self._call[verb]

    def save_state(self, path: str | Path) -> None:
        """Write what the context holds to a file: tokens, caches, logits.

        KaokenError when it cannot be written; a file of that name is then as before.
        """
        self._check(self._state("save")(self._own.handle, os.fsencode(path)))

    def load_state(self, path: str | Path) -> None:
        """Hold what `save_state` wrote, in any process with this build of the model.

        KaokenError for a file of another model, a truncated one and the like; the context is then
        as before.
        """
        self._check(self._state("load")(self._own.handle, os.fsencode(path)))

    def fork(self) -> Self:
        """A new context that holds the same; the two share nothing that changes."""
        other = self.new_context()
        other.take(self)
        return other

    def take(self, other: CompiledDecoder) -> None:
        """Hold what another context of the same model holds."""
        if other._library is not self._library:
            raise KaokenError(f"{other.name} and {self.name} are not contexts of one loaded model")
        self._state("copy")(self._own.handle, other._own.handle)

    def _state(self, verb: str) -> Any:
        try:
            return self._library.functions({verb: _STATE_FUNCTIONS[verb]})[verb]
        except AttributeError:
            raise KaokenError(f"{self.name} was compiled without saved states") from None

    def stream(self, max_new_tokens: int, end_tokens: Sequence[int] | None = None) -> Iterator[int]:
        """The likeliest continuation token by token, up to an end token or a full context.

        `end_tokens` are by default the model's; the one that ends the text is given as well.
        """
        ends = self.end_tokens if end_tokens is None else end_tokens
        if max_new_tokens < 1:
            return iter(())
        choice = Choice(GenerationOptions(), len(self), ends)
        return self.tokens_of(choice, [], max_new_tokens, ends)

    def tokens_of(
        self,
        choice: Choice,
        prompt: Sequence[int],
        limit: int,
        end_tokens: Sequence[int],
        speculation: Speculation | None = None,
    ) -> Generator[int]:
        """What follows the context's tokens, which are `prompt`, as `choice` chooses it.

        At most `limit` tokens, up to one of the end tokens, which is given as well, or a full
        context. With `speculation`, guesses are checked several in one pass.
        """
        tokens, most = list(prompt), len(prompt) + limit

        def chosen(logits: np.ndarray) -> int:
            tokens.append(choice(tokens, logits))
            return tokens[-1]

        yield chosen(self.logits)
        while tokens[-1] not in end_tokens and len(tokens) < most and len(self) < self.capacity:
            room = min(most - len(tokens), self.capacity - len(self)) - 1
            wanted = speculation.wanted(room) if speculation is not None else 0
            guesses = self.lookup(tokens[-1], wanted) if wanted else []
            if speculation is None or not guesses:
                yield chosen(self.step(tokens[-1]))
                continue
            with closing(self._verified(tokens[-1], guesses, chosen, speculation)) as run:
                for token in run:
                    yield token
                    if token in end_tokens:
                        return

    def _verified(
        self,
        token: int,
        guesses: list[int],
        chosen: Callable[[np.ndarray], int],
        speculation: Speculation,
    ) -> Generator[int]:
        """What follows `token`, up to and with the first token that no guess foretold."""
        kept, right = len(self) + 1, 0
        try:
            rows = self.guess([token, *guesses])
            for row, guess in zip(rows, [*guesses, None], strict=True):
                token = chosen(row)
                yield token
                if token != guess:
                    break
                right += 1
        finally:
            speculation.note(len(guesses), right)
            self.rewind(min(len(self), kept + right))

    def generate(
        self,
        input_ids: Any,
        max_new_tokens: int | None = None,
        *,
        attention_mask: Any = None,
        stop_strings: str | Sequence[str] | None = None,
        tokenizer: Any = None,
        streamer: Any = None,
        logits_processor: Sequence[UserProcessor] = (),
        stopping_criteria: Sequence[Stopping] = (),
        seed: int | None = None,
        generator: np.random.Generator | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Prompts with their continuations behind them, as `generate` of transformers.

        `input_ids` are one prompt [tokens], several [texts, tokens] with padding at the left where
        `attention_mask` is 0, or lists of any lengths. Gives int64 [texts, all tokens], padded at
        the right. `options` are those of `kaoken.generation.options.GenerationOptions`: do_sample,
        temperature, top_k, top_p, min_p, repetition_penalty, eos_token_id, max_length ...; what is
        not given is taken from the model's generation_config, else it is as in transformers.

        Draws follow `seed`, or `generator`. `stop_strings` end a text with the token that
        completes one; `tokenizer` reads them, by default the package's. `streamer`,
        `logits_processor` and `stopping_criteria` are called as transformers does, with numpy
        arrays. Raises KaokenError for an option out of its range. What the context held before is
        forgotten.
        """
        given = GenerationOptions.of(
            recorded_of(self.manifest), {"max_new_tokens": max_new_tokens, **options}
        )
        stop = strings_of(stop_strings)
        if stop and tokenizer is None:
            tokenizer = open_tokenizer(self.folder)
        callbacks = Callbacks(streamer, stopping_criteria, logits_processor, stop, tokenizer)
        prompts = self.prompts(input_ids, attention_mask)
        self.select(0)
        return generate(self, prompts, given, callbacks, random_of(seed, generator))

    def prompts(self, input_ids: Any, attention_mask: Any) -> Prompts:
        """What the texts of `generate` begin with, and are made from."""
        return prompts_of(input_ids, attention_mask)

    def _check(self, code: int) -> None:
        if code:
            raise KaokenError(self._library.error_of(self._own.handle))
