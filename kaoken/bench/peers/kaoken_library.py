"""kaoken, called through arrays bound before; sizes left open, as users compile it."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kaoken.bench.peer import Job, Peer, Running

if TYPE_CHECKING:
    from kaoken.compiled_model import CompiledModel
    from kaoken.profile import OpTime


def build(job: Job, folder: Path, dtype: str) -> None:
    compile_job(job, folder / "model", dtype=dtype)


def compile_job(job: Job, out: Path, **options: Any) -> CompiledModel:
    """The job's model, compiled with kaoken's options into a folder."""
    import kaoken

    model: dict[str, Any] = {"module": job.model}
    if not job.is_text:
        workload = job.workload()
        model = {
            "module": workload.module,
            "kwargs": workload.export_inputs,
            "dynamic_shapes": workload.dynamic_shapes,
        }
    return kaoken.compile(**model, target=job.target, threads=job.threads, out=out, **options)


def profile(job: Job, folder: Path, dtype: str, seconds: float) -> list[OpTime]:
    """How long each op takes, in a build of its own that has timers."""
    model = compile_job(job, folder / "model", dtype=dtype, profile=True)
    return model.profile(**job.inputs(), seconds=seconds)


def open_(job: Job, folder: Path) -> Running:
    import kaoken

    return Running(kaoken.load(folder / "model").bind(**job.inputs()), first_array)


def first_array(result: Any) -> np.ndarray:
    """The first array of any output structure."""
    while not isinstance(result, np.ndarray):
        result = next(iter(result.values() if hasattr(result, "values") else result))
    return result.astype(np.float32)


WEIGHTS_MAPPING = "huge" if os.environ.get("KAOKEN_WEIGHTS") == "copied" else "file"
"""How the runtime holds weights."""
PEERS = tuple(
    Peer(
        f"kaoken_{name}",
        name,
        partial(build, dtype=dtype),
        open_,
        mapping=WEIGHTS_MAPPING,
        rebuilt=True,
        profile=partial(profile, dtype=dtype),
    )
    for name, dtype in (("fp32", "f32"), ("bf16", "bf16"), ("int8", "int8"))
)
