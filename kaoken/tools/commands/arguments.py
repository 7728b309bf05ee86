"""Arguments and options that several commands of `kaoken` have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str, typer.Argument(help="A Hugging Face folder, a .pt2, a .gguf, or a .mlir with its sidecar.")
]
Folder = Annotated[Path, typer.Argument(help="What `kaoken compile -o` wrote.")]
Target = Annotated[
    str,
    typer.Option(help="The CPU: native, generic, x86-64-v3, x86-64-v4, x86-64-v4+vnni+bf16 ..."),
]
MaxTokens = Annotated[int, typer.Option(min=1, help="Most tokens of one text.")]
MaxBatch = Annotated[int, typer.Option(min=1, help="Most texts of one call.")]
Threads = Annotated[int, typer.Option(min=1, help="Most threads of one call.")]
CC = Annotated[str | None, typer.Option(help="C compiler: gcc, clang, zig, or a command.")]
Dtype = Annotated[
    str,
    typer.Option(
        help="Weights of linear layers: f32, bf16, int8, int6 to int1, ternary, mixed (bits by the "
        "layer), or auto: as they come, those of few bits too."
    ),
]
GroupSize = Annotated[
    int, typer.Option(min=0, help="Few bits: how many weights share a scale; 0: all of a row.")
]
Policy = Annotated[
    Path | None,
    typer.Option(
        help="A file that says what single weights become: a line 'pattern dtype [group]'."
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        help="For mixed: bits a weight (4.5), the size of all weights (60MB), or what a token "
        "reads of them (60MB/token). By default what int4 takes."
    ),
]
Kv = Annotated[
    str, typer.Option(help="What text generation keeps keys and values as: f32, bf16 or int8.")
]
Schedule = Annotated[
    Path | None,
    typer.Option(help="A schedule file, in place of what kaoken chooses; see docs."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
