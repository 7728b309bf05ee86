"""Tokenizers in parts: the same tokens as from tokenizer.json, and never those of another file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kaoken.texts import open_tokenizer
from kaoken.tokenizer_parts import FOLDER, open_parts, write_parts

tokenizers = pytest.importorskip("tokenizers")

TEXT = 'Hé said: "tok en"\n<|end|>abab 漢字<extra>'


def tokenizer_of(folder: Path, merges: list[tuple[str, str]]) -> Path:
    """A tokenizer.json of bytes and merges, with an added token of its vocabulary and one more."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, "{", *("".join(pair) for pair in merges), "<|end|>"]
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(numbers, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.add_tokens([tokenizers.AddedToken("<extra>", lstrip=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_parts_are_the_whole(tmp_path: Path) -> None:
    write_parts(tokenizer_of(tmp_path, [("a", "b"), ("ab", "ab"), ("Ġ", "t")]))
    parts = open_parts(tmp_path)
    whole = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert json.loads(parts.to_str()) == json.loads(whole.to_str())
    assert parts.encode(TEXT).ids == whole.encode(TEXT).ids
    assert open_tokenizer(tmp_path).encode(TEXT).ids == whole.encode(TEXT).ids


def test_another_tokenizer_is_not_hidden(tmp_path: Path) -> None:
    write_parts(tokenizer_of(tmp_path, [("a", "b")]))
    tokenizer_of(tmp_path, [("a", "b"), ("ab", "ab")])
    assert open_parts(tmp_path) is None
    assert "abab" in open_tokenizer(tmp_path).get_vocab()


@pytest.mark.parametrize("pair", [(" ", "a"), ("#version", "a"), ("a", "\n")])
def test_merges_that_lines_cannot_hold(tmp_path: Path, pair: tuple[str, str]) -> None:
    model = {"type": "BPE", "vocab": {}, "merges": [list(pair)]}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    write_parts(tmp_path)
    assert not (tmp_path / FOLDER).exists()


@pytest.mark.parametrize("text", ["", "[]", '{"model": {"type": "WordPiece", "vocab": {}}}'])
def test_what_is_of_another_kind_stays_whole(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    write_parts(tmp_path)
    assert not (tmp_path / FOLDER).exists()
