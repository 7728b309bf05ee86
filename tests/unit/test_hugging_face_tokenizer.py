"""Folders without tokenizer.json: transformers' own reading of vocab.json and merges.txt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kaoken.model_files import tokenizer_files

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")


def folder_of(path: Path, architecture: str) -> Path:
    config = {"model_type": "gpt2", "architectures": [architecture]}
    (path / "config.json").write_text(json.dumps(config))
    merges = ["Ġ t", "h e", "Ġt he", "c a", "ca t"]
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(merge.replace(" ", "") for merge in merges), "<|endoftext|>"]
    (path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return path


def test_a_causal_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAOKEN_CACHE", str(tmp_path / "cache"))
    folder = folder_of(tmp_path, "GPT2LMHeadModel")
    files = {file.name: file for file in tokenizer_files(folder)}
    assert files.keys() == {"vocab.json", "merges.txt", "tokenizer.json"}
    read = tokenizers.Tokenizer.from_file(str(files["tokenizer.json"]))
    wanted = transformers.AutoTokenizer.from_pretrained(folder)
    text = "the cat, the  bat"
    assert read.encode(text).ids == wanted(text)["input_ids"]
    assert "Ġthe" in read.encode(text).tokens


def test_any_other_stays_as_it_is(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "GPT2Model")
    assert {file.name for file in tokenizer_files(folder)} == {"vocab.json", "merges.txt"}
