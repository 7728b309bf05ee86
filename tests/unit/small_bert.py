"""A Hugging Face folder small enough to compile in a second: random BERT, word-level tokenizer."""

import json
from pathlib import Path

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "sat", "dog", "ran", "stocks", "fell")
MAX_POSITIONS = 24


def write_folder(folder: Path) -> Path:
    """config.json, model.safetensors and tokenizer.json of a BERT of two layers."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=MAX_POSITIONS,
    )
    BertModel(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    return folder


def _tokenizer() -> dict[str, object]:
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    special = {
        name: {"id": name, "ids": [vocabulary[name]], "tokens": [name]} for name in WORDS[2:4]
    }
    piece = {"Sequence": {"id": "A", "type_id": 0}}
    marks = [{"SpecialToken": {"id": name, "type_id": 0}} for name in WORDS[2:4]]
    return {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [marks[0], piece, marks[1]],
            "pair": [marks[0], piece, marks[1]],
            "special_tokens": special,
        },
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }
