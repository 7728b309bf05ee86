"""PyTorch: eager in fp32 and bf16, torch.compile."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kaoken.bench.peer import Job, Peer, Running


def build(job: Job, folder: Path, dtype: str) -> None:
    import torch

    torch.save(job.workload().module.to(getattr(torch, dtype)), folder / "model.pt")


def open_(job: Job, folder: Path, compiled: bool = False) -> Running:
    import torch

    torch.set_num_threads(job.threads)
    module = torch.load(folder / "model.pt", weights_only=False, mmap=True)
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    inputs = {name: torch.from_numpy(array) for name, array in job.inputs().items()}
    if compiled:
        module = torch.compile(module, dynamic=False)
    inputs = {n: t.to(dtype) if t.is_floating_point() else t for n, t in inputs.items()}

    def call() -> Any:
        with torch.inference_mode():
            return module(**inputs)

    return Running(call, first_tensor)


def first_tensor(result: Any) -> np.ndarray:
    import torch

    while not isinstance(result, torch.Tensor):
        result = next(iter(result.values() if hasattr(result, "values") else result))
    return result.float().numpy()


PEERS = (
    Peer("torch_eager_fp32", "fp32", partial(build, dtype="float32"), open_, ("torch",)),
    Peer("torch_eager_bf16", "bf16", partial(build, dtype="bfloat16"), open_, ("torch",)),
    Peer(
        "torch_compile_fp32",
        "fp32",
        partial(build, dtype="float32"),
        partial(open_, compiled=True),
        ("torch",),
    ),
)
