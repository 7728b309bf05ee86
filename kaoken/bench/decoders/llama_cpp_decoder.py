"""llama.cpp through llama-cpp-python, with files that its own quantiser makes."""

# pyright: reportMissingImports=false
# (the extra `bench` brings what is imported here)

from __future__ import annotations

import ctypes
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kaoken.backend.machine import cpu_flags
from kaoken.bench.decoder_models import TERNARY
from kaoken.bench.peer import Arrived, Generating, Job, Peer, Unsuitable

MODEL = "model.gguf"


def build(job: Job, folder: Path, kind: str) -> None:
    import llama_cpp

    if not job.gguf.exists():
        raise Unsuitable("this model has no GGUF file")
    if kind == "F32":
        shutil.copyfile(job.gguf, folder / MODEL)
        return
    if kind == "TQ2_0" and job.model not in TERNARY:
        raise Unsuitable("the weights of this model are not ternary")
    settings: Any = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    source, target = (str(path).encode() for path in (job.gguf, folder / MODEL))
    if llama_cpp.llama_model_quantize(source, target, settings):
        raise RuntimeError(f"llama_model_quantize failed for {kind}")


def open_(job: Job, folder: Path, kind: str) -> Generating:
    import llama_cpp

    llama_cpp.llama_backend_init()
    path = str(folder / MODEL).encode()
    loading: Any = llama_cpp.llama_model_default_params()
    if "amx_int8" in cpu_flags():
        # Its code for Intel's matrix unit crashes on quantised heads (0.3.36).
        loading.use_extra_bufts = False
    model: Any = llama_cpp.llama_model_load_from_file(path, loading)
    assert model is not None
    settings: Any = llama_cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = job.tokens
    settings.n_threads = settings.n_threads_batch = job.threads
    if kind == "F32":
        settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F32
    context: Any = llama_cpp.llama_init_from_model(model, settings)
    assert context is not None
    memory: Any = llama_cpp.llama_get_memory(context)
    words: Any = llama_cpp.llama_model_get_vocab(model)
    vocabulary = llama_cpp.llama_vocab_n_tokens(words)

    def add(tokens: np.ndarray) -> np.ndarray:
        """Gives the logits behind the last token, valid up to the next call."""
        ids = np.ascontiguousarray(tokens, np.int32)
        address: Any = ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(address, len(ids))):
            raise RuntimeError("llama_decode failed")
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (vocabulary,))

    def generate(prompt: np.ndarray, count: int, arrived: Arrived) -> None:
        llama_cpp.llama_memory_clear(memory, True)
        row = add(prompt)
        for left in range(count, 0, -1):
            token = np.atleast_1d(row.argmax())
            arrived()
            if left > 1:
                row = add(token)

    def logits(prompt: np.ndarray) -> np.ndarray:
        llama_cpp.llama_memory_clear(memory, True)
        return add(prompt).copy()

    return Generating(generate, logits)


PEERS = tuple(
    Peer(
        f"llamacpp_{kind}",
        precision,
        partial(build, kind=kind),
        partial(open_, kind=kind),
        ("llama_cpp", "gguf", "torch"),
        ("llama-cpp-python", "gguf", "torch"),
        mapping="file",
    )
    for kind, precision in (
        ("F32", "fp32"),
        ("BF16", "bf16"),
        ("Q8_0", "int8"),
        ("Q4_0", "int4"),
        ("TQ2_0", "ternary"),
    )
)
