"""OpenVINO: fp32, what it chooses itself, int8 weights, and int8 throughout.

On a CPU with bf16 its own choice is bf16. `ov_w8` has int8 weights and quantises activations as
it runs; `ov_ptq` is calibrated by NNCF on random inputs, so the check of outputs decides.
"""

# pyright: reportMissingImports=false
# (the extra `bench` brings what is imported here)

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kaoken.backend.machine import cpu_flags
from kaoken.bench.onnx_export import onnx_model
from kaoken.bench.peer import Job, Peer, Running

MODEL = "model.xml"
CALIBRATIONS = 8


def build(job: Job, folder: Path, change: Callable[[Any, Job], Any] | None = None) -> None:
    import openvino

    model = openvino.Core().read_model(onnx_model(job))
    if change is not None:
        model = change(model, job)
    openvino.save_model(model, folder / MODEL, compress_to_fp16=False)


def int8_weights(model: Any, job: Job) -> Any:
    import nncf

    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)


def int8_throughout(model: Any, job: Job) -> Any:
    import nncf

    inputs, generator = job.inputs(), np.random.default_rng(0)
    samples = [shuffled(inputs, generator) for _ in range(CALIBRATIONS)]
    kind = nncf.ModelType.TRANSFORMER
    return nncf.quantize(model, nncf.Dataset(samples), model_type=kind, subset_size=CALIBRATIONS)


def shuffled(
    inputs: dict[str, np.ndarray], generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """Other inputs of the same kind: the same values elsewhere."""
    return {name: generator.permuted(array, axis=-1) for name, array in inputs.items()}


def settings(job: Job) -> dict[str, Any]:
    """How a model is compiled: for one call at a time."""
    return {
        "INFERENCE_NUM_THREADS": job.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }


def open_(job: Job, folder: Path, precision: str | None = None) -> Running:
    import openvino

    core = openvino.Core()
    hint = {} if precision is None else {"INFERENCE_PRECISION_HINT": precision}
    model = core.compile_model(core.read_model(folder / MODEL), "CPU", settings(job) | hint)
    request = model.create_infer_request()
    known = {name for port in model.inputs for name in port.get_names()}
    feeds = {name: array for name, array in job.inputs().items() if name in known}

    def call() -> Any:
        return request.infer(feeds, share_inputs=True, share_outputs=True)

    return Running(call, lambda result: np.array(result[model.output(0)], np.float32))


OWN_CHOICE = "bf16" if "avx512_bf16" in cpu_flags() else "fp32"
PLAIN, NNCF = ("openvino", "onnx", "onnxscript"), ("openvino", "nncf", "onnx", "onnxscript")
PEERS = (
    Peer("ov_f32", "fp32", build, partial(open_, precision="f32"), PLAIN),
    Peer("ov_default", OWN_CHOICE, build, open_, PLAIN),
    Peer("ov_w8", "int8", partial(build, change=int8_weights), open_, NNCF),
    Peer("ov_ptq", "int8", partial(build, change=int8_throughout), open_, NNCF),
)
