"""`kaoken compile`, `run` and `inspect`: packages of encoders and decoders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kaoken.choices import GROUP_SIZE
from kaoken.options import CompileOptions
from kaoken.tools.commands.arguments import (
    CC,
    Budget,
    Dtype,
    Folder,
    GroupSize,
    Json,
    Kv,
    MaxBatch,
    MaxTokens,
    Model,
    Policy,
    Schedule,
    Target,
    Threads,
)


def compile(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    target: Target = "native",
    max_tokens: MaxTokens = 512,
    max_batch: MaxBatch = 8,
    threads: Threads = 1,
    emit: Annotated[
        str,
        typer.Option(help="How far to go: mlir (the imported model), c (C source), so (library)."),
    ] = "so",
    dtype: Dtype = "auto",
    head: Annotated[
        str,
        typer.Option(help="What follows a folder's model: none, auto, mean-pool or sentence."),
    ] = "none",
    schedule: Schedule = None,
    math: Annotated[
        str,
        typer.Option(
            help="Accuracy of exp in softmax, GELU, SiLU, logistic: exact, quake2 (0.3 %) or "
            "quake1 (3 %)."
        ),
    ] = "exact",
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="For int8 and few bits: a file of texts such as the model will read, one a line."
        ),
    ] = None,
    activations: Annotated[
        str,
        typer.Option(help="For int8, scales of activations: dynamic (of each row) or static."),
    ] = "dynamic",
    group_size: GroupSize = GROUP_SIZE,
    policy: Policy = None,
    budget: Budget = None,
    density: Annotated[
        float | None,
        typer.Option(help="Share of numbers behind a ReLU that is not zero: others are skipped."),
    ] = None,
    kv: Kv = "f32",
    cc: CC = None,
    batch: Annotated[
        int, typer.Option(help="Texts that a decoder goes on with in one pass, 1 to 8.")
    ] = 1,
    profile: Annotated[
        bool, typer.Option("--profile", help="Have the model note how long each op takes.")
    ] = False,
) -> None:
    """Compile a model into a folder: C source, header, weights, library, manifest, tokenizer.

    The library takes any number of texts and tokens up to the declared maxima.

    **Examples**

    `kaoken compile all-MiniLM-L6-v2 -o minilm`

    `kaoken compile bert-base -o bert --target x86-64-v3 --max-tokens 128 --threads 4`

    `kaoken compile model.mlir -o out --emit c`

    `kaoken compile all-MiniLM-L6-v2 -o minilm --dtype int8 --calibrate texts.txt`

    `kaoken compile SmolLM2 -o smollm2 --dtype int4 --policy layers.txt`
    """
    from kaoken.tools.compile_command import run_compile, samples_of

    options = CompileOptions(
        target,
        dtype,
        threads,
        schedule,
        cc,
        library=emit == "so",
        profile=profile,
        math=math,
        calibrate=samples_of(Path(model), calibrate, max_tokens),
        activations=activations,
        batch=batch,
        kv=kv,
        group_size=group_size,
        policy=policy,
        budget=budget,
        density=density,
    )
    run_compile(Path(model), out, emit, options, max_tokens, max_batch, head)


def run(
    folder: Folder,
    text: Annotated[list[str], typer.Option("--text", "-t", help="A text; may be repeated.")],
    threads: Annotated[
        int | None, typer.Option(help="Threads to use, at most those compiled for.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Embed texts with a compiled sentence encoder.

    One text prints its embedding; two or more print how similar each pair is, from -1 to 1.
    An embedding is the mean over the text's tokens, scaled to length 1. Needs no PyTorch.

    **Examples**

    `kaoken run minilm --text "A cat sat on the mat."`

    `kaoken run minilm -t "A cat sat." -t "A kitten rests." -t "Shares fell."`
    """
    from kaoken.tools.run_command import run_texts

    run_texts(folder, text, threads, as_json)


def inspect(folder: Folder, as_json: Json = False) -> None:
    """Show what a compiled folder holds: inputs, outputs, ops, memory, weights, target, sizes.

    **Example**

    `kaoken inspect minilm`
    """
    from kaoken.tools.inspect_command import run_inspect

    run_inspect(folder, as_json)
