"""The matrix product of docs/gemm.md under several schedules, beside the peak of the CPU.

    python bench/gemm.py FOLDER [--write]

Compiles into FOLDER what is not there yet, then times all in turns in one process, with the probe
of the CPU's peak between the turns. --write puts the table into docs/gemm.md as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from documentation import write_block
from rich.console import Console
from scaling import medians

import kaoken
from kaoken.bench.limits import Limits, Probe
from kaoken.bench.tables import Table, seconds
from kaoken.bench.worker import pin

DOCS = Path(__file__).resolve().parent.parent / "docs"
TARGET = "x86-64-v4"
ROWS, INPUTS, OUTPUTS = 128, 768, 3072
TILES = (1, 2, 4, 6, 8, 12)
REGISTERS_OF_A_PANEL = 4
PYTORCH = "PyTorch eager"


def schedules() -> dict[str, str | None]:
    """What is in the table, and its schedule; None for kaoken's own."""
    text = (DOCS / "gemm.schedule").read_text()
    tiles = {
        f"`tile(m, {rows})`: {rows * REGISTERS_OF_A_PANEL} registers of sums": text.replace(
            "tile(m, 6)", f"tile(m, {rows})"
        )
        for rows in TILES
    }
    plain = "linear { parallel(m) }"
    return {"the plainest nest": plain, **tiles, "what kaoken chooses": None}


def build(folder: Path) -> dict[str, Path]:
    places = {name: folder / str(i) for i, name in enumerate(schedules())}
    for name, schedule in schedules().items():
        if not places[name].exists():
            model = DOCS / "gemm.mlir"
            kaoken.compile(model, target=TARGET, schedule=schedule, out=places[name])
    return places


def measure(options: argparse.Namespace) -> Table:
    places = build(options.folder)
    pin(1)
    x = np.random.default_rng(0).standard_normal((ROWS, INPUTS)).astype(np.float32)
    calls = {name: kaoken.load(place).bind(x) for name, place in places.items()}
    limits, probe = Limits(), Probe(TARGET, options.folder, [])
    calls[PYTORCH] = pytorch(x)
    calls["peak"] = lambda: probe.measure(limits, 1, options.seconds)
    times = medians(calls, options.rounds, options.seconds)
    peak, work = limits.peak("fp32"), 2 * ROWS * INPUTS * OUTPUTS
    assert peak is not None
    title = f"768 -> 3072, 128 rows, fp32, 1 thread, {TARGET}; peak {peak / 1e9:.0f} GFLOP/s"
    table = Table(title, ("schedule", "a call", "GFLOP/s", "of the peak"))
    for name in (*places, PYTORCH):
        rate = work / times[name]
        cells = [seconds(times[name]), f"{rate / 1e9:.1f}", f"{100 * rate / peak:.1f} %"]
        table.rows.append([name, *cells])
    return table


def pytorch(x: np.ndarray) -> Callable[[], Any]:
    """The same layer in PyTorch, which takes what instructions the CPU has."""
    import torch

    torch.set_num_threads(1)
    layer, rows = torch.nn.Linear(INPUTS, OUTPUTS), torch.from_numpy(x)

    def call() -> Any:
        with torch.inference_mode():
            return layer(rows)

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.15, help="length of a turn")
    parser.add_argument("--write", action="store_true", help="into docs/gemm.md too")
    options = parser.parse_args()
    table = measure(options)
    Console(width=120).print(table.rich())
    if options.write:
        write_block("gemm", [table], DOCS / "gemm.md")


if __name__ == "__main__":
    main()
