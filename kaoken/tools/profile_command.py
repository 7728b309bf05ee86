"""`kaoken profile`: how long each op of a model takes, beside what the machine can do."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaoken.backend.loader import is_package
from kaoken.backend.machine import TargetMachine
from kaoken.bench.limits import Limits, Probe
from kaoken.bench.ops import OpFigures, levels
from kaoken.bench.peer import Job
from kaoken.modules import write_text
from kaoken.pinning import pinned
from kaoken.tools.bench_command import check_files, show, work_folder

if TYPE_CHECKING:
    import numpy as np

    from kaoken.compiled_model import CompiledModel
    from kaoken.compiler import Progress

PROBE_ROUNDS = 3
PROBE_SECONDS = 0.05


def run_profile(
    job: Job,
    dtype: str,
    schedule: Path | None,
    seconds: float,
    json_file: Path | None,
    html_file: Path | None,
) -> None:
    """Compile with timers unless `job.model` is compiled already, run, and print a table."""
    from rich.console import Console

    check_files(json_file, html_file)
    with work_folder(None) as folder, Console(stderr=True).status("starting") as status:
        job = replace(job, folder=folder)
        with pinned(job.threads):
            figures = profile_model(job, dtype, schedule, seconds, status.update)
    show([figures.table()])
    if json_file is not None:
        write_text(json_file, json.dumps(asdict(figures), indent=1) + "\n")
    if html_file is not None:
        from kaoken.bench.plots import write_op_page

        write_op_page(figures, html_file)


def profile_model(
    job: Job, dtype: str, schedule: Path | None, seconds: float, progress: Progress
) -> OpFigures:
    """The times of the ops, and the machine's limits before and after. Raises KaokenError."""
    model, inputs = _compiled(job, dtype, schedule, progress)
    manifest = model.manifest
    sizes = levels(TargetMachine.parse(job.target), job.threads, manifest["weights_bytes"])
    probe, limits = Probe(manifest["target"], job.folder, [level.size for level in sizes]), Limits()
    progress("the machine's limits")
    for _ in range(PROBE_ROUNDS):
        probe.measure(limits, job.threads, PROBE_SECONDS)
    progress("run")
    ops = model.profile(**inputs, seconds=seconds)
    name = Path(job.model).name
    plural = "s" * (job.threads > 1)
    title = f"{name} {job.batch}x{job.tokens} {manifest['dtype']}, {job.threads} thread{plural}"
    return OpFigures(title, ops, limits, sizes)


def _compiled(
    job: Job, dtype: str, schedule: Path | None, progress: Progress
) -> tuple[CompiledModel, dict[str, np.ndarray]]:
    """The model with timers, and inputs for it."""
    import kaoken
    from kaoken.bench.peers.kaoken_library import compile_job
    from kaoken.bench.text import text_inputs
    from kaoken.bench.workloads import resolve_model

    if is_package(Path(job.model)):
        model = kaoken.load(job.model, job.threads)
        return model, text_inputs(model.manifest, job.batch, job.tokens)
    job = replace(job, model=resolve_model(job.model))
    options: dict[str, Any] = {"dtype": dtype, "schedule": schedule, "profile": True}
    model = compile_job(job, job.folder / "model", **options, progress=progress)
    if job.is_text:
        return model, text_inputs(model.manifest, job.batch, job.tokens)
    return model, {name: value.numpy() for name, value in job.workload().inputs.items()}
