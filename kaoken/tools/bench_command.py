"""`kaoken bench`: how fast a model is beside other programs, and beside what the machine can do."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from kaoken.backend.machine import TargetMachine
from kaoken.backend.toolchain import find_compiler
from kaoken.bench.decoder_harness import Texts, run_decoders
from kaoken.bench.decoder_models import DECODERS, is_decoder
from kaoken.bench.figures import Figures
from kaoken.bench.harness import Settings, run_benchmark
from kaoken.bench.peer import Job, Peer, choose_peers
from kaoken.bench.plots import check_plots, write_page
from kaoken.bench.report import decoder_tables, tables
from kaoken.bench.tables import Table
from kaoken.bench.workloads import resolve_model
from kaoken.errors import KaokenError
from kaoken.modules import write_text

_FILE_WIDTH = 120
"""Columns of a table that goes into a file or a pipe."""


@dataclass(frozen=True)
class Outputs:
    """Files to write besides the tables on the terminal."""

    json_file: Path | None = None
    html_file: Path | None = None


def run_bench(
    job: Job,
    peers: str,
    threads: str,
    tokens: str | None,
    new_tokens: int,
    settings: Settings,
    outputs: Outputs,
) -> None:
    """Time, and print tables. What can be wrong with the options is found out first."""
    decoder = is_decoder(job.model)
    chosen, counts = choose_peers(peers, decoder), parse_threads(threads)
    sizes = parse_numbers(tokens or ("8,128,512" if decoder else "128"), "--tokens", "128")
    check_files(outputs.json_file, outputs.html_file)
    if decoder:
        _refuse_encoder_options(job, settings)
        runs = measure_decoder(job, chosen, counts, Texts(sizes, new_tokens), settings)
        found = decoder_tables(runs)
    else:
        if len(sizes) > 1:
            raise KaokenError("--tokens is one number, except for decoders")
        settings = replace(settings, ops=settings.ops or outputs.html_file is not None)
        runs = [measure(replace(job, tokens=sizes[0]), chosen, counts, settings)]
        found = tables(runs[0])
    show(found)
    if outputs.json_file is not None:
        values = [run.as_json() for run in runs]
        write_text(outputs.json_file, json.dumps(values if decoder else values[0], indent=1) + "\n")
    if outputs.html_file is not None:
        write_page(runs, found, outputs.html_file)


def _refuse_encoder_options(job: Job, settings: Settings) -> None:
    wrong = {"--batch": job.batch != 1, "--calls": settings.calls, "--ops": settings.ops}
    for option, given in wrong.items():
        if given:
            raise KaokenError(f"{option} is for encoders; {job.model} generates text")


def measure_decoder(
    job: Job, peers: Sequence[Peer], threads: Sequence[int], texts: Texts, settings: Settings
) -> list[Figures]:
    """`measure` for a decoder: the figures of each prompt, then of the steps behind each."""
    from rich.console import Console

    job = _in_own_folder(replace(job, tokens=texts.capacity, decoder=True))
    TargetMachine.parse(job.target)
    find_compiler()
    with Console(stderr=True).status("starting") as status:
        return run_decoders(job, peers, threads, texts, settings, status.update)


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
    model = _resolve_decoder(job.model) if job.decoder else resolve_model(job.model, DECODERS)
    name = re.sub(r"\W+", "-", model).strip("-")
    folder = job.folder.resolve() / f"{name}-{job.batch}x{job.tokens}"
    folder.mkdir(parents=True, exist_ok=True)
    return replace(job, model=model, folder=folder)


def _resolve_decoder(model: str) -> str:
    """The name of a workload as it is, a path in full. KaokenError where there is no file."""
    if model not in DECODERS and not Path(model).is_file():
        raise KaokenError(f"there is no file {model}")
    return model if model in DECODERS else str(Path(model).resolve())


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
    return parse_numbers(text, "--threads", "1,2")


def parse_numbers(text: str, option: str, example: str) -> list[int]:
    """Numbers from 1 with commas between them. Raises KaokenError."""
    words = text.split(",")
    if not all(word.isdigit() and int(word) > 0 for word in words):
        raise KaokenError(f"{option} is '{text}', but must be numbers such as {example}")
    return [int(word) for word in words]
