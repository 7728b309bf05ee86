"""A tokenizer in parts, which open in less memory and time than the whole of tokenizer.json.

The library `tokenizers` reads a JSON file into trees of strings before it makes the model of them,
which for 49,000 tokens takes 39 MB, some of which stay. It reads the two files of GPT-2's time,
vocab.json and merges.txt, with 16 MB. So packages have, beside tokenizer.json,

    tokenizer/vocab.json    its tokens and their numbers
    tokenizer/merges.txt    a pair of tokens a line
    tokenizer/rest.json     everything else, and the digest of the tokenizer.json that it is of

Whoever puts another tokenizer.json there gets that one: parts with another digest are not used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = "tokenizer"
_VOCABULARY, _MERGES, _REST = "vocab.json", "merges.txt", "rest.json"
_SETTINGS = (
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "fuse_unk",
    "byte_fallback",
    "ignore_merges",
)
"""What a byte-pair model has besides tokens and merges."""


def write_parts(folder: Path) -> None:
    """Write the parts of a folder's tokenizer.json, where it is of byte pairs that fit lines."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return
    data = path.read_bytes()
    try:
        whole = json.loads(data)
        model = whole["model"]
        merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    except (ValueError, KeyError, TypeError):
        return  # another kind, or none: whoever opens it says so
    if model.get("type") != "BPE" or model.get("dropout") or not _fit_lines(merges):
        return
    parts = folder / FOLDER
    parts.mkdir()
    lines = ("#version: 0.2", *(" ".join(pair) for pair in merges))
    rest = whole | {
        "digest": _digest(data),
        "model": {name: model[name] for name in _SETTINGS if name in model},
    }
    _write(parts / _VOCABULARY, json.dumps(model["vocab"], ensure_ascii=False))
    _write(parts / _MERGES, "".join(f"{line}\n" for line in lines))
    _write(parts / _REST, json.dumps(rest, ensure_ascii=False))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _fit_lines(merges: Sequence[Sequence[str]]) -> bool:
    """Whether merges.txt can hold these: two words a line, none of which looks like its head."""
    return all(
        len(pair) == 2
        and not any(c in part for part in pair for c in " \n\r")
        and not pair[0].startswith("#version")
        for pair in merges
    )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def open_parts(folder: Path) -> Any:
    """The tokenizers.Tokenizer of a folder with parts; None without, or of another tokenizer.json.

    May raise what `tokenizers` raises for parts that are broken.
    """
    parts = folder / FOLDER
    if not (parts / _REST).is_file():
        return None
    rest = json.loads((parts / _REST).read_bytes())
    if rest.pop("digest", None) != _digest((folder / "tokenizer.json").read_bytes()):
        return None
    return _assembled(parts, rest)


def _assembled(parts: Path, rest: dict[str, Any]) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    files = str(parts / _VOCABULARY), str(parts / _MERGES)
    model = BPE.from_file(*files, **_given(rest["model"]))
    added = [_added(token) for token in rest["added_tokens"]]
    # Added tokens are numbered by the model, so they come when it is there.
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    tokenizer = Tokenizer.from_str(json.dumps(rest | {"model": empty, "added_tokens": []}))
    tokenizer.model = model
    tokenizer.add_tokens(added)
    return tokenizer


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _added(token: Mapping[str, Any]) -> Any:
    from tokenizers import AddedToken

    return AddedToken(**{name: value for name, value in token.items() if name != "id"})
