"""The workloads that kaoken is held to, beside what is asked of it.

    python bench/targets.py [bert-base-1x128 ...] [--work FOLDER] [--keep FOLDER] [--write]

A target is a share of the machine's own limit, or how many times as fast as the best right peer of
the same precision. In either case kaoken must not be behind that peer by more than a tie.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gemv
from documentation import write_block
from rich.console import Console
from scaling import COLUMNS, SEED_LAYERS, elsewhere, layer_times

from kaoken.bench.decoder_harness import Texts
from kaoken.bench.figures import Figures, PeerFigures, ThreadFigures
from kaoken.bench.harness import Settings
from kaoken.bench.peer import PRECISIONS, Job, choose_peers
from kaoken.bench.tables import Table, percent, seconds
from kaoken.modules import write_text
from kaoken.tools.bench_command import measure, measure_decoder, parse_threads, work_folder

TIE = 1.03
"""Times that differ by less count as equal."""


@dataclass(frozen=True)
class Goal:
    """One model at one size; by precision, what is asked at 1 thread and at more."""

    model: str
    batch: int
    tokens: int
    shares: Mapping[str, tuple[float, float]]
    """Of the limit."""
    factors: Mapping[str, tuple[float, float]]
    """Times as fast as the best peer."""
    part: str | None = None
    """Which part of generating text."""

    @property
    def name(self) -> str:
        if self.part is not None:
            return f"{self.model}, {self.part}"
        return f"{self.model}-{self.batch}x{self.tokens}"


def _shares(
    model: str, batch: int, tokens: int, fp32: float, bf16: float, int8: float, *more: float
) -> Goal:
    """`more` is the same three with two threads."""
    ones = (fp32, bf16, int8)
    pairs = zip(ones, more or ones, strict=True)
    return Goal(model, batch, tokens, dict(zip(PRECISIONS, pairs, strict=True)), {})


def _factors(model: str, tokens: int, **factors: float) -> Goal:
    return Goal(model, 1, tokens, {}, {name: (factor, factor) for name, factor in factors.items()})


TEXTS = Texts(prompts=(128, 512), new=128)
_STEP_SHARES = {"fp32": (0.93, 0.90), "bf16": (0.93, 0.90), "int8": (0.88, 0.80)}
_STEP_SHARES |= {"int4": (0.80, 0.70)}
_STEP_FACTORS = {"fp32": (1.35, 1.05), "bf16": (1.35, 1.05), "int8": (1.8, 1.4)}
_STEP_FACTORS |= {"int4": (1.8, 1.6)}


def _decoder(model: str) -> list[Goal]:
    """Steps behind 128 tokens, and prompts."""
    prompts = dict.fromkeys(_STEP_FACTORS, (1.1, 1.1))
    return [
        Goal(model, 1, 128, _STEP_SHARES, _STEP_FACTORS, "128 tokens after 128"),
        Goal(model, 1, 128, {}, prompts, "prompt of 128 tokens"),
        Goal(model, 1, 512, {}, prompts, "prompt of 512 tokens"),
    ]


GOALS = (
    _shares("bert-base", 1, 128, 0.90, 0.89, 0.80, 0.88, 0.82, 0.76),
    _shares("bert-base", 1, 16, 0.82, 0.75, 0.67, 0.75, 0.65, 0.60),
    _shares("bert-base", 8, 128, 0.92, 0.91, 0.82, 0.88, 0.83, 0.78),
    _shares("minilm", 1, 128, 0.90, 0.83, 0.72, 0.86, 0.75, 0.64),
    _factors("minilm", 16, fp32=1.3, bf16=1.3, int8=1.4),
    _factors("minilm", 1, fp32=1.3, bf16=1.3, int8=1.4),
    _shares("vit-base", 1, 197, 0.91, 0.88, 0.78, 0.86, 0.80, 0.68),
    _shares("t5-small-encoder", 1, 64, 0.88, 0.85, 0.75, 0.84, 0.76, 0.65),
    _factors("attention", 1, fp32=1.1),
    _factors("attention", 128, fp32=1.05),
    _shares("head", 1, 1, 0.92, 0.92, 0.92),
)
DECODER_GOALS = {model: _decoder(model) for model in ("smollm2-135m", "gpt2-shape")}
CALLS = {"checked": 8e-6, "bound": 1.5e-6}
"""The most seconds that a call of a small layer from Python may take."""
ELEMENTS = {"layer-norm": 0.35e-9, "gelu": 0.6e-9}
"""The same for each number of one that is called from C."""
HEADS = {"f32": 0.92, "bf16": 0.92, "int8": 0.92, "int4": 0.92}
"""The least share of the rate of reading memory, of one row times GPT-2's head."""
PARTS = ("layers", "heads")
NAMES = (*(goal.name for goal in GOALS), *DECODER_GOALS, *PARTS)


