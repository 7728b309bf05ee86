"""One way in for everything that kaoken compiles, whichever importer reads it."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from xdsl.dialects.builtin import ModuleOp

from kaoken.errors import KaokenError
from kaoken.options import check_whole

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

    Source = torch.nn.Module | ExportedProgram | ModuleOp | str | Path


def load_model(
    source: Source,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    max_batch: int = 8,
    max_tokens: int = 512,
    head: str = "none",
    name: str | None = None,
) -> ModuleOp:
    """A module with its weights, from whatever holds a model.

    An nn.Module is exported with `args`, `kwargs` and `dynamic_shapes`, as torch.export.export
    takes them. A path is a Hugging Face folder (up to `max_batch` texts of `max_tokens` tokens;
    `head` as in `import_folder`; a causal language model without a head becomes a decoder for
    contexts of `max_tokens` tokens), a `.pt2`, a `.gguf` (contexts as well) or a `.mlir` beside
    its sidecar. Raises KaokenError.
    """
    check_whole(max_batch=max_batch, max_tokens=max_tokens)
    if isinstance(source, ModuleOp):
        return source
    if isinstance(source, str | Path):
        _refuse_arguments(Path(source), args, kwargs, dynamic_shapes)
        return _load_path(Path(source), max_batch, max_tokens, head, name)
    from kaoken.frontend.torch_export import import_exported, import_module

    if _is_module(source):
        return import_module(source, args, kwargs, dynamic_shapes, name)
    if _is_program(source):
        return import_exported(source, name)
    kind = type(source).__name__
    raise KaokenError(f"kaoken compiles a torch module, an exported program or a path, not {kind}")


def _load_path(
    path: Path, max_batch: int, max_tokens: int, head: str, name: str | None
) -> ModuleOp:
    if not path.exists():
        raise KaokenError(f"there is no file or folder {path}")
    if path.is_dir():
        from kaoken.frontend.hugging_face import import_folder
        from kaoken.frontend.hugging_face_decoder import import_decoder_folder, is_causal_folder
        from kaoken.frontend.hugging_face_seq2seq import import_seq2seq_folder, is_seq2seq_folder

        if head == "none" and is_causal_folder(path):
            return import_decoder_folder(path, max_tokens, name)
        if head == "none" and is_seq2seq_folder(path):
            return import_seq2seq_folder(path, max_tokens, name)
        return import_folder(path, max_batch=max_batch, max_tokens=max_tokens, head=head, name=name)
    if path.suffix == ".mlir":
        from kaoken.modules import read_module

        return read_module(path)
    if path.suffix == ".pt2":
        return import_pt2(path, name)
    if path.suffix == ".gguf":
        from kaoken.frontend.gguf import import_gguf

        return import_gguf(path, max_tokens, name)
    raise KaokenError(
        f"{path} is no model that kaoken reads: "
        "give a Hugging Face folder, a .pt2 of torch.export.save, a .gguf or a .mlir"
    )


def import_pt2(path: Path, name: str | None = None) -> ModuleOp:
    """The program that `torch.export.save` wrote. Raises KaokenError when the file is broken."""
    import torch

    from kaoken.frontend.torch_export import import_exported, quietly

    if not zipfile.is_zipfile(path):
        raise KaokenError(f"{path} is not what torch.export.save writes, or it is truncated")
    with quietly():
        try:
            program = torch.export.load(path)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise KaokenError(f"torch cannot load {path}: {reason}") from error
    return import_exported(program, name or path.stem)


def _is_module(source: Any) -> TypeGuard[torch.nn.Module]:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.nn.Module)


def _is_program(source: Any) -> TypeGuard[ExportedProgram]:
    return hasattr(source, "graph_signature") and hasattr(source, "run_decompositions")


def _refuse_arguments(path: Path, args: Any, kwargs: Any, dynamic_shapes: Any) -> None:
    if args or kwargs or dynamic_shapes:
        raise KaokenError(
            f"example inputs and dynamic_shapes go with a torch module: {path} says its own"
        )
