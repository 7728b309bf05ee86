"""What each dtype costs SmolLM2-135M in quality, and what it takes and gives.

    python bench/quality.py --text wikitext-2-test.txt [--calibrate other.txt] [--tokens 20000]
    python bench/quality.py --parts speed,page

Perplexity, and the divergence from float32, as `kaoken eval` measures them, all dtypes beside
float32 in one reading; the bytes of the weights file; tokens a second behind 128 tokens, all dtypes
in turns. Each part can run by itself, for figures are kept: `quality`, `speed`, and `page`, which
writes the table and the plot into docs/quality.md.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable, Mapping
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
from kaoken.choices import DTYPES, FEW_BITS, MIXED
from kaoken.compiled_decoder import CompiledDecoder
from kaoken.evaluation import Comparison, Score, evaluate_beside, windows_of
from kaoken.options import CompileOptions
from kaoken.tools.compile_command import samples_of
from kaoken.tools.eval_command import read_text
from kaoken.tools.generate_command import decoder_tokenizer, open_decoder

QUALITY_PAGE = PAGE.parent / "quality.md"
PLOT = QUALITY_PAGE.parent / "quality.svg"
HEADER = ("dtype", "weights MB", "perplexity", "change", "divergence", "same best", "tokens/s")
CALIBRATED = " calibrated"
"""Behind a dtype: rounded for sample inputs."""
DEPTH, STEPS, ROUNDS = 128, 16, 5
MOST_SHOWN = 2.0
"""The largest perplexity, in terms of that of float32, that the plot shows."""

Figures = dict[str, dict[str, Any]]
"""By dtype: `bytes`, `perplexity`, `change`, `divergence`, `same_best`, `rate` and more."""


def main() -> None:
    options = arguments()
    model = options.model or smollm2_file()
    kept = cache_directory("quality") / f"{model.stem}.json"
    figures: Figures = json.loads(kept.read_text()) if kept.exists() else {}
    names = options.dtypes.split(",") if options.dtypes else list(figures) or default_names(options)
    parts = options.parts.split(",")
    decoders = {} if parts == ["page"] else open_all(names, model, options)
    if "quality" in parts:
        update(figures, quality(decoders, opened("f32", model, options), options))
    if "speed" in parts:
        update(figures, {name: {"rate": rate} for name, rate in speeds(decoders).items()})
    kept.write_text(json.dumps(figures, indent=1))
    found = table(model.stem.split(".")[0], {n: figures[n] for n in names if n in figures})
    Console(width=120).print(found.rich())
    if "page" in parts:
        plot({n: figures[n] for n in names})
        write_block("quality", [found], QUALITY_PAGE)


def default_names(options: argparse.Namespace) -> list[str]:
    """All dtypes, those of few bits also calibrated where there is a text to do so with."""
    calibrated = [f"{dtype}{CALIBRATED}" for dtype in (*FEW_BITS, MIXED)]
    return [*DTYPES, *(calibrated if options.calibrate else [])]


def update(figures: Figures, new: Mapping[str, Mapping[str, Any]]) -> None:
    for name, some in new.items():
        figures.setdefault(name, {}).update(some)


def open_all(
    names: Iterable[str], model: Path, options: argparse.Namespace
) -> dict[str, CompiledDecoder]:
    return {name: opened(name, model, options) for name in names}


def opened(name: str, model: Path, options: argparse.Namespace) -> CompiledDecoder:
    """The model as it is for `auto`, otherwise what its weights in float32 become."""
    dtype = name.removesuffix(CALIBRATED)
    file = model if dtype == "auto" else plain_file(model)
    text = options.calibrate if name.endswith(CALIBRATED) else None
    samples = samples_of(file, text, options.window)
    chosen = CompileOptions(dtype=dtype, calibrate=samples, threads=options.threads)
    return open_decoder(file, chosen, options.window, all_outputs=True)


def quality(
    decoders: Mapping[str, CompiledDecoder], plain: CompiledDecoder, options: argparse.Namespace
) -> Figures:
    """What each makes of the text, beside float32."""
    tokenizer = decoder_tokenizer(plain.folder, plain.vocabulary)
    ids = tokenizer.encode(read_text(options.text), add_special_tokens=False).ids
    windows = windows_of(ids[: options.tokens], options.window, tokenizer.encode("").ids)
    start = time.perf_counter()
    total, done = sum(len(one) - 1 for one in windows), 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        if done // 1000 != (done - count) // 1000:
            print(f"{done} of {total} tokens, {time.perf_counter() - start:.0f} s", flush=True)

    other, found = evaluate_beside(plain, list(decoders.values()), windows, progress)
    return {
        name: {"window": options.window, **figures_of(one, other, *result)}
        for (name, one), result in zip(decoders.items(), found, strict=True)
    }


def figures_of(
    decoder: CompiledDecoder, plain: Score, score: Score, comparison: Comparison
) -> dict[str, Any]:
    return {
        "bytes": (decoder.folder / decoder.manifest["weights"]).stat().st_size,
        "predicted": score.predicted,
        "perplexity": score.perplexity,
        "change": score.perplexity / plain.perplexity - 1,
        "divergence": comparison.divergence,
        "same_best": comparison.agreement,
    }


def table(model: str, figures: Figures) -> Table:
    """The figures in the order of sizes, the largest first."""
    known = next((one for one in figures.values() if "predicted" in one), {})
    predicted, window = known.get("predicted", 0), known.get("window", 0)
    found = Table(f"{model}, {predicted} tokens in windows of {window}", HEADER)
    for name, one in sorted(figures.items(), key=lambda item: -item[1].get("bytes", 0)):
        cells = (
            three_digits(one["bytes"] / 1e6),
            f"{one['perplexity']:.2f}",
            f"{one['change']:+.2%}",
            f"{one['divergence']:.2g}",
            f"{one['same_best']:.1%}",
        )
        found.rows.append((name, *cells, three_digits(one["rate"]) if "rate" in one else ""))
    return found


def plot(figures: Figures) -> None:
    """Perplexity over size and over speed, as far as it is any use."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams["svg.hashsalt"] = "kaoken"  # equal figures give an equal file
    least = min(one["perplexity"] for one in figures.values())
    shown = {n: one for n, one in figures.items() if one["perplexity"] < MOST_SHOWN * least}
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    kinds = (("bytes", 1e-6, "weights, MB"), ("rate", 1, "tokens a second, one thread"))
    for axis, (key, factor, label) in zip(axes, kinds, strict=True):
        for name, one in shown.items():
            if key not in one:
                continue
            at = (one[key] * factor, one["perplexity"])
            axis.plot(*at, "o", color="tab:orange" if name.endswith(CALIBRATED) else "tab:blue")
            axis.annotate(name, at, xytext=(4, 4), textcoords="offset points", fontsize=7)
        axis.set_xscale("log")
        axis.set_xlabel(label)
    axes[0].set_ylabel("perplexity")
    figure.savefig(PLOT, metadata={"Date": None})


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


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--text", type=Path, help="needed for the part `quality`")
    parser.add_argument("--calibrate", type=Path, help="another text, to round weights for")
    parser.add_argument("--model", type=Path, help="another decoder")
    parser.add_argument("--tokens", type=int, default=20000)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtypes", help="such as int4,int4 calibrated; by default all")
    parser.add_argument("--parts", default="quality,speed,page")
    return parser.parse_args()


if __name__ == "__main__":
    main()
