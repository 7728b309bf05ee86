"""`kaoken bench`, `profile` and `tune`: how fast models are, and how to make them faster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kaoken.options import CompileOptions
from kaoken.tools.commands.arguments import CC, Dtype, Schedule, Target, Threads


def bench(
    model: Annotated[
        str,
        typer.Argument(
            help="A name such as minilm or smollm2-135m, a Hugging Face folder, a .gguf, a .mlir."
        ),
    ],
    peers: Annotated[
        str, typer.Option(help="Names or beginnings of names: kaoken_fp32,torch_eager,ov. Or all.")
    ] = "all",
    threads: Annotated[str, typer.Option(help="How many threads; several in turn: 1,2.")] = "1",
    batch: Annotated[int, typer.Option(min=1, help="Texts of one call.")] = 1,
    tokens: Annotated[
        str | None,
        typer.Option(
            help="Tokens of one text, by default 128; for decoders lengths of prompts, by default "
            "8,128,512."
        ),
    ] = None,
    new_tokens: Annotated[
        int, typer.Option(min=1, help="For decoders, how many tokens follow each prompt.")
    ] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each peer.")] = 7,
    seconds: Annotated[float, typer.Option(min=0.0, help="Length of a turn.")] = 1.0,
    calls: Annotated[
        int, typer.Option(min=0, help="Also time this many calls one by one: p50, p99, max.")
    ] = 0,
    starts: Annotated[
        int, typer.Option(min=1, help="Processes to start for the time to the first answer.")
    ] = 1,
    target: Target = "native",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write every figure to this file.")
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write plots and tables to this page.")
    ] = None,
    ops: Annotated[
        bool, typer.Option("--ops", help="Also time each op of kaoken's; --html does so too.")
    ] = False,
    work: Annotated[
        Path | None,
        typer.Option(help="Keep what was built for the peers here, for the next run."),
    ] = None,
) -> None:
    """Time a model beside other programs, and beside what this machine could do at most.

    Every peer runs in a fresh process with pinned threads, in turns (A B A B ...). A peer that is
    not installed is skipped with a word; one whose output is wrong gets no rank. Beside each time
    stands its bound, from the peak rates that a small C program measures between the turns.
    Workloads: minilm, bert-base, vit-base, t5-small-encoder, attention, head, layer-norm, gelu.

    Of decoders (smollm2-135m, gpt2-shape, ternary-llama-shape, a .gguf) it times how soon the
    first token comes after prompts of some lengths, and each token after it; a turn is one text.

    **Examples**

    `kaoken bench minilm --threads 1,2 --html minilm.html`

    `kaoken bench bert-base --tokens 16 --peers kaoken_fp32,torch_eager_fp32,ort,ov --calls 1000`

    `kaoken bench smollm2-135m --peers kaoken,llamacpp --tokens 128,512,2048 --rounds 3`
    """
    from kaoken.bench.harness import Settings
    from kaoken.bench.peer import Job
    from kaoken.tools.bench_command import Outputs, run_bench, work_folder

    settings = Settings(rounds, seconds, calls, starts, ops)
    with work_folder(work) as folder:
        job = Job(model, batch, 0, 1, target, folder)
        outputs = Outputs(json_file, html_file)
        run_bench(job, peers, threads, tokens, new_tokens, settings, outputs)


def profile(
    model: Annotated[
        str,
        typer.Argument(
            help="A name such as minilm, a Hugging Face folder, a .mlir, or a folder that was "
            "compiled with --profile."
        ),
    ],
    batch: Annotated[int, typer.Option(min=1, help="Texts of one call.")] = 1,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of one text.")] = 128,
    threads: Threads = 1,
    dtype: Dtype = "auto",
    target: Target = "native",
    schedule: Schedule = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long to run.")] = 2.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write every figure to this file.")
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write a roofline and the table to this page.")
    ] = None,
) -> None:
    """Show where a model's time goes: each op's share, and how near it is to the machine's limits.

    The model is compiled with a timer at each call of a kernel; equal layers share theirs. Beside
    each time stands what is reached: of the peak rate of the op's precision, and of its bound, the
    longer of its arithmetic at that peak and its bytes read once from the nearest cache.

    **Examples**

    `kaoken profile minilm --tokens 16 --dtype int8 --threads 2`

    `kaoken profile bert-base --schedule tuned.schedule --html bert.html`
    """
    from kaoken.bench.peer import Job
    from kaoken.tools.profile_command import run_profile

    job = Job(model, batch, tokens, threads, target, Path())
    run_profile(job, dtype, schedule, seconds, json_file, html_file)


def tune(
    model: Annotated[
        str,
        typer.Argument(help="A Hugging Face folder, a .pt2, a .mlir, or a name such as minilm."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The schedule file to write.")] = Path(
        "tuned.schedule"
    ),
    dtype: Dtype = "auto",
    threads: Threads = 1,
    tokens: Annotated[
        str, typer.Option(help="Lengths of the texts to time each schedule for.")
    ] = "16,128",
    trials: Annotated[int, typer.Option(min=1, help="Most schedules of one op shape.")] = 48,
    seconds: Annotated[float, typer.Option(min=1.0, help="How long it may take.")] = 600.0,
    target: Target = "native",
    cc: CC = None,
) -> None:
    """Search for schedules that are faster than kaoken's own on this CPU.

    Each distinct op shape is compiled alone with some dozens of schedules, which are timed in
    turns; one is kept when it is better than kaoken's own by more than noise. The result is a file
    in the schedule language, to be read, changed, and given to `kaoken compile --schedule`. Ctrl-C
    ends the search and writes what was found.

    **Examples**

    `kaoken tune all-MiniLM-L6-v2 -o minilm.schedule --threads 2`

    `kaoken compile all-MiniLM-L6-v2 -o minilm --threads 2 --schedule minilm.schedule`
    """
    from kaoken.tools.tune_command import parse_tokens, run_tune
    from kaoken.tuning.tune import TuneOptions

    options = CompileOptions(target, dtype, threads, cc=cc)
    run_tune(model, out, TuneOptions(options, parse_tokens(tokens), trials, seconds))
