"""What lies on disk where a model is: whether it generates text, and its tokenizer's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
)


def tokenizer_files(model: Any) -> tuple[Path, ...]:
    """The files of a tokenizer: a Hugging Face folder's, those beside a .mlir, a .gguf's own."""
    if not isinstance(model, str | Path):
        return ()
    path = Path(model)
    if path.suffix == ".gguf" and path.is_file():
        from kaoken.frontend.gguf_tokenizer import write_tokenizer

        return write_tokenizer(path)
    folder = path.parent if path.suffix == ".mlir" else path
    found = tuple(folder / name for name in TOKENIZER_FILES if (folder / name).is_file())
    if not found or (folder / "tokenizer.json").is_file() or not generates(path):
        return found
    from kaoken.frontend.hugging_face_tokenizer import converted_tokenizer

    return (*found, *converted_tokenizer(folder))


def generates(path: Path) -> bool:
    """Whether a path is a model that continues texts, or one that makes them from others."""
    if path.suffix == ".gguf" or not (path / "config.json").is_file():
        return path.suffix == ".gguf"
    from kaoken.frontend.hugging_face_decoder import is_causal_folder
    from kaoken.frontend.hugging_face_seq2seq import is_seq2seq_folder

    return is_causal_folder(path) or is_seq2seq_folder(path)


def is_decoder(path: Path) -> bool:
    """Whether a path is a .gguf or a Hugging Face folder of a model that continues texts."""
    if path.suffix == ".gguf" or not (path / "config.json").is_file():
        return path.suffix == ".gguf"
    from kaoken.frontend.hugging_face_decoder import is_causal_folder

    return is_causal_folder(path)
