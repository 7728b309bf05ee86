"""Products of a row and matrices through ggml, llama.cpp's library, out of llama-cpp-python."""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

_F32, _OVERHEAD = 0, 1 << 12
_FILL = 0x11
"""Bytes of weights: as f16 they are normal numbers, and pages of them are not shared zeros."""


@dataclass(frozen=True)
class Kind:
    """One of ggml's types of weights."""

    number: int
    block: int
    """Weights of a block, which rows must fill."""
    block_bytes: int

    @property
    def bits(self) -> float:
        """What a weight takes, scales included."""
        return 8 * self.block_bytes / self.block


KINDS = {
    "Q4_0": Kind(2, 32, 18),
    "Q2_K": Kind(10, 256, 84),
    "TQ1_0": Kind(34, 256, 54),
    "TQ2_0": Kind(35, 256, 66),
    "BF16": Kind(30, 1, 2),
}


class _Parameters(ctypes.Structure):
    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


@cache
def _library() -> Any:
    """ggml's functions, or None where llama-cpp-python is not installed."""
    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "lib"
    base = ctypes.CDLL(str(folder / "libggml-base.so"), ctypes.RTLD_GLOBAL)
    cpu = ctypes.CDLL(str(folder / "libggml-cpu.so"), ctypes.RTLD_GLOBAL)
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    base.ggml_init.restype, base.ggml_init.argtypes = pointer, [_Parameters]
    base.ggml_free.argtypes = [pointer]
    for name, arguments in {
        "ggml_new_tensor_2d": [pointer, ctypes.c_int, size, size],
        "ggml_mul_mat": [pointer, pointer, pointer],
        "ggml_new_graph_custom": [pointer, ctypes.c_size_t, ctypes.c_bool],
        "ggml_build_forward_expand": [pointer, pointer],
        "ggml_get_data": [pointer],
    }.items():
        getattr(base, name).restype, getattr(base, name).argtypes = pointer, arguments
    cpu.ggml_cpu_init()
    cpu.ggml_graph_compute_with_ctx.argtypes = [pointer, pointer, ctypes.c_int]
    return base, cpu


class GgmlProducts:
    """A graph of products of one row of K numbers with `count` matrices [N, K]."""

    def __init__(self, kind: Kind, n: int, k: int, count: int, threads: int):
        base, self._cpu = _library()
        self._threads = threads
        row_bytes = k // kind.block * kind.block_bytes
        self.bytes_read = count * n * row_bytes
        work = 64 << 20
        memory = self.bytes_read + count * (4 * n + 2 * _OVERHEAD) + work
        self._context = base.ggml_init(_Parameters(memory, None, False))
        weakref.finalize(self, base.ggml_free, self._context)
        x = base.ggml_new_tensor_2d(self._context, _F32, k, 1)
        ctypes.memmove(base.ggml_get_data(x), np.ones(k, np.float32).ctypes.data, 4 * k)
        self._graph = base.ggml_new_graph_custom(self._context, 2 * count + 16, False)
        for _ in range(count):
            w = base.ggml_new_tensor_2d(self._context, kind.number, k, n)
            ctypes.memset(base.ggml_get_data(w), _FILL, n * row_bytes)
            y = base.ggml_mul_mat(self._context, w, x)
            base.ggml_build_forward_expand(self._graph, y)

    @staticmethod
    def filling(kind: str, n: int, k: int, total: int, threads: int) -> GgmlProducts | None:
        """Matrices of `total` bytes together; None without ggml, or where rows fill no blocks."""
        found = KINDS[kind]
        if _library() is None or k % found.block:
            return None
        count = max(1, round(total / (n * k * found.bits / 8)))
        return GgmlProducts(found, n, k, count, threads)

    def compute(self) -> None:
        status = self._cpu.ggml_graph_compute_with_ctx(self._context, self._graph, self._threads)
        if status:
            raise RuntimeError(f"ggml_graph_compute failed: {status}")
