"""How cost grows: time per token, compile time by layers, small layers called from C.

    python bench/scaling.py [tokens] [compile] [layers] [--write]

Prints tables; --write puts them into docs/benchmarks.md as well.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from documentation import write_block
from rich.console import Console

from kaoken.bench.peer import Running
from kaoken.bench.tables import Table, megabytes, seconds
from kaoken.bench.worker import peak_memory, pin, turn

TOKENS = (16, 32, 64, 128, 256, 512)
MODELS = ("minilm", "bert-base")
LAYERS = (2, 4, 6, 12, 24, 48)
SEED_LAYERS = ("layer-norm", "gelu")
COLUMNS = 768
DRIVER = Path(__file__).parent / "layer_driver.c"


def main() -> None:
    options = arguments()
    sections: dict[str, Callable[[argparse.Namespace], Table]] = {
        "tokens": token_table,
        "compile": compile_table,
        "layers": layer_table,
    }
    for name in options.sections or sections:
        table = sections[name](options)
        Console(width=120).print(table.rich())
        if options.write:
            write_block(name, [table])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("sections", nargs="*", choices=["tokens", "compile", "layers"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, nargs="*", default=list(LAYERS))
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md too")
    return parser.parse_args()


def elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function that runs in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *arguments).result()


def medians(calls: dict[Any, Callable[[], Any]], rounds: int, length: float) -> dict[Any, float]:
    """Median seconds of each call, timed in turns."""
    times: dict[Any, list[float]] = {key: [] for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            times[key] += turn(Running(call, lambda result: result), length)
    return {key: statistics.median(values) for key, values in times.items()}


# ---- time per token ----


def token_table(options: argparse.Namespace) -> Table:
    """Batch 1, one artefact for all sizes."""
    header = ("tokens", *(f"{model}{unit}" for model in MODELS for unit in ("", " a token")))
    table = Table(f"Time of a call, fp32, threads: {options.threads}", header)
    times = {model: elsewhere(token_times, model, options) for model in MODELS}
    for count in TOKENS:
        totals = [times[model][count] for model in MODELS]
        cells = [seconds(value) for total in totals for value in (total, total / count)]
        table.rows.append([str(count), *cells])
    return table


def token_times(model: str, options: argparse.Namespace) -> dict[int, float]:
    """Median seconds of a call by its number of tokens."""
    import kaoken
    from kaoken.bench.workloads import make_workload

    pin(options.threads)
    workload = make_workload(model, 1, max(TOKENS))
    compiled = kaoken.compile(
        workload.module,
        kwargs=workload.export_inputs,
        dynamic_shapes=workload.dynamic_shapes,
        threads=options.threads,
    )
    inputs = {name: tensor.numpy() for name, tensor in workload.inputs.items()}
    calls = {
        count: compiled.bind(**{name: array[:, :count].copy() for name, array in inputs.items()})
        for count in TOKENS
    }
    return medians(calls, options.rounds, options.seconds)


# ---- compile time ----


def compile_table(options: argparse.Namespace) -> Table:
    """BERT of base width from a Hugging Face folder to a library, nothing cached."""
    header = ("layers", "total", "import", "passes", "C compiler", "C lines")
    table = Table("Compiling BERT of base width", (*header, "peak MB", "weights MB"))
    for layers in options.layers:
        with tempfile.TemporaryDirectory(prefix="kaoken-compile-") as scratch:
            elsewhere(save_bert, layers, Path(scratch))
            table.rows.append([str(layers), *elsewhere(compile_once, Path(scratch))])
    return table


def save_bert(layers: int, scratch: Path) -> None:
    """Write a Hugging Face folder with random weights."""
    from transformers import BertConfig, BertModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    BertModel(BertConfig(num_hidden_layers=layers)).save_pretrained(scratch / "bert")


def compile_once(scratch: Path) -> list[str]:
    """What compiling the folder costs, as cells of the table."""
    import kaoken

    os.environ["KAOKEN_CACHE"] = str(scratch / "cache")
    stages: list[tuple[str, float]] = []
    start = time.perf_counter()
    kaoken.compile(
        scratch / "bert",
        out=scratch / "out",
        progress=lambda stage: stages.append((stage, time.perf_counter())),
    )
    end = time.perf_counter()
    spans = stage_seconds(stages, end)
    outside = ("import", "write C", "write weights", "compile C", "load")
    passes = sum(span for name, span in spans.items() if name not in outside)
    lines = len((scratch / "out" / "out.c").read_text().splitlines())
    weights = (scratch / "out" / "out.weights").stat().st_size
    return [
        *map(seconds, (end - start, spans["import"], passes, spans["compile C"])),
        str(lines),
        megabytes(peak_memory()),
        megabytes(weights),
    ]


def stage_seconds(stages: Sequence[tuple[str, float]], end: float) -> dict[str, float]:
    """How long each stage took, given when it began."""
    ends = [at for _, at in stages[1:]] + [end]
    spans: dict[str, float] = {}
    for (name, begin), stop in zip(stages, ends, strict=True):
        spans[name] = spans.get(name, 0.0) + stop - begin
    return spans


# ---- small layers ----


def layer_table(options: argparse.Namespace) -> Table:
    """Seed layers on one row of 768: called from C, from Python, and PyTorch eager's time."""
    header = ("layer", "from C", "an element", "bound call", "checked call", "torch eager")
    table = Table("One row of 768, fp32, 1 thread", (*header, "torch / C"))
    for name in SEED_LAYERS:
        times = elsewhere(layer_times, name, options)
        cells = [times["C"], times["C"] / COLUMNS, times["bound"], times["checked"], times["torch"]]
        ratio = f"{times['torch'] / times['C']:.1f}"
        table.rows.append([name, *map(seconds, cells), ratio])
    return table


