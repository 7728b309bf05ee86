"""Texts as the inputs of an encoder: what `kaoken run` embeds, and what calibration samples are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kaoken.errors import KaokenError

FILL = {"token_type_ids": "type_ids", "input_ids": "ids", "attention_mask": "attention_mask"}
"""Input name to the attribute of a tokenizers.Encoding."""


def read_tokenizer(folder: Path, max_tokens: int | None) -> Any:
    """The tokenizer of a folder, which pads a batch and cuts texts to `max_tokens`.

    Raises KaokenError where there is none.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise KaokenError("tokenizers is not installed: `pip install tokenizers`") from None
    path = folder / "tokenizer.json"
    if not path.exists():
        raise KaokenError(f"{folder} has no tokenizer.json: copy the model's there")
    tokenizer = Tokenizer.from_file(str(path))
    padding = tokenizer.padding or {}
    tokenizer.enable_padding(**{k: v for k, v in padding.items() if k.startswith("pad_")})
    if max_tokens is not None:
        tokenizer.enable_truncation(max_tokens)
    return tokenizer


def encoder_inputs(encodings: Sequence[Any], dtypes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays [texts, tokens] that the named inputs of an encoder take."""
    return {
        name: np.array([getattr(e, FILL[name]) for e in encodings], dtype)
        for name, dtype in dtypes.items()
    }


def read_texts(path: Path) -> list[str]:
    """The lines of a file that are not blank. KaokenError where there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KaokenError(f"{path} cannot be read as text: {error}") from None
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise KaokenError(f"{path} has no text in it: give one text a line")
    return texts


def text_samples(folder: Path, path: Path, max_tokens: int) -> list[dict[str, np.ndarray]]:
    """Each line of a file as the inputs of an encoder, alone. KaokenError without a tokenizer."""
    texts = read_texts(path)
    tokenizer = read_tokenizer(folder, max_tokens)
    dtypes = dict.fromkeys(FILL, np.int64)
    return [encoder_inputs([e], dtypes) for e in map(tokenizer.encode, texts)]
