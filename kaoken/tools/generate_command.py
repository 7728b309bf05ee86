"""`kaoken generate`: a prompt continued by a decoder, printed as it comes."""

from __future__ import annotations

import re
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaoken.compiler import load_decoder
from kaoken.errors import KaokenError
from kaoken.generation.choice import Choice
from kaoken.generation.generate import random_of, recorded_of, strings_of
from kaoken.generation.options import GenerationOptions
from kaoken.generation.speculation import Speculation
from kaoken.generation.text import TextStream
from kaoken.json_files import print_json
from kaoken.model_files import tokenizer_files
from kaoken.options import CompileOptions
from kaoken.texts import whole_tokenizer
from kaoken.tools.chat import chat_text

if TYPE_CHECKING:
    from kaoken.compiled_decoder import CompiledDecoder


MAX_TOKENS = 1024
"""The length of contexts where none is asked for."""


@dataclass
class Timing:
    """When the tokens of one text came, in seconds since the prompt was given."""

    prompt_tokens: int
    began: float = field(default_factory=time.perf_counter)
    arrivals: list[float] = field(default_factory=list)

    def mark(self) -> None:
        self.arrivals.append(time.perf_counter() - self.began)

    def summary(self) -> dict[str, Any]:
        count = len(self.arrivals)
        first = self.arrivals[0] if count else None
        span = self.arrivals[-1] - self.arrivals[0] if count > 1 else 0.0
        return {
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": count,
            "seconds_to_first_token": first,
            "tokens_per_second": (count - 1) / span if span else None,
        }


@dataclass(frozen=True)
class Request:
    """What the command line asks for besides the model."""

    prompt: str
    chat: bool = False
    stop: Sequence[str] = ()
    seed: int | None = None
    prefix_cache: Path | None = None
    """A file that keeps what the context holds behind the prompt."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Options of `GenerationOptions`, None where not given."""
    system: str | None = None
    """What comes before the prompt in a chat."""

    def options(self, recorded: Mapping[str, Any]) -> GenerationOptions:
        """Whoever gives an option of drawing draws; a temperature of 0 is the likeliest token.

        What is asked for comes before what the model records and does not go with it.
        """
        given = dict(self.sampling)
        if given.get("temperature") == 0:
            given |= {"temperature": None, "do_sample": False}
        elif self.seed is not None or any(given.get(name) is not None for name in _DRAWING):
            given |= {"do_sample": True}
        elif given.get("num_beams") is not None and given["num_beams"] > 1:
            given |= {"do_sample": False}
        single = given.get("do_sample") or given.get("prompt_lookup_num_tokens")
        if given.get("num_beams") is None and single:
            given |= {"num_beams": 1}
        try:
            return GenerationOptions.of(recorded, given)
        except KaokenError as error:
            raise KaokenError(_with_flags(str(error))) from None

    def check(self) -> None:
        """Raise KaokenError for what is wrong whatever the model is."""
        strings_of(self.stop)
        random_of(self.seed, None)
        if self.system is not None and not self.chat:
            raise KaokenError("--system is for chats: give --chat as well, or leave it out")
        options = self.options({})
        if options.num_beams > 1 and options.prompt_lookup_num_tokens:
            raise KaokenError("--num-beams does not go with --speculate: leave out one of them")

    @property
    def messages(self) -> list[dict[str, str]]:
        """What a chat template is given."""
        user = {"role": "user", "content": self.prompt}
        return [user] if self.system is None else [{"role": "system", "content": self.system}, user]


_DRAWING = ("temperature", "top_k", "top_p", "min_p")
_FLAGS = {"do_sample=False": "--temperature 0", "prompt_lookup_num_tokens": "--speculate"}
_FLAGS |= {
    name: f"--{name.replace('_', '-')}" for name in (*_DRAWING, "repetition_penalty", "num_beams")
}


def _with_flags(text: str) -> str:
    """A sentence about options of `generate`, with the names that the command line has for them."""
    return re.sub("|".join(_FLAGS), lambda found: _FLAGS[found[0]], text)


