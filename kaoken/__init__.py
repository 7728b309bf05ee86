"""kaoken compiles trained transformers to fast, self-contained C.

model = kaoken.compile(module, (example,))      # or a Hugging Face folder, a .pt2, a .mlir
model = kaoken.load("folder")                   # what was compiled before, without torch
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from kaoken.errors import KaokenError

if TYPE_CHECKING:
    from kaoken.compiled_decoder import CompiledDecoder
    from kaoken.compiled_model import CompiledModel
    from kaoken.compiler import compile, load, load_decoder
    from kaoken.tuning.tune import tune

__all__ = [
    "CompiledDecoder",
    "CompiledModel",
    "KaokenError",
    "compile",
    "load",
    "load_decoder",
    "tune",
]

_HOMES = {
    "CompiledDecoder": "kaoken.compiled_decoder",
    "CompiledModel": "kaoken.compiled_model",
    "compile": "kaoken.compiler",
    "load": "kaoken.compiler",
    "load_decoder": "kaoken.compiler",
    "tune": "kaoken.tuning.tune",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'kaoken' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
