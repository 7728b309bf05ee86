"""`kaoken bench`: how fast a model is beside other programs, and beside what the machine can do."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from kaoken.backend.machine import TargetMachine
from kaoken.backend.toolchain import find_compiler
from kaoken.bench.figures import Figures
from kaoken.bench.harness import Settings, run_benchmark
from kaoken.bench.peer import Job, Peer, choose_peers
from kaoken.bench.plots import check_plots, write_page
from kaoken.bench.report import tables
from kaoken.bench.tables import Table
from kaoken.bench.workloads import resolve_model
from kaoken.errors import KaokenError
from kaoken.modules import write_text

_FILE_WIDTH = 120
"""Columns of a table that goes into a file or a pipe."""


def run_bench(
    job: Job,
    peers: str,
    threads: str,
    settings: Settings,
    json_file: Path | None,
    html_file: Path | None,
) -> None:
    """Time, and print tables. What can be wrong with the options is found out first."""
    chosen, counts = choose_peers(peers), parse_threads(threads)
    check_files(json_file, html_file)
    figures = measure(job, chosen, counts, settings)
    show(tables(figures))
    if json_file is not None:
        write_text(json_file, json.dumps(figures.as_json(), indent=1) + "\n")
    if html_file is not None:
        write_page(figures, html_file)


def show(tables: Sequence[Table]) -> None:
    """Print tables on stdout."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    for table in tables:
        console.print(table.rich())


def check_files(json_file: Path | None, html_file: Path | None) -> None:
    """Raise KaokenError unless both can be written, as far as one can tell."""
    for file in (json_file, html_file):
        if file is not None and not os.access(file.parent, os.W_OK):
            raise KaokenError(f"cannot write {file}: there is no such folder, or it is closed")
    if html_file is not None:
        check_plots()


def measure(job: Job, peers: Sequence[Peer], threads: Sequence[int], settings: Settings) -> Figures:
    """The figures, with a line on the terminal that says what is going on. Raises KaokenError.

    `job.folder` is where the folders of all models are kept.
    """
    from rich.console import Console

    job = _in_own_folder(job)
    TargetMachine.parse(job.target)
    find_compiler()
    with Console(stderr=True).status("starting") as status:
        return run_benchmark(job, peers, threads, settings, status.update)


def _in_own_folder(job: Job) -> Job:
    model = resolve_model(job.model)
    name = re.sub(r"\W+", "-", model).strip("-")
    folder = job.folder.resolve() / f"{name}-{job.batch}x{job.tokens}"
    folder.mkdir(parents=True, exist_ok=True)
    return replace(job, model=model, folder=folder)


@contextmanager
def work_folder(keep: Path | None) -> Iterator[Path]:
    """The given folder, or one that is deleted afterwards."""
    if keep is not None:
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="kaoken-bench-") as folder:
        yield Path(folder)


def parse_threads(text: str) -> list[int]:
    """`1,2` as numbers. Raises KaokenError."""
    words = text.split(",")
    if not all(word.isdigit() and int(word) > 0 for word in words):
        raise KaokenError(f"--threads is '{text}', but must be numbers such as 1,2")
    return [int(word) for word in words]