def run_generate(
    model: Path, request: Request, compiling: CompileOptions, max_tokens: int | None, as_json: bool
) -> None:
    """Print the continuation on stdout as it comes, and the speed on stderr."""
    request.check()
    if max_tokens is not None and is_compiled(model):
        raise KaokenError(f"{model} is compiled already: give --max-tokens to `kaoken compile`")
    decoder = open_decoder(model, compiling, max_tokens or MAX_TOKENS)
    if request.prefix_cache is not None and decoder.manifest.get("encoder"):
        raise KaokenError(f"{decoder.name} reads each source anew: leave out --prefix-cache")
    options = request.options(recorded_of(decoder.manifest))
    seed = secrets.randbits(32) if request.seed is None else request.seed
    tokenizer = decoder_tokenizer(decoder.folder, decoder.vocabulary)
    text = chat_text(decoder.folder, request.messages) if request.chat else request.prompt
    ids = tokenizer.encode(text, add_special_tokens=not request.chat).ids
    if request.prefix_cache is not None and request.prefix_cache.exists():
        load_prefix(decoder, request.prefix_cache)
    timing = Timing(len(ids))
    pieces: list[str] = []
    for piece in generate_text(decoder, tokenizer, ids, options, timing, request.stop, seed):
        pieces.append(piece)
        if not as_json:
            print(piece, end="", flush=True)
    if as_json:
        drawn = {"seed": seed} if options.do_sample else {}
        print_json({"text": "".join(pieces), **timing.summary(), **_savings(decoder), **drawn})
    else:
        print()
        print(_speed(timing, decoder), file=sys.stderr)
    if request.prefix_cache is not None and not request.prefix_cache.exists():
        decoder.rewind(min(len(ids), len(decoder)))
        decoder.save_state(request.prefix_cache)


def load_prefix(decoder: CompiledDecoder, path: Path) -> None:
    """Hold what an earlier call has kept. KaokenError says what to do about a file that is none."""
    try:
        decoder.load_state(path)
    except KaokenError as error:
        raise KaokenError(f"{error}: remove it, and it is made anew") from None


def _savings(decoder: CompiledDecoder) -> dict[str, Any]:
    """Tokens that were not computed, and how guessing went."""
    facts: dict[str, Any] = {"reused_tokens": decoder.reused}
    if decoder.speculation is not None:
        facts |= {"guessed": decoder.speculation.guessed, "accepted": decoder.speculation.accepted}
    return facts


def generate_text(
    decoder: CompiledDecoder,
    tokenizer: Any,
    ids: list[int],
    options: GenerationOptions,
    timing: Timing,
    stop: Sequence[str] = (),
    seed: int = 0,
) -> Iterator[str]:
    """The continuation in pieces of whole characters; Ctrl-C ends it."""
    if not ids:
        raise KaokenError("the prompt has no tokens: say something")
    if options.num_beams > 1:
        yield _best_beam(decoder, tokenizer, ids, options, timing, stop, seed)
        return
    (random,) = random_of(seed, None).spawn(1)  # that of the first text of `generate`
    ends, guesses = decoder.end_tokens, options.prompt_lookup_num_tokens
    decoder.speculation = Speculation(guesses) if guesses else None
    try:
        ids = decoder.start(ids)
        text = TextStream(tokenizer, ids, stop)
        limit = options.new_tokens(len(ids))
        choice = Choice(options, len(ids), ends, random, limit=limit)
        for token in decoder.tokens_of(choice, ids, limit, ends, decoder.speculation):
            timing.mark()
            if token in ends:
                break
            if piece := text.put(token):
                yield piece
            if text.stopped:
                break
        if piece := text.end():
            yield piece
    except KeyboardInterrupt:
        return


def _best_beam(
    decoder: CompiledDecoder,
    tokenizer: Any,
    ids: list[int],
    options: GenerationOptions,
    timing: Timing,
    stop: Sequence[str],
    seed: int,
) -> str:
    """The best of several texts, which is known only at the end."""
    found = decoder.generate(
        [ids], stop_strings=stop or None, tokenizer=tokenizer, seed=seed, **asdict(options)
    )[0].tolist()
    new = found[len(getattr(decoder, "start_tokens", ids)) :]
    size = next((n for n, token in enumerate(new) if token in decoder.end_tokens), len(new))
    timing.arrivals = [time.perf_counter() - timing.began] * size
    text = TextStream(tokenizer, ids, stop)
    return "".join(text.put(token) for token in new[:size]) + text.end()


