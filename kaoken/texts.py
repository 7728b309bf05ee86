"""Texts as the inputs of an encoder: what `kaoken run` embeds, and what calibration samples are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kaoken.errors import KaokenError
from kaoken.tokenizer_parts import open_parts

FILL = {"token_type_ids": "type_ids", "input_ids": "ids", "attention_mask": "attention_mask"}
"""Input name to the attribute of a tokenizers.Encoding."""

MOST_WINDOWS = 32
"""How many windows of a text a decoder is calibrated with: more change little, but take longer."""
SENTENCES = (
    "A cat sat on the mat.",
    "A kitten rests on a rug.",
    "Two dogs run along the beach after a red ball.",
    "The puppy chased its tail in the garden.",
    "Shares fell for a third day as oil prices rose.",
    "The central bank left interest rates unchanged.",
    "Investors sold bonds after the inflation report.",
    "How do I reset my password?",
    "I can't log in to my account any more.",
    "What is the capital of Australia?",
    "Canberra lies between Sydney and Melbourne.",
    "The recipe needs two eggs, flour and a pinch of salt.",
    "Whisk the cream until it forms soft peaks.",
    "She bakes bread every Sunday morning.",
    "The rover sent back pictures of a dry river bed on Mars.",
    "Astronomers found water vapour around a distant planet.",
    "A solar eclipse will be visible from Spain in August.",
    "The striker scored twice in the last ten minutes.",
    "Their goalkeeper was sent off before half time.",
    "He has played the violin since he was five.",
    "The orchestra rehearses in an old church.",
    "Rain is expected in the north, with snow on high ground.",
    "The train to Berlin is forty minutes late.",
    "Flights were cancelled because of the storm.",
    "A vaccine trains the immune system to know a virus.",
    "Patients should take the tablets with food.",
    "Quicksort divides a list around a pivot.",
    "The compiler unrolls the loop and keeps sums in registers.",
    "Ownership rules prevent two threads from writing at once.",
    "The treaty was signed in 1648 and ended the war.",
    "Roman roads still shape the map of Europe.",
    "Nobody knew who had left the letter on the table.",
)
"""Of several subjects, some alike: what similarities are compared on unless texts are given."""


def open_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder. KaokenError where there is none or a broken one."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise KaokenError("tokenizers is not installed: `pip install tokenizers`") from None
    path = folder / "tokenizer.json"
    if not path.exists():
        raise KaokenError(f"{folder} has no tokenizer.json: copy the model's there")
    try:
        return open_parts(folder) or Tokenizer.from_file(str(path))
    except Exception as error:  # the only class that tokenizers raises
        raise KaokenError(f"{path} is no tokenizer: {error}") from None


def batch_tokenizer(folder: Path, max_tokens: int | None) -> Any:
    """`open_tokenizer`, so that it pads a batch and cuts texts to `max_tokens`."""
    tokenizer = open_tokenizer(folder)
    padding = tokenizer.padding or {}
    tokenizer.enable_padding(**{k: v for k, v in padding.items() if k.startswith("pad_")})
    if max_tokens is not None:
        tokenizer.enable_truncation(max_tokens)
    return tokenizer


def whole_tokenizer(folder: Path) -> Any:
    """`open_tokenizer`, so that it neither pads nor cuts, whatever its file says."""
    tokenizer = open_tokenizer(folder)
    tokenizer.no_padding()
    tokenizer.no_truncation()
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
        reason = getattr(error, "strerror", None) or "it is not in UTF-8"
        raise KaokenError(f"{path} cannot be read as text: {reason}") from None
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise KaokenError(f"{path} has no text in it: give one text a line")
    return texts


def text_samples(folder: Path, path: Path, max_tokens: int) -> list[dict[str, np.ndarray]]:
    """Each line of a file as the inputs of an encoder, alone. KaokenError without a tokenizer."""
    texts = read_texts(path)
    tokenizer = batch_tokenizer(folder, max_tokens)
    dtypes = dict.fromkeys(FILL, np.int64)
    return [encoder_inputs([e], dtypes) for e in map(tokenizer.encode, texts)]


def window_samples(folder: Path, path: Path, size: int) -> list[dict[str, np.ndarray]]:
    """The start of a file as the inputs of a decoder, in windows of `size` tokens.

    At most MOST_WINDOWS of them, and the last only where it is whole or the only one. KaokenError
    without a tokenizer.
    """
    ids = whole_tokenizer(folder).encode("\n".join(read_texts(path))).ids
    starts = range(0, max(len(ids) - size + 1, 1), size)[:MOST_WINDOWS]
    return [{"input_ids": np.array([ids[at : at + size]], np.int64)} for at in starts]
