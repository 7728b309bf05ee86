"""The tokenizer in a GGUF file, as the files that Hugging Face's `tokenizers` reads.

tokenizer.json            byte-level BPE (`gpt2`), or SentencePiece's BPE with scores (`llama`)
tokenizer_config.json     the chat template and the names of special tokens
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kaoken.backend.cache import cache_directory, content_key
from kaoken.errors import KaokenError
from kaoken.frontend.gguf import GgufFile, vocabulary_of

Json = dict[str, Any]

CONTROL, USER_DEFINED = 3, 4
"""`tokenizer.ggml.token_type` of tokens that are special, and of those that users added."""
SPACE = "\u2581"

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"


def _byte_level(regex: bool) -> Json:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": regex,
    }


def _split(pattern: str) -> list[Json]:
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    return [split, _byte_level(False)]


_SPLITS: Mapping[str, list[Json]] = {
    "default": [_byte_level(True)],
    "gpt-2": [_byte_level(True)],
    "smollm": [{"type": "Digits", "individual_digits": True}, _byte_level(True)],
    "llama-bpe": _split(_LLAMA3),
    "qwen2": _split(_QWEN2),
}
"""How a text is split into words, by `tokenizer.ggml.pre`."""


def write_tokenizer(path: Path) -> tuple[Path, ...]:
    """The tokenizer's files, in kaoken's cache; none where the file has no tokenizer.

    Raises KaokenError for a kind of tokenizer that kaoken does not know, and for one that does not
    fit the model's vocabulary.
    """
    file = GgufFile(path)
    if file.get("tokenizer.ggml.model") in (None, "no_vocab"):
        return ()
    _check_sizes(file)
    texts = {
        "tokenizer.json": json.dumps(tokenizer_json(file), ensure_ascii=False),
        "tokenizer_config.json": json.dumps(_config(file), ensure_ascii=False),
    }
    folder = cache_directory("tokenizers") / content_key(texts.values())
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return tuple(folder / name for name in texts)


def _check_sizes(file: GgufFile) -> None:
    """A number for each token, and a row of the model's table for it."""
    count, rows = len(file.require("tokenizer.ggml.tokens")), vocabulary_of(file)
    if count > rows:
        raise KaokenError(
            f"{file.path}: the tokenizer has {count} tokens, the model's table {rows}: they do not "
            "belong together, so take a file whose tokenizer is the model's"
        )
    for name in ("scores", "token_type"):
        numbers = file.get(f"tokenizer.ggml.{name}")
        if numbers is not None and len(numbers) != count:
            raise KaokenError(
                f"{file.path}: tokenizer.ggml.{name} has {len(numbers)} entries for {count} "
                "tokens: convert the model anew"
            )


def tokenizer_json(file: GgufFile) -> Json:
    """What `tokenizers.Tokenizer.from_str` reads. Raises KaokenError for an unknown kind."""
    kind = file.require("tokenizer.ggml.model")
    tokens = file.require("tokenizer.ggml.tokens")
    if kind == "gpt2":
        parts = _byte_level_parts(file, tokens)
    elif kind == "llama":
        parts = _sentencepiece_parts(file, tokens)
    else:
        raise KaokenError(f"{file.path} has a tokenizer of the unknown kind {kind!r}")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(file, tokens),
        "post_processor": _post_processor(file, tokens),
        **parts,
    }


def _byte_level_parts(file: GgufFile, tokens: list[str]) -> Json:
    pre = file.get("tokenizer.ggml.pre", "default")
    if pre not in _SPLITS:
        raise KaokenError(
            f"{file.path}: the tokenizer splits words as {pre!r}; kaoken knows {', '.join(_SPLITS)}"
        )
    merges = [merge.split(" ", 1) for merge in file.require("tokenizer.ggml.merges")]
    return {
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _SPLITS[pre]},
        "decoder": _byte_level(True),
        "model": _bpe(tokens, merges, ignore_merges=pre == "llama-bpe"),
    }


def _sentencepiece_parts(file: GgufFile, tokens: list[str]) -> Json:
    normalizers: list[Json] = [
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ]
    decoders: list[Json] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if file.get("tokenizer.ggml.add_space_prefix", True):
        normalizers.insert(0, {"type": "Prepend", "prepend": SPACE})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = tokens[file.special_token("unknown") or 0]
    merges = merges_of(tokens, file.require("tokenizer.ggml.scores"))
    model = _bpe(tokens, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model,
    }


def merges_of(tokens: list[str], scores: list[float]) -> list[list[str]]:
    """SentencePiece's BPE as merges: the pair with the best score of its sum comes first."""
    ids = {token: i for i, token in enumerate(tokens)}
    merges: list[tuple[float, int, int, str, str]] = []
    for token, score in zip(tokens, scores, strict=True):
        for at in range(1, len(token)):
            left, right = token[:at], token[at:]
            if left in ids and right in ids:
                merges.append((-score, ids[left], ids[right], left, right))
    return [[left, right] for *_, left, right in sorted(merges)]


def _bpe(tokens: list[str], merges: list[list[str]], **options: Any) -> Json:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **options,
        "vocab": {token: i for i, token in enumerate(tokens)},
        "merges": merges,
    }


def _added(file: GgufFile, tokens: list[str]) -> list[Json]:
    types = file.get("tokenizer.ggml.token_type", [])
    return [
        {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == CONTROL,
        }
        for i, (token, kind) in enumerate(zip(tokens, types, strict=False))
        if kind in (CONTROL, USER_DEFINED)
    ]


def _post_processor(file: GgufFile, tokens: list[str]) -> Json | None:
    """The token that begins a text, where the file asks for one."""
    default = file.require("tokenizer.ggml.model") == "llama"
    begin = file.special_token("bos")
    if begin is None or not file.get("tokenizer.ggml.add_bos_token", default):
        return None
    token = tokens[begin]
    first, text = (
        {"SpecialToken": {"id": token, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    )
    second = {"Sequence": {"id": "B", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, second],
        "special_tokens": {token: {"id": token, "ids": [begin], "tokens": [token]}},
    }


def _config(file: GgufFile) -> Json:
    """tokenizer_config.json as transformers writes it, as far as a GGUF file says."""
    tokens = file.require("tokenizer.ggml.tokens")
    ids = {
        f"{role}_token": file.special_token(name)
        for role, name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
    }
    special = {role: tokens[i] for role, i in ids.items() if i is not None}
    template = file.get("tokenizer.chat_template")
    chat = {} if template is None else {"chat_template": template}
    return {"tokenizer_class": "PreTrainedTokenizerFast", **special, **chat}