def open_decoder(
    model: Path, options: CompileOptions, max_tokens: int, all_outputs: bool = False
) -> CompiledDecoder:
    """A compiled folder, or a model compiled into kaoken's cache unless it is there already.

    With `all_outputs` one call of what is compiled can give the logits behind all its tokens.
    """
    from kaoken.backend.cache import trim_packages
    from kaoken.backend.loader import is_package

    if not model.exists():
        raise KaokenError(f"there is no file or folder {model}")
    if is_compiled(model):
        _check_unused(model, options)
        return load_decoder(model, options.threads)
    folder = _cached(model, options, max_tokens, all_outputs)
    if not is_package(folder):
        _compile(model, folder, options, max_tokens, all_outputs)
        trim_packages()
    return load_decoder(folder, options.threads)


def is_compiled(model: Path) -> bool:
    """Whether a path is what `kaoken compile` wrote, or should be."""
    return model.is_dir() and not (model / "config.json").exists()


def _check_unused(package: Path, options: CompileOptions) -> None:
    """Raise KaokenError for what is asked of a model that is compiled otherwise."""
    plain = CompileOptions()
    for name in ("dtype", "kv", "target"):
        if getattr(options, name) != getattr(plain, name):
            raise KaokenError(f"{package} is compiled already: give --{name} to `kaoken compile`")


def _cached(model: Path, options: CompileOptions, max_tokens: int, all_outputs: bool) -> Path:
    """Where the package of a model is kept; one whose files change gets another place."""
    from kaoken.backend.cache import cached_package, content_key
    from kaoken.backend.names import c_identifier

    files = sorted(model.iterdir()) if model.is_dir() else [model]
    facts = [(file.resolve(), file.stat()) for file in files if file.is_file()]
    key = content_key(
        [
            *(f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in facts),
            f"{max_tokens} {all_outputs}",
            options.cache_key(),
        ]
    )
    return cached_package("decoders", key, c_identifier(model.stem.split(".")[0]).lower())


def _compile(
    model: Path, folder: Path, options: CompileOptions, max_tokens: int, all_outputs: bool
) -> None:
    from dataclasses import replace

    from kaoken.compiler import compile_module, import_model
    from kaoken.dialect.generation import GENERATION
    from kaoken.frontend.decoder import widen_outputs
    from kaoken.tools.compile_command import notes_of, progress_line

    options.check(folder)
    options = replace(options, copied_files=tokenizer_files(model))
    with progress_line() as progress:
        progress("import")
        module = import_model(model, max_tokens=max_tokens)
        if GENERATION not in module.attributes:
            raise KaokenError(f"{model} does not generate text: it is an encoder")
        if not any(file.name == "tokenizer.json" for file in options.copied_files):
            raise KaokenError(f"{model} has no tokenizer.json: copy the model's there")
        if all_outputs:
            widen_outputs(module)
        compile_module(module, folder, options, progress)
    for note in (*notes_of(module), f"compiled {model.name} ({progress.summary()})"):
        print(note, file=sys.stderr)


def decoder_tokenizer(folder: Path, vocabulary: int) -> Any:
    """The package's tokenizer. Raises KaokenError where there is none, or for another model.

    Tokens that were added to a tokenizer may have no row in the model's table: such a one, as a
    token to pad with, is refused where a text holds it.
    """
    tokenizer = whole_tokenizer(folder)
    if (size := tokenizer.get_vocab_size(with_added_tokens=False)) > vocabulary:
        raise KaokenError(
            f"{folder / 'tokenizer.json'} has {size} tokens, but the model {vocabulary}: "
            "it belongs to another model"
        )
    return tokenizer


def _speed(timing: Timing, decoder: CompiledDecoder) -> str:
    facts = timing.summary()
    first, rate = facts["seconds_to_first_token"], facts["tokens_per_second"]
    parts = [f"{facts['prompt_tokens']} + {facts['new_tokens']} tokens"]
    parts += [f"{first * 1000:.0f} ms to the first"] if first is not None else []
    parts += [f"then {rate:.1f} tokens/s"] if rate is not None else []
    parts += [f"{decoder.reused} of the prompt reused"] if decoder.reused else []
    if (guesses := decoder.speculation) is not None:
        parts.append(f"{guesses.accepted} of {guesses.guessed} guesses right")
    return ", ".join(parts)
