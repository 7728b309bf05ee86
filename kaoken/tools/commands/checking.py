"""`kaoken generate`, `eval` and `verify`: what a compiled model says, and how right it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kaoken.options import CompileOptions
from kaoken.tools.commands.arguments import CC, Dtype, Json, Kv, Model, Target, Threads


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
