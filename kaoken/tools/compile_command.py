"""`kaoken compile`: from a model on disk to a package, or to where the user wants to stop."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kaoken.compiler import Progress, compile_module, import_model
from kaoken.errors import KaokenError
from kaoken.model_files import is_decoder, tokenizer_files
from kaoken.modules import notes_of
from kaoken.options import CompileOptions

if TYPE_CHECKING:
    import numpy as np
    from xdsl.dialects.builtin import ModuleOp

EMIT = ("mlir", "c", "so")
_WINDOW = 256
"""Tokens of a decoder's calibration samples."""


def run_compile(
    model: Path,
    out: Path,
    emit: str,
    options: CompileOptions,
    max_tokens: int,
    max_batch: int,
    head: str,
) -> None:
    """Compile, and print what was written. KaokenError when anything is wrong.

    What can be wrong with the options is found out before the work begins.
    """
    if emit not in EMIT:
        raise KaokenError(f"unknown --emit {emit}: choose from {', '.join(EMIT)}")
    options.check(out)
    options = replace(options, copied_files=tokenizer_files(model))
    with progress_line() as progress:
        progress("import")
        module = import_model(model, max_tokens=max_tokens, max_batch=max_batch, head=head)
        if emit == "mlir":
            _write_mlir(module, out, options)
        else:
            compile_module(module, out, options, progress)
    for note in notes_of(module):
        print(note)
    print(f"wrote {out} ({progress.summary()})")


def samples_of(model: Path, texts: Path | None, max_tokens: int) -> list[dict[str, np.ndarray]]:
    """The lines of a file as a model's sample inputs, a decoder's the text in windows.

    KaokenError without texts or tokenizer.
    """
    if texts is None:
        return []
    from kaoken.texts import text_samples, window_samples

    if is_decoder(model):
        files = tokenizer_files(model)
        folder = files[0].parent if files else model
        return window_samples(folder, texts, min(max_tokens, _WINDOW))
    return text_samples(model.parent if model.suffix == ".mlir" else model, texts, max_tokens)


def _write_mlir(module: ModuleOp, out: Path, options: CompileOptions) -> None:
    """The imported model as text with its weights beside it, and the tokenizer's files."""
    from kaoken.backend.names import c_identifier
    from kaoken.backend.package import output_folder
    from kaoken.modules import write_module

    with output_folder(out) as draft:
        write_module(module, draft / f"{c_identifier(out.name)}.mlir")
        for path in options.copied_files:
            shutil.copyfile(path, draft / path.name)


class StageTimes:
    """How long each stage took; a stage ends where the next begins."""

    def __init__(self, show: Progress):
        self._show = show
        self._started: list[tuple[str, float]] = []

    def __call__(self, stage: str) -> None:
        self._started.append((stage, time.perf_counter()))
        self._show(stage)

    def summary(self) -> str:
        """The whole, and the stages that took a tenth of it or more."""
        times = [at for _, at in self._started] + [time.perf_counter()]
        total = times[-1] - times[0]
        names = [name for name, _ in self._started]
        spans = [(n, b - a) for n, a, b in zip(names, times, times[1:], strict=False)]
        long = [f"{name} {span:.1f}" for name, span in spans if span >= total / 10]
        return f"{total:.1f} s: {', '.join(long)}"


@contextmanager
def progress_line() -> Iterator[StageTimes]:
    """A line on the terminal that names the stage at work; nothing where stderr is no terminal."""
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield StageTimes(lambda stage: status.update(stage))
