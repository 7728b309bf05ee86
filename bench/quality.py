"""What each dtype costs SmolLM2-135M in quality, and what it takes and gives.

    python bench/quality.py --text wikitext-2-test.txt [--tokens 20000] [--write]

Perplexity, and the divergence from float32, as `kaoken eval` measures them; the bytes of the
weights file; tokens a second behind 128 tokens, all dtypes in turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gguf
from documentation import PAGE, write_block
from rich.console import Console

from kaoken.backend.cache import cache_directory, content_key
from kaoken.bench.decoder_models import from_gguf, smollm2_file
from kaoken.bench.gguf_writer import write_gguf
from kaoken.bench.tables import Table, three_digits
from kaoken.choices import DTYPES
from kaoken.compiled_decoder import CompiledDecoder
from kaoken.options import CompileOptions
from kaoken.tools.eval_command import Request, measure, read_text
from kaoken.tools.generate_command import open_decoder

QUALITY_PAGE = PAGE.parent / "quality.md"
HEADER = ("dtype", "weights MB", "perplexity", "change", "divergence", "same best", "tokens/s")
DEPTH, STEPS, ROUNDS = 128, 16, 5


def main() -> None:
    options = arguments()
    model = options.model or smollm2_file()
    request = Request(options.text, options.tokens, options.window, model)
    text = read_text(request.text)

    rounded = plain_file(model)

    def opened(dtype: str) -> CompiledDecoder:
        file = model if dtype == "auto" else rounded
        return open_decoder(file, CompileOptions(dtype=dtype), request.window, all_outputs=True)

    plain = opened("f32")
    decoders = {dtype: opened(dtype) for dtype in options.dtypes.split(",")}
    found = {dtype: measure(one, text, request, plain) for dtype, one in decoders.items()}
    rates = speeds(decoders)
    table = Table("", HEADER)
    for dtype, one in decoders.items():
        size = (one.folder / one.manifest["weights"]).stat().st_size
        table.rows.append((dtype, three_digits(size / 1e6), *_cells(found[dtype], rates[dtype])))
    predicted = next(iter(found.values()))["predicted"]
    table.title = f"{model.stem}, {predicted} tokens in windows of {request.window}"
    Console(width=120).print(table.rich())
    if options.write:
        write_block("quality", [table], QUALITY_PAGE)


def plain_file(model: Path) -> Path:
    """The model in F32, kept in the cache: weights of few bits would stay what they are."""
    facts = model.stat()
    key = content_key([f"{model.resolve()} {facts.st_size} {facts.st_mtime_ns}"])
    path = cache_directory("quality") / key / f"{model.stem.split('.')[0]}.F32.gguf"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        draft = path.with_suffix(".draft")
        copy = partial(copy_tokenizer, model=model)
        write_gguf(draft, from_gguf(model), add_tokenizer=copy).rename(path)
    return path


def copy_tokenizer(writer: gguf.GGUFWriter, model: Path) -> None:
    """What a GGUF file says of its tokenizer, into another one."""
    for name, field in gguf.GGUFReader(model).fields.items():
        if not name.startswith("tokenizer."):
            continue
        if field.types[0] is gguf.GGUFValueType.ARRAY:
            writer.add_array(name, field.contents())
        else:
            writer.add_key_value(name, field.contents(), field.types[0])


def speeds(decoders: Mapping[str, CompiledDecoder]) -> dict[str, float]:
    """Tokens a second of steps behind DEPTH tokens: the median, in turns."""
    times: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(ROUNDS):
        for name, decoder in decoders.items():
            decoder.reset()
            decoder.prefill([1] * DEPTH)
            for _ in range(STEPS):
                start = time.perf_counter()
                decoder.step(decoder.best_token())
                times[name].append(time.perf_counter() - start)
    return {name: 1 / statistics.median(some) for name, some in times.items()}


def _cells(figures: Mapping[str, Any], rate: float) -> tuple[str, ...]:
    against = figures["against"]
    return (
        f"{figures['perplexity']:.2f}",
        f"{figures['perplexity'] / against['perplexity'] - 1:+.2%}",
        f"{against['mean_divergence']:.2g}",
        f"{against['same_best_token']:.1%}",
        three_digits(rate),
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="another decoder")
    parser.add_argument("--tokens", type=int, default=20000)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--dtypes", default=",".join(DTYPES))
    parser.add_argument("--write", action="store_true", help="into docs/quality.md too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
