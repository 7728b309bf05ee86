"""The workloads that kaoken is held to, beside what is asked of it.

    python bench/targets.py [bert-base-1x128 ...] [--work FOLDER] [--keep FOLDER] [--write]

A target is a share of the machine's own limit, or how many times as fast as the best right peer of
the same precision. In either case kaoken must not be behind that peer by more than a tie.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from documentation import write_block
from rich.console import Console

from kaoken.bench.figures import Figures, PeerFigures, ThreadFigures
from kaoken.bench.harness import Settings
from kaoken.bench.peer import PRECISIONS, Job, choose_peers
from kaoken.bench.tables import Table, percent, seconds
from kaoken.modules import write_text
from kaoken.tools.bench_command import measure, parse_threads, work_folder

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
    factors: Mapping[str, float]
    """Times as fast as the best peer."""

    @property
    def name(self) -> str:
        return f"{self.model}-{self.batch}x{self.tokens}"


def _shares(
    model: str, batch: int, tokens: int, fp32: float, bf16: float, int8: float, *more: float
) -> Goal:
    """`more` is the same three with two threads."""
    ones = (fp32, bf16, int8)
    pairs = zip(ones, more or ones, strict=True)
    return Goal(model, batch, tokens, dict(zip(PRECISIONS, pairs, strict=True)), {})


def _factors(model: str, tokens: int, **factors: float) -> Goal:
    return Goal(model, 1, tokens, {}, factors)


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
                _keep(options.keep, goal, figures)
    Console(width=140).print(table.rich())
    if options.write:
        write_block("targets", [table])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("goals", nargs="*", help=f"of {', '.join(goal.name for goal in GOALS)}")
    parser.add_argument("--peers", default="all")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn")
    parser.add_argument("--work", type=Path, help="keep what was built for the peers here")
    parser.add_argument("--keep", type=Path, help="write every figure into this folder, as JSON")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md too")
    return parser.parse_args()


def _keep(folder: Path | None, goal: Goal, figures: Figures) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{goal.name}.json", json.dumps(figures.as_json()) + "\n")


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
    factor = goal.factors.get(precision, 1 / TIE)
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
