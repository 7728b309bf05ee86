"""The ways in: torch modules, exported programs, Hugging Face folders, .mlir files."""

from __future__ import annotations

from pathlib import Path

from xdsl.dialects.builtin import ModuleOp


def import_file(path: str | Path) -> ModuleOp:
    """The module in a Hugging Face folder, a .pt2 or a .mlir file; see `load_model`."""
    from kaoken.frontend.load import load_model

    return load_model(path)
