"""`kaoken tune`: search for faster schedules on this CPU, with a progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from kaoken.compiler import import_model
from kaoken.errors import KaokenError
from kaoken.modules import write_text
from kaoken.tools.bench_command import check_files
from kaoken.tuning.search import Found
from kaoken.tuning.shapes import OpShape
from kaoken.tuning.tune import TuneOptions, Watcher, tuned_schedule


def run_tune(model: str, out: Path, options: TuneOptions) -> None:
    """Tune, write the schedule file and say what was gained. Raises KaokenError."""
    check_files(out, None)
    with Console(stderr=True).status("import"):
        module = _import(model)
    with ProgressBar() as bar:
        text = tuned_schedule(module, options, bar)
    write_text(out, text)
    gained = sum(found.improved for found in bar.results)
    for found in bar.results:
        print(_line(found))
    print(f"wrote {out}: {gained} of {len(bar.results)} op shapes are faster")


def parse_tokens(text: str) -> list[int]:
    """`16,128` as numbers. Raises KaokenError."""
    words = text.split(",")
    if not all(word.isdigit() and int(word) > 0 for word in words):
        raise KaokenError(f"--tokens is '{text}', but must be numbers such as 16,128")
    return [int(word) for word in words]


def _import(model: str) -> Any:
    """The model of a path, or a workload of `kaoken bench`."""
    from kaoken.bench.workloads import WORKLOADS, make_workload

    if Path(model).exists() or model not in WORKLOADS:
        return import_model(model)
    workload = make_workload(model, 1, 16)
    shapes = workload.dynamic_shapes
    return import_model(workload.module, (), workload.export_inputs, dynamic_shapes=shapes)


def _line(found: Found) -> str:
    if not found.improved:
        return f"{found.shape.head}: kaoken's own ({found.tried} tried)"
    gains = ", ".join(f"{speedup:.2f}x" for speedup in found.speedups)
    return f"{found.shape.head}: {gains} ({found.tried} tried)"


class ProgressBar(Watcher):
    """A bar on stderr; nothing where that is no terminal."""

    def __init__(self) -> None:
        columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        console = Console(stderr=True)
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("starting")
        self._trials, self._ended = 0, 0
        self.results: list[Found] = []

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def begin(self, shapes: Sequence[OpShape], trials: int) -> None:
        self._trials = trials
        self._bar.update(self._task, total=len(shapes) * trials)

    def shape(self, shape: OpShape) -> None:
        self._bar.update(self._task, description=shape.head)

    def tried(self, count: int) -> None:
        self._bar.advance(self._task, count)

    def found(self, found: Found) -> None:
        self.results.append(found)
        self._ended += self._trials
        self._bar.update(self._task, completed=self._ended)
