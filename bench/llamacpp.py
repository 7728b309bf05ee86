"""Where the texts of kaoken and llama.cpp part on one GGUF file, and how far both are from float32.

    python bench/llamacpp.py [--model FILE] [--tokens 50] [--write]

llama.cpp goes on from each prompt, the likeliest token at each step. kaoken, with the weights of
the file as they are, and kaoken with the same weights as float32 read that text; so all three give
logits behind the same tokens. Up to where kaoken would choose another token, its own text is the
same.

The error of a program at a step is the standard deviation, over the vocabulary, of its logits less
those of float32 (a number added to all logits changes nothing). Where the programs choose two
tokens, `gap` is how far apart float32 has the two likeliest ones.
"""

# pyright: reportMissingImports=false
# (llama-cpp-python is not among the extras: it is compiled when it is installed)

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from documentation import PAGE, write_block
from rich.console import Console

from kaoken.bench.decoder_models import smollm2_file
from kaoken.bench.decoders.llama_cpp_decoder import LlamaCpp
from kaoken.bench.tables import Table
from kaoken.compiled_decoder import CompiledDecoder
from kaoken.options import CompileOptions
from kaoken.tools.generate_command import decoder_tokenizer, open_decoder

QUALITY_PAGE = PAGE.parent / "quality.md"
CONTEXT = 256
PROMPTS = (
    "The capital of France is",
    "Once upon a time",
    "def fibonacci(n):",
    "Water boils at",
    "The largest planet in our solar system",
    "My favourite food is",
    "In 1969, humans",
    "The quick brown fox",
    "To make a cup of tea, first",
    "Machine learning is",
)


@dataclass(frozen=True)
class Comparison:
    """Logits behind each token of one text, [tokens, vocabulary] each."""

    prompt: str
    kaoken: np.ndarray
    llama: np.ndarray
    plain: np.ndarray
    """Those of float32."""

    @property
    def chosen(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The likeliest token at each step: kaoken's, llama.cpp's, that of float32."""
        return self.kaoken.argmax(-1), self.llama.argmax(-1), self.plain.argmax(-1)

    @property
    def parted(self) -> np.ndarray:
        """The steps at which the programs choose two tokens."""
        ours, theirs, _ = self.chosen
        return np.flatnonzero(ours != theirs)

    @property
    def gaps(self) -> np.ndarray:
        """How far apart float32 has the two likeliest tokens of each step."""
        top = np.partition(self.plain, -2)[:, -2:]
        return top[:, 1] - top[:, 0]

    @property
    def errors(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each step kaoken's and llama.cpp's."""
        return (self.kaoken - self.plain).std(-1), (self.llama - self.plain).std(-1)


def main() -> None:
    options = arguments()
    model = options.model or smollm2_file()
    silence(llama_cpp)
    found = list(compared(model, options.tokens))
    tables = [texts(found, model), partings(found)]
    for table in tables:
        Console(width=140).print(table.rich())
    if options.write:
        write_block("llama.cpp", tables, QUALITY_PAGE)


def silence(library: Any) -> None:
    """Keep llama.cpp from telling what it loads."""
    quiet = library.llama_log_callback(lambda *_: None)
    library.llama_log_set(quiet, None)
    library.quiet = quiet  # It must live as long as the library.


def compared(model: Path, count: int) -> Iterator[Comparison]:
    """The comparison of each prompt, `count` tokens long."""
    kept, plain = (
        open_decoder(model, CompileOptions(dtype=dtype), CONTEXT, all_outputs=True)
        for dtype in ("auto", "f32")
    )
    llama = LlamaCpp(model, CONTEXT, 1)
    tokenizer: Any = decoder_tokenizer(kept.folder, kept.vocabulary)
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt).ids
        theirs, tokens = continued(llama, ids, count)
        ours, exact = (behind(one, ids, tokens) for one in (kept, plain))
        yield Comparison(prompt, ours, theirs, exact)


def continued(model: LlamaCpp, prompt: list[int], count: int) -> tuple[np.ndarray, list[int]]:
    """The logits of so many greedy steps, and the tokens that they choose."""
    model.clear()
    rows = [model.add(np.array(prompt)).copy()]
    while len(rows) < count:
        rows.append(model.add(np.array([rows[-1].argmax()])).copy())
    return np.array(rows), [int(row.argmax()) for row in rows]


def behind(model: CompiledDecoder, prompt: list[int], tokens: list[int]) -> np.ndarray:
    """The logits that each of the tokens is chosen by."""
    rows = np.concatenate(list(model.all_logits([*prompt, *tokens[:-1]])))
    return rows[len(prompt) - 1 :]


def texts(found: list[Comparison], model: Path) -> Table:
    """How long the texts are the same, and both programs' errors, prompt by prompt."""
    header = ("prompt", "same tokens", "parted at", "kaoken's error", "llama.cpp's error")
    table = Table(f"{model.stem}: texts of kaoken and llama.cpp", header)
    for one in found:
        first = one.parted[0] if len(one.parted) else len(one.plain)
        ours, theirs = (error.mean() for error in one.errors)
        cells = (str(first), str(len(one.parted)), f"{ours:.3f}", f"{theirs:.3f}")
        table.rows.append((one.prompt, *cells))
    agree = [[a == c, b == c] for one in found for a, b, c in zip(*one.chosen, strict=True)]
    ours, theirs = np.mean(agree, axis=0)
    table.notes = [
        f"Of {len(agree)} steps kaoken chooses the token of float32 in {ours:.1%}, llama.cpp in "
        f"{theirs:.1%}. `parted at` counts the steps at which the two choose differently."
    ]
    return table


def partings(found: list[Comparison]) -> Table:
    """Every step at which the programs choose two tokens."""
    header = ("prompt", "step", "gap", "kaoken's error", "llama.cpp's error", "float32 is with")
    table = Table("Steps at which they choose two tokens", header)
    ratios = []
    for one in found:
        ours, theirs, exact = (tokens.tolist() for tokens in one.chosen)
        for step in one.parted:
            a, b = (float(error[step]) for error in one.errors)
            gap = float(one.gaps[step])
            ratios.append(gap / np.hypot(a, b))
            names = {ours[step]: "kaoken", theirs[step]: "llama.cpp"}
            side = names.get(exact[step], "neither")
            numbers = (f"{gap:.3f}", f"{a:.3f}", f"{b:.3f}")
            table.rows.append((one.prompt, str(step), *numbers, side))
    everywhere = np.concatenate([one.gaps for one in found])
    if ratios:
        table.notes = [
            f"The gap is at most {max(ratios):.1f} times the two errors together (the root of the "
            f"sum of their squares), {np.median(ratios):.1f} times in the middle. Over all steps "
            f"the gap is {np.median(everywhere):.2f} in the middle."
        ]
    return table


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", type=Path, help="another GGUF file than SmolLM2's")
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--write", action="store_true", help="into docs/quality.md too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
