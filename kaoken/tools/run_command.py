"""`kaoken run`: texts through a compiled sentence encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kaoken.compiled_model import CompiledModel
from kaoken.compiler import load
from kaoken.errors import KaokenError
from kaoken.json_files import print_json
from kaoken.texts import FILL, batch_tokenizer, encoder_inputs

_SENTENCE = "sentence_embedding"
"""The output of a sentence head."""


def run_texts(folder: Path, texts: Sequence[str], threads: int | None, as_json: bool) -> None:
    vectors = embed(folder, texts, threads)
    if as_json:
        similarities = (vectors @ vectors.T).tolist()
        print_json({"embeddings": vectors.tolist(), "similarities": similarities})
    elif len(texts) == 1:
        print(np.array2string(vectors[0], precision=6, threshold=vectors.size, max_line_width=100))
    else:
        _print_similarities(texts, vectors @ vectors.T)


def embed(folder: Path, texts: Sequence[str], threads: int | None = None) -> np.ndarray:
    """One row of length 1 for each text, as many at a time as the model takes.

    Raises KaokenError when the folder has no tokenizer or the model is no text encoder.
    """
    model = load(folder, threads)
    unknown = [spec["name"] for spec in model.manifest["inputs"] if spec["name"] not in FILL]
    if unknown:
        raise KaokenError(f"{folder} is no text encoder: it has an input {unknown[0]}")
    tokenizer = batch_tokenizer(folder, model.manifest["symbols"].get("tokens"))
    rows: list[np.ndarray] = []
    for some in _batches(texts, model.manifest["symbols"].get("batch", 1)):
        rows.append(_embed_batch(model, tokenizer.encode_batch(some)))
    return np.concatenate(rows)


def _batches(texts: Sequence[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(texts), size):
        yield list(texts[start : start + size])


def _embed_batch(model: CompiledModel, encodings: Sequence[Any]) -> np.ndarray:
    inputs = encoder_inputs(
        encodings, {spec["name"]: spec["dtype"] for spec in model.manifest["inputs"]}
    )
    mask = np.array([e.attention_mask for e in encodings], np.float32)
    names = [entry["name"] for entry in model.manifest["outputs"]]
    outputs = dict(zip(names, _tensors(model(**inputs)), strict=True))
    vectors = outputs.get(_SENTENCE, _pool(next(iter(outputs.values())), mask))
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _tensors(result: Any) -> list[np.ndarray]:
    if isinstance(result, np.ndarray):
        return [result]
    values = result.values() if hasattr(result, "values") else result
    return [value for value in values if isinstance(value, np.ndarray)]


def _pool(output: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mean over each text's tokens, or what the model pooled itself."""
    if output.ndim == 2:
        return output
    if output.ndim != 3:
        raise KaokenError("the model's first output is neither token nor sentence vectors")
    weights = mask[:, :, None]
    return (output * weights).sum(1) / np.maximum(weights.sum(1), 1)


def _print_similarities(texts: Sequence[str], similarities: np.ndarray) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1))
    table.add_column("")
    for number in range(1, len(texts) + 1):
        table.add_column(str(number), justify="right")
    for number, (text, row) in enumerate(zip(texts, similarities, strict=True), 1):
        table.add_row(f"{number}. {text}", *(f"{value:.3f}" for value in row))
    Console().print(table)
