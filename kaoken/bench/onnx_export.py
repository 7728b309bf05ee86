"""The job's model as ONNX, from PyTorch's exporter with the job's very sizes; peers share it."""

from __future__ import annotations

from pathlib import Path

from kaoken.bench.peer import Job


def onnx_model(job: Job) -> Path:
    """The ONNX file; exported by whoever asks first. Raises Unsuitable for a .mlir."""
    folder = job.folder / "onnx"
    if not folder.exists():
        draft = job.folder / "onnx.draft"
        draft.mkdir(exist_ok=True)
        _export(job, draft / "model.onnx")
        draft.rename(folder)
    return folder / "model.onnx"


def _export(job: Job, path: Path) -> None:
    import torch

    workload = job.workload()
    with torch.no_grad():
        torch.onnx.export(
            workload.module,
            (),
            str(path),
            kwargs=workload.inputs,
            input_names=list(workload.inputs),
            dynamo=True,
            verbose=False,
        )