def layer_times(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Median seconds of a call by way of calling."""
    import torch

    import kaoken
    from kaoken.bench.workloads import make_workload

    pin(1)
    torch.set_num_threads(1)
    workload = make_workload(name, 1, 1)
    tensor = workload.inputs["input"]
    array = tensor.numpy()
    with tempfile.TemporaryDirectory(prefix="kaoken-layer-") as scratch:
        model = kaoken.compile(workload.module, (tensor,), out=Path(scratch) / "layer")
        program = build_driver(model.folder, model.name)
        weights = model.folder / model.manifest["weights"]
        calls = {
            "bound": model.bind(array),
            "checked": lambda: model(array),
            "torch": lambda: eager(workload.module, tensor),
        }
        found: dict[str, list[float]] = {key: [] for key in ("C", *calls)}
        for _ in range(options.rounds):
            found["C"].append(run_driver(program, weights, options.seconds))
            for key, value in medians(calls, 1, options.seconds).items():
                found[key].append(value)
    return {key: statistics.median(values) for key, values in found.items()}


def eager(module: Any, tensor: Any) -> Any:
    import torch

    with torch.inference_mode():
        return module(tensor)


def build_driver(folder: Path, name: str) -> Path:
    """A C program beside the compiled layer that calls it in a loop."""
    from kaoken.backend.toolchain import find_compiler, library_name, run_compiler

    program = folder / "driver"
    definitions = [f"-DMODEL={name}", f"-DINPUT={COLUMNS}", f"-DOUTPUT={COLUMNS}"]
    library = [str(folder / library_name(name)), f"-Wl,-rpath,{folder}"]
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", f"-I{folder}"]
    compiler = find_compiler().command
    run_compiler([*compiler, *flags, *definitions, str(DRIVER), *library, "-o", str(program)])
    return program


def run_driver(program: Path, weights: Path, length: float) -> float:
    """Seconds of a call."""
    words = [program, weights, str(length)]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout) * 1e-9


if __name__ == "__main__":
    main()
