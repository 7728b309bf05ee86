"""ONNX Runtime: as it comes, after its transformer optimiser, and with dynamic int8."""

# pyright: reportMissingImports=false
# (the extra `bench` brings what is imported here)

from __future__ import annotations

from pathlib import Path
from typing import Any

from kaoken.bench.onnx_export import onnx_model
from kaoken.bench.peer import Job, Peer, Running, Unsuitable

MODEL = "model.onnx"


def build_plain(job: Job, folder: Path) -> None:
    import onnx

    onnx.save(onnx.load(onnx_model(job)), folder / MODEL)


def build_optimised(job: Job, folder: Path) -> None:
    from onnxruntime.transformers.optimizer import optimize_model

    config: Any = getattr(job.workload().module, "config", None)
    if config is None:
        raise Unsuitable("its optimiser knows only transformers")
    kind = "vit" if config.model_type == "vit" else "bert"
    source = str(onnx_model(job))
    optimised = optimize_model(
        source, kind, config.num_attention_heads, config.hidden_size, opt_level=0
    )
    optimised.save_model_to_file(str(folder / MODEL))


def build_int8(job: Job, folder: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # One scale a channel: with one a matrix, its default, MiniLM's answers are too far off.
    quantize_dynamic(onnx_model(job), folder / MODEL, weight_type=QuantType.QInt8, per_channel=True)


def open_(job: Job, folder: Path) -> Running:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    path, providers = str(folder / MODEL), ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    wanted = {one.name for one in session.get_inputs()}
    feeds = {name: array for name, array in job.inputs().items() if name in wanted}
    return Running(lambda: session.run(None, feeds), lambda result: result[0])


_PACKAGES = ("onnxruntime", "onnx", "onnxscript")
PEERS = (
    Peer("ort_fp32", "fp32", build_plain, open_, _PACKAGES),
    Peer("ort_opt", "fp32", build_optimised, open_, _PACKAGES),
    Peer("ort_int8", "int8", build_int8, open_, _PACKAGES),
)
