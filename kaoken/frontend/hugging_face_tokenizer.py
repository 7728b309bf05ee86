"""tokenizer.json of Hugging Face folders that lack it: older ones hold vocab.json, merges.txt."""

from __future__ import annotations

from pathlib import Path

from kaoken.backend.cache import cache_directory, content_key
from kaoken.frontend.torch_export import quietly


def converted_tokenizer(folder: Path) -> tuple[Path, ...]:
    """The tokenizer that transformers makes of a folder, in kaoken's cache; none where it cannot.

    transformers adds to a prompt what such a model begins with, and so does the file.
    """
    from transformers import AutoTokenizer

    with quietly():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            text = tokenizer.backend_tokenizer.to_str()
        except Exception:  # there are as many reasons as kinds of tokenizers
            return ()
    place = cache_directory("tokenizers") / content_key([text])
    place.mkdir(exist_ok=True)
    (place / "tokenizer.json").write_text(text, encoding="utf-8")
    return (place / "tokenizer.json",)
