"""`kaoken eval`: how well a decoder knows a text, and how near it is to another one."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaoken.errors import KaokenError
from kaoken.evaluation import Progress, Score, evaluate, windows_of
from kaoken.json_files import print_json
from kaoken.options import CompileOptions
from kaoken.tools.generate_command import decoder_tokenizer, open_decoder

if TYPE_CHECKING:
    from kaoken.compiled_decoder import CompiledDecoder


@dataclass(frozen=True)
class Request:
    """What to read, and beside which model."""

    text: Path
    tokens: int | None = None
    """How many of the text's tokens are read; None for all."""
    window: int = 1024
    against: Path | None = None


def run_eval(model: Path, request: Request, options: CompileOptions, as_json: bool) -> None:
    """Print the perplexity and, beside a reference, the divergence from it. Raises KaokenError."""
    from kaoken.backend.loader import is_package

    text = read_text(request.text)
    if request.against is not None and not request.against.exists():
        raise KaokenError(f"there is no file or folder {request.against}")
    decoder = open_decoder(model, options, request.window, all_outputs=True)
    reference = None
    if request.against is not None:
        compiled = is_package(request.against)
        plain = CompileOptions(threads=options.threads)
        plain = plain if compiled else replace(options, dtype="f32", kv="f32")
        reference = open_decoder(request.against, plain, request.window, all_outputs=True)
    figures = measure(decoder, text, request, reference)
    if as_json:
        print_json(figures)
    else:
        _print(figures)


def read_text(path: Path) -> str:
    """A file as text. KaokenError where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise KaokenError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise KaokenError(f"{path} is no text in UTF-8: {error}") from None
    if not text.strip():
        raise KaokenError(f"{path} has no text in it")
    return text


def measure(
    decoder: CompiledDecoder,
    text: str,
    request: Request,
    reference: CompiledDecoder | None = None,
) -> dict[str, Any]:
    """The figures as plain data, with a progress bar on the terminal meanwhile."""
    size = min(one.capacity for one in (decoder, reference) if one is not None)
    window = min(request.window, size)
    tokenizer = decoder_tokenizer(decoder.folder, decoder.vocabulary)
    ids = tokenizer.encode(text, add_special_tokens=False).ids[: request.tokens]
    windows = windows_of(ids, window, tokenizer.encode("").ids)
    start = time.perf_counter()
    with _bar(sum(len(one) - 1 for one in windows)) as progress:
        score, other, comparison = evaluate(decoder, windows, reference, progress)
    figures = {
        "model": decoder.name,
        "dtype": decoder.manifest["dtype"],
        "tokens": len(ids),
        "window": window,
        **_figures(score),
        "seconds": time.perf_counter() - start,
    }
    if reference is not None and other is not None and comparison is not None:
        figures["against"] = {
            "model": reference.name,
            "dtype": reference.manifest["dtype"],
            **_figures(other),
            "mean_divergence": comparison.divergence,
            "same_best_token": comparison.agreement,
        }
    return figures


def _figures(score: Score) -> dict[str, Any]:
    return {
        "predicted": score.predicted,
        "perplexity": score.perplexity,
        "standard_error": score.error,
    }


@contextmanager
def _bar(total: int) -> Iterator[Progress]:
    """A progress bar on stderr; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TimeElapsedColumn, TimeRemainingColumn

    columns = (*Bar.get_default_columns()[:-1], TimeElapsedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("tokens", total=total)
        yield lambda count: bar.advance(task, count)


def _print(figures: dict[str, Any]) -> None:
    print(
        f"{figures['model']} ({figures['dtype']}): perplexity {_with_error(figures)} on "
        f"{figures['predicted']} tokens in windows of {figures['window']}, "
        f"{figures['seconds']:.1f} s"
    )
    if (other := figures.get("against")) is not None:
        change = figures["perplexity"] / other["perplexity"] - 1
        print(
            f"{other['model']} ({other['dtype']}): perplexity {_with_error(other)}; from it the "
            f"first is {change:+.2%}, mean divergence {other['mean_divergence']:.2g} nats, "
            f"same likeliest token {other['same_best_token']:.2%}"
        )


def _with_error(figures: dict[str, Any]) -> str:
    return f"{figures['perplexity']:.3f} ± {figures['standard_error']:.3f}"
