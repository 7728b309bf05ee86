"""ONNX Runtime in fp32, all graph optimisations, from PyTorch's ONNX export."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.workloads import Workload


def prepare(workload: Workload, threads: int) -> Callable[[], Any]:
    import onnxruntime
    import torch

    folder = Path(tempfile.mkdtemp())
    names = list(workload.inputs)
    torch.onnx.export(
        workload.module,
        (),
        str(folder / "model.onnx"),
        kwargs=workload.export_inputs,
        input_names=names,
        dynamic_shapes=workload.dynamic_shapes,
        dynamo=True,
        verbose=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    wanted = [i.name for i in session.get_inputs()]
    arrays = [value.numpy() for value in workload.inputs.values()]
    feeds = dict(zip(wanted, arrays, strict=False))
    return lambda: session.run(None, feeds)
