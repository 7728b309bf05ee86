"""How soon a compiled decoder answers, and what it takes in memory, from C and from Python.

    python bench/startup.py FOLDER [FOLDER ...] [--write]

Each folder is what `kaoken compile` wrote for a decoder, with its tokenizer. The prompt has 8
tokens; the weights are in the page cache, as a run goes before.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from documentation import write_block
from rich.console import Console

from kaoken.backend.loader import read_manifest
from kaoken.backend.toolchain import find_compiler
from kaoken.bench.tables import Table, megabytes, seconds

RUNS = 7
PROMPT = "The capital of the country of France is"
HEADER = ("folder", "weights", "C: start to token", "peak", "Python: start to token", "peak")
HEADER += ("loaded, to token",)
FROM_PYTHON = """
import json, statistics, sys, time
import kaoken
from kaoken.texts import open_tokenizer
model = kaoken.load_decoder(sys.argv[1])
ids = open_tokenizer(model.folder).encode(sys.argv[2]).ids
times = []
for _ in range(7):
    start = time.perf_counter()
    model.reset()
    model.prefill(ids)
    token = model.best_token()
    times.append(time.perf_counter() - start)
    if len(times) == 1:
        print(token, flush=True)
print(json.dumps([ids, statistics.median(times)]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md too")
    options = parser.parse_args()
    table = Table("From the start of a process to the first token after 8", HEADER)
    table.rows = [row(folder) for folder in options.folders]
    Console(width=140).print(table.rich())
    if options.write:
        write_block("startup", [table])


def row(folder: Path) -> tuple[str, ...]:
    manifest = read_manifest(folder)
    weights = folder / manifest["weights"]
    python = [sys.executable, "-c", FROM_PYTHON, str(folder), PROMPT]
    started, peak, text = first_answer(python)
    ids, loaded = json.loads(text.splitlines()[1])
    with tempfile.TemporaryDirectory() as build:
        program = build_example(folder, Path(build))
        alone, small, _ = first_answer([str(program), str(weights), "1", *map(str, ids)])
    size = f"{megabytes(weights.stat().st_size)} MB"
    return (
        folder.name,
        size,
        seconds(alone),
        f"{megabytes(small)} MB",
        seconds(started),
        f"{megabytes(peak)} MB",
        seconds(loaded),
    )


def build_example(folder: Path, build: Path) -> Path:
    """The package's C program beside its library."""
    program, name = build / "example", read_manifest(folder)["name"]
    sources = [str(folder / file) for file in ("example.c", "kaoken_runtime.c", "kaoken_cpu.c")]
    library = [f"-L{folder}", f"-l{name}", f"-Wl,-rpath,{folder.resolve()}", "-pthread", "-lm"]
    command = [*find_compiler().command, "-O2", *sources, *library, "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def first_answer(command: Sequence[str]) -> tuple[float, int, str]:
    """Seconds to the first byte of output, the peak of resident memory, and the last output."""
    times: list[float] = []
    peak, text = 0, ""
    for number in range(RUNS + 1):
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        first = process.stdout.read(1)
        times += [time.perf_counter() - start] if number else []
        text = first + process.stdout.read()
        _, code, usage = os.wait4(process.pid, 0)
        if code:
            raise SystemExit(f"{shlex.join(command)} failed")
        peak = max(peak, usage.ru_maxrss << 10)
    return statistics.median(times), peak, text


if __name__ == "__main__":
    main()