def main() -> None:
    options = arguments()
    table = Table("What is asked and what is reached", HEADER, left=2)
    settings = Settings(options.rounds, options.seconds)
    with work_folder(options.work) as folder:
        for goal in GOALS:
            if goal.name in (options.goals or [goal.name]):
                job = Job(goal.model, goal.batch, goal.tokens, 1, "native", folder)
                peers, threads = choose_peers(options.peers), parse_threads(options.threads)
                figures = measure(job, peers, threads, settings)
                table.rows += list(rows(goal, figures))
                _keep(options.keep, goal.name, figures.as_json())
        for model, goals in DECODER_GOALS.items():
            if model in (options.goals or [model]):
                runs = _decoder_figures(model, options, settings, folder)
                for goal in goals:
                    table.rows += list(rows(goal, runs[goal.part]))
                _keep(options.keep, model, [run.as_json() for run in runs.values()])
        for part, found in zip(PARTS, (layer_rows, head_rows), strict=True):
            if part in (options.goals or [part]):
                table.rows += list(found(options, folder))
    Console(width=140).print(table.rich())
    if options.write:
        write_block("targets", [table])


def _decoder_figures(
    model: str, options: argparse.Namespace, settings: Settings, folder: Path
) -> dict[str | None, Figures]:
    """By the part of generating text. A turn is a whole text: half the rounds do."""
    peers = choose_peers(options.peers, decoders=True)
    settings = replace(settings, rounds=max(1, settings.rounds // 2))
    job = Job(model, 1, TEXTS.capacity, 1, "native", folder)
    runs = measure_decoder(job, peers, parse_threads(options.threads), TEXTS, settings)
    return {run.what: run for run in runs}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("goals", nargs="*", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--peers", default="all")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn")
    parser.add_argument("--work", type=Path, help="keep what was built for the peers here")
    parser.add_argument("--keep", type=Path, help="write every figure into this folder, as JSON")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md too")
    return parser.parse_args()


def _keep(folder: Path | None, name: str, figures: Any) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{name}.json", json.dumps(figures) + "\n")


# ---- rows ----

HEADER = (
    "workload",
    "precision",
    "threads",
    "kaoken",
    "of the limit",
    "asked",
    "best peer",
    "its time",
    "peer / kaoken",
    "asked",
    "",
)


def rows(goal: Goal, figures: Figures) -> Iterator[list[str]]:
    """One row for each precision and number of threads."""
    for precision in goal.shares or goal.factors:
        for one in figures.threads:
            found = one.of(f"kaoken_{precision}")
            yield [goal.name, precision, str(one.threads), *_cells(goal, precision, one, found)]


def _cells(
    goal: Goal, precision: str, figures: ThreadFigures, kaoken: PeerFigures | None
) -> list[str]:
    if kaoken is None:
        return ["none or wrong", "", "", "", "", "", "", "missed"]
    share = goal.shares[precision][figures.threads > 1] if goal.shares else None
    factor = goal.factors[precision][figures.threads > 1] if goal.factors else 1 / TIE
    peer = best_peer(figures, precision)
    ratio = None if peer is None else peer.median / kaoken.median
    met = (share is None or (kaoken.fraction or 0) >= share) and (ratio is None or ratio >= factor)
    return [
        seconds(kaoken.median),
        percent(kaoken.fraction),
        percent(share),
        "none" if peer is None else peer.name,
        "" if peer is None else seconds(peer.median),
        "" if ratio is None else f"{ratio:.2f}",
        f"{factor:.2f}",
        "met" if met else "missed",
    ]


def layer_rows(options: argparse.Namespace, folder: Path) -> Iterator[list[str]]:
    """Layers on one row of 768: a number of it from C, a call from Python."""
    for layer in SEED_LAYERS:
        times = elsewhere(layer_times, layer, options)
        each = times["C"] / COLUMNS
        yield _limited(f"{layer} of {COLUMNS}, from C, a number", each, ELEMENTS[layer])
        for way, most in CALLS.items():
            yield _limited(f"{layer} of {COLUMNS}, {way} call", times[way], most)


def _limited(name: str, time: float, most: float) -> list[str]:
    verdict = "met" if time <= most else "missed"
    asked = f"<= {seconds(most)}"
    return [name, "fp32", "1", seconds(time), "", asked, "", "", "", "", verdict]


def head_rows(options: argparse.Namespace, folder: Path) -> Iterator[list[str]]:
    """One row times heads that do not fit the caches together."""
    given = {"folder": folder, "formats": list(HEADS), "peers": [], "megabytes": 200}
    threads = parse_threads(options.threads)
    settings = argparse.Namespace(**vars(options) | given | {"threads": threads})
    for count in threads:
        _, shares = elsewhere(gemv.rates, settings, gemv.HEAD, count)
        for dtype, least in HEADS.items():
            share = shares[gemv.KAOKEN + dtype]
            cells = [percent(share), percent(least), "", "", "", ""]
            verdict = "met" if share >= least else "missed"
            yield ["768 -> 50257, one row", dtype, str(count), "", *cells, verdict]


def best_peer(figures: ThreadFigures, precision: str) -> PeerFigures | None:
    """The fastest right one of that precision that is not kaoken."""
    fitting = (
        peer
        for peer in figures.ranked()
        if peer.right and peer.precision == precision and not peer.name.startswith("kaoken")
    )
    return next(fitting, None)


if __name__ == "__main__":
    main()
