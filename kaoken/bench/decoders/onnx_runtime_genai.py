"""ONNX Runtime GenAI, with what its own model builder makes."""

# pyright: reportMissingImports=false
# (the extra `bench` brings what is imported here)

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from kaoken.bench.peer import Arrived, Generating, Job, Peer, Unsuitable

_CLASSES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


def build(job: Job, folder: Path, precision: str) -> None:
    kind = type(job.decoder_module()).__name__
    if kind not in _CLASSES:
        raise Unsuitable(f"its model builder does not know {kind}")
    spec = find_spec("onnxruntime_genai")
    assert spec is not None
    assert spec.origin is not None
    builder = Path(spec.origin).parent / "models" / "builder.py"
    words = ["-i", str(job.hugging_face), "-o", str(folder), "-p", precision, "-e", "cpu"]
    words += ["-c", str(folder / "cache")]
    if precision.startswith("int"):
        # Sums of int8, as other programs of these precisions have.
        words += ["--extra_options", "accuracy_level=4"]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, str(builder), *words], capture_output=True, text=True, env=offline
    )
    if result.returncode:
        raise RuntimeError(f"the model builder: {result.stderr.strip().splitlines()[-1]}")


def open_(job: Job, folder: Path) -> Generating:
    import onnxruntime_genai

    genai: Any = onnxruntime_genai  # a compiled module, which type checkers do not see into
    config = genai.Config(str(folder))
    session = {"session_options": {"intra_op_num_threads": job.threads}}
    config.overlay(json.dumps({"model": {"decoder": session}}))
    model = genai.Model(config)

    def begin(count: int) -> Any:
        settings = genai.GeneratorParams(model)
        settings.set_search_options(do_sample=False, max_length=count, min_length=count)
        return genai.Generator(model, settings)

    def generate(prompt: np.ndarray, count: int, arrived: Arrived) -> None:
        generator = begin(len(prompt) + count)
        generator.append_tokens(prompt.astype(np.int32))
        for _ in range(count):
            generator.generate_next_token()
            arrived()

    def logits(prompt: np.ndarray) -> np.ndarray:
        generator = begin(len(prompt) + 1)
        generator.append_tokens(prompt.astype(np.int32))
        return np.array(generator.get_logits(), np.float32).reshape(-1)

    return Generating(generate, logits)


PEERS = tuple(
    Peer(
        f"ortgenai_{precision}",
        precision,
        partial(build, precision=precision),
        open_,
        ("onnxruntime_genai", "torch", "onnx_ir"),
        ("onnxruntime-genai", "torch", "onnx-ir"),
    )
    for precision in ("fp32", "int8", "int4")
)
