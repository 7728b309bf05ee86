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


class LlamaCpp:
    """A GGUF file in llama.cpp, and the text that it holds."""

    def __init__(self, path: Path, tokens: int, threads: int, kind: str = ""):
        """For up to `tokens` tokens; caches are F32 with the kind "F32", otherwise F16."""
        import llama_cpp

        self.library: Any = llama_cpp
        llama_cpp.llama_backend_init()
        loading: Any = llama_cpp.llama_model_default_params()
        if b"AMX_INT8 = 1" in llama_cpp.llama_print_system_info():
            # Its code for Intel's matrix unit crashes on quantised heads (0.3.36); bench/README.md
            # has a build without, which may repack weights.
            loading.use_extra_bufts = False
        model: Any = llama_cpp.llama_model_load_from_file(str(path).encode(), loading)
        if model is None:
            raise RuntimeError(f"llama.cpp cannot read {path}")
        settings: Any = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = tokens
        settings.n_threads = settings.n_threads_batch = threads
        if kind == "F32":
            settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F32
        self.context: Any = llama_cpp.llama_init_from_model(model, settings)
        assert self.context is not None
        words: Any = llama_cpp.llama_model_get_vocab(model)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(words)

    def clear(self) -> None:
        """Forget the text."""
        memory: Any = self.library.llama_get_memory(self.context)
        self.library.llama_memory_clear(memory, True)

    def add(self, tokens: np.ndarray) -> np.ndarray:
        """Gives the logits behind the last token, valid up to the next call."""
        ids = np.ascontiguousarray(tokens, np.int32)
        address: Any = ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        batch = self.library.llama_batch_get_one(address, len(ids))
        if self.library.llama_decode(self.context, batch):
            raise RuntimeError("llama_decode failed")
        row = self.library.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(row, (self.vocabulary,))


def open_(job: Job, folder: Path, kind: str) -> Generating:
    model = LlamaCpp(folder / MODEL, job.tokens, job.threads, kind)

    def generate(prompt: np.ndarray, count: int, arrived: Arrived) -> None:
        model.clear()
        row = model.add(prompt)
        for left in range(count, 0, -1):
            token = np.atleast_1d(row.argmax())
            arrived()
            if left > 1:
                row = model.add(token)

    def logits(prompt: np.ndarray) -> np.ndarray:
        model.clear()
        return model.add(prompt).copy()

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
        cache_bytes=4 if kind == "F32" else 2,
    )
    for kind, precision in (
        ("F32", "fp32"),
        ("BF16", "bf16"),
        ("Q8_0", "int8"),
        ("Q4_0", "int4"),
        ("TQ2_0", "ternary"),
    )
)
