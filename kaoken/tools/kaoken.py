"""`kaoken`: compile a model, run it, verify it, look into it.

Every command is a function of `app`; what is slow to import is imported inside. An error that the
user can mend is one line on stderr and exit code 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kaoken.choices import GROUP_SIZE
from kaoken.errors import KaokenError
from kaoken.options import CompileOptions

app = typer.Typer(
    name="kaoken",
    help="Turn trained transformers into fast, self-contained C libraries.",
    epilog="Start with: kaoken compile path/to/huggingface/folder -o encoder",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

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
        help="Weights of linear layers: f32, bf16, int8, int4, int2, ternary, int1, or auto: as "
        "they come, those of few bits too."
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
Kv = Annotated[
    str, typer.Option(help="What text generation keeps keys and values as: f32, bf16 or int8.")
]
Schedule = Annotated[
    Path | None,
    typer.Option(help="A schedule file, in place of what kaoken chooses; see docs."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command()
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
    )
    run_compile(Path(model), out, emit, options, max_tokens, max_batch, head)


@app.command()
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


@app.command()
def generate(
    model: Annotated[
        Path,
        typer.Argument(
            help="A Hugging Face folder, a .gguf, or what `kaoken compile` wrote for a decoder."
        ),
    ],
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What the text begins with.")],
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", min=1, help="Most tokens to add.")
    ] = 128,
    temperature: Annotated[
        float | None,
        typer.Option(help="Draw tokens; below 1 likelier ones more often, 0: the likeliest."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Draw from so many of the likeliest tokens; 0: from all.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the likeliest that make up this much, 0 to 1.")
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(help="Draw from tokens with this part of the likeliest one's probability."),
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1: tokens that came before come less often again.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Draw the same tokens each time.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; may be repeated.")
    ] = None,
    speculate: Annotated[
        int, typer.Option(help="Guess up to so many tokens at a time from the text so far, 0 to 7.")
    ] = 0,
    num_beams: Annotated[
        int | None,
        typer.Option(help="Follow so many likely texts, print the best at the end; 1: one text."),
    ] = None,
    prefix_cache: Annotated[
        Path | None,
        typer.Option(help="A file that keeps the prompt computed, for prompts that begin alike."),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Put the prompt as a question, by the chat template.")
    ] = False,
    system: Annotated[
        str | None, typer.Option(help="What the chat template says before the question.")
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Most tokens of prompt and answer together; by default 1024."),
    ] = None,
    target: Target = "native",
    threads: Threads = 1,
    dtype: Dtype = "auto",
    kv: Kv = "f32",
    cc: CC = None,
    as_json: Json = False,
) -> None:
    """Continue a prompt, and print the text as it comes.

    Each token is the likeliest, unless one of --temperature, --top-k, --top-p, --min-p and --seed
    is given, or the model's own generation_config says so: then tokens are drawn. A model is
    compiled at the first time, and kept in kaoken's cache; for a Hugging Face folder this needs
    PyTorch, for a .gguf it does not. How long the first token took, and tokens a second after it,
    go to stderr.

    **Examples**

    `kaoken generate SmolLM2-135M-Instruct.Q4_1.gguf --prompt "The capital of France is"`

    `kaoken generate smollm2 --chat -p "Why is the sky blue?" --max-new-tokens 200`

    `kaoken generate smollm2 -p "Once upon a time" --temperature 0.8 --top-p 0.95 --stop "The end"`
    """
    from kaoken.tools.generate_command import Request, run_generate

    sampling = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "prompt_lookup_num_tokens": speculate or None,
        "num_beams": num_beams,
    }
    request = Request(prompt, chat, stop or (), seed, prefix_cache, sampling, system)
    compiling = CompileOptions(target, dtype, threads, None, cc, kv=kv)
    run_generate(model, request, compiling, max_tokens, as_json)


@app.command("eval")
def evaluate(
    model: Annotated[
        Path, typer.Argument(help="A decoder: a .gguf, a Hugging Face folder, or compiled.")
    ],
    text: Annotated[Path, typer.Option(help="A file of text in UTF-8.")],
    tokens: Annotated[
        int | None, typer.Option(min=2, help="Read this many tokens of it; by default all.")
    ] = None,
    window: Annotated[
        int, typer.Option(min=2, help="Tokens of a window, at most what the model holds.")
    ] = 1024,
    against: Annotated[
        Path | None,
        typer.Option(help="Another model of that vocabulary; in f32 unless compiled."),
    ] = None,
    target: Target = "native",
    threads: Threads = 1,
    dtype: Dtype = "auto",
    kv: Kv = "f32",
    cc: CC = None,
    as_json: Json = False,
) -> None:
    """Measure how well a decoder predicts a text: its perplexity.

    The text is read in windows that do not overlap; each token is predicted from those before it in
    its window. With `--against` also how far the model's distributions are from the other one's
    (Kullback-Leibler divergence), and how often both have the same likeliest token.

    **Examples**

    `kaoken eval SmolLM2-135M-Instruct.Q4_1.gguf --text wikitext-2-test.txt --tokens 20000`

    `kaoken eval smollm2.gguf --dtype int8 --against smollm2.gguf --text wikitext-2-test.txt`
    """
    from kaoken.tools.eval_command import Request, run_eval

    options = CompileOptions(target, dtype, threads, None, cc, kv=kv)
    run_eval(model, Request(text, tokens, window, against), options, as_json)


@app.command()
def verify(
    model: Model,
    target: Target = "native",
    threads: Threads = 1,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Largest difference allowed, relative to the largest value or 1. "
            "[default: 1e-5, of decoders 1e-3]"
        ),
    ] = None,
    dtype: Dtype = "auto",
    texts: Annotated[
        Path | None,
        typer.Option(help="Texts, one a line, whose similarities are ranked; some are built in."),
    ] = None,
    cc: CC = None,
    as_json: Json = False,
) -> None:
    """Compare a compiled model with PyTorch: each layer and the output, or a decoder's text.

    Prints the largest absolute difference, the root of the mean square, the largest in units of the
    last place, and the cosine; for a folder with a tokenizer also the rank correlation (Spearman)
    of the similarities of sentences. Exit code 0 when all differences are within the tolerance, or
    for bf16 and int8 all cosines are high, else 1.
    A .mlir is compared with the reference interpreter instead.

    Of a decoder, a Hugging Face folder or a .gguf, it compares the logits behind some prompts and
    behind each token that it generates after them, and counts the tokens that PyTorch chooses too.

    **Examples**

    `kaoken verify all-MiniLM-L6-v2`

    `kaoken verify SmolLM2-135M-Instruct.Q4_1.gguf`

    `kaoken verify all-MiniLM-L6-v2 --dtype int8 --texts sentences.txt`

    `kaoken verify model.mlir --target generic --json`
    """
    from kaoken.tools.verify_command import Request, run_verify

    options = CompileOptions(target, dtype, threads, cc=cc)
    if not run_verify(model, options, Request(tolerance, texts), as_json):
        raise typer.Exit(1)


@app.command()
def inspect(folder: Folder, as_json: Json = False) -> None:
    """Show what a compiled folder holds: inputs, outputs, ops, memory, weights, target, sizes.

    **Example**

    `kaoken inspect minilm`
    """
    from kaoken.tools.inspect_command import run_inspect

    run_inspect(folder, as_json)


@app.command()
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


@app.command()
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


@app.command()
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


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2))


def main(args: list[str] | None = None) -> None:
    """Entry point of `kaoken`; `args` defaults to those of the process."""
    try:
        app(args)
    except KaokenError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
