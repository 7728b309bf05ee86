"""`kaoken verify` for decoders: logits and greedy tokens against transformers.

Prompts are continued by the compiled model. transformers then reads each whole text at once, and
must find the same logits behind the prompt and behind every token after it, and the same likeliest
tokens. So its caches are not trusted, and kaoken's are tried as users use them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kaoken.texts import SENTENCES, whole_tokenizer

if TYPE_CHECKING:
    from kaoken.compiled_decoder import CompiledDecoder

CONTEXT = 128
"""The most tokens of a text."""
NEW_TOKENS = 32
PROMPTS = 4
TOLERANCE = 1e-3
"""What float32's logits may differ by, relative to the largest, unless the user says."""


def decoder_logits(
    path: Path, decoder: CompiledDecoder
) -> tuple[list[tuple[str, np.ndarray, np.ndarray]], float]:
    """(name, actual, expected) logits of each text, and the part of greedy tokens that are equal.

    KaokenError when transformers cannot load the model.
    """
    import torch

    model = torch_decoder(path)
    found: list[tuple[str, np.ndarray, np.ndarray]] = []
    equal: list[np.ndarray] = []
    for prompt in _prompts(path, decoder):
        new = min(NEW_TOKENS, decoder.capacity - len(prompt))
        decoder.reset()
        begun = decoder.start(prompt)
        behind = decoder.logits.copy()
        text = np.array([*begun, *decoder.stream(new, end_tokens=[])])
        ids = {"input_ids": text}
        if model.config.is_encoder_decoder:
            ids = {"input_ids": np.array(prompt), "decoder_input_ids": text}
        with torch.no_grad():
            result = model(**{name: torch.from_numpy(array)[None] for name, array in ids.items()})
        wanted = result.logits[0].float().numpy()
        first = len(begun) - 1
        equal.append(text[first + 1 :] == wanted[first:-1].argmax(-1))
        decoder.rewind(len(begun))
        steps = np.stack([decoder.step(int(token)).copy() for token in text[first + 1 : -1]])
        found.append(("logits behind the prompt", behind, wanted[first]))
        found.append(("logits behind each token", steps, wanted[first + 1 : -1]))
    return found, float(np.concatenate(equal).mean())


def _prompts(path: Path, decoder: CompiledDecoder) -> Iterator[list[int]]:
    """Sentences, or random tokens where there is no tokenizer to read them with."""
    if (decoder.folder / "tokenizer.json").exists():
        tokenizer = whole_tokenizer(decoder.folder)
        for sentence in SENTENCES[:PROMPTS]:
            yield tokenizer.encode(sentence).ids[: CONTEXT // 2]
        return
    random = np.random.default_rng(0)
    for length in (1, 3, 17, 40)[:PROMPTS]:
        yield random.integers(0, decoder.vocabulary, min(length, decoder.capacity // 2)).tolist()


def torch_decoder(path: Path) -> Any:
    """transformers' model of a folder or GGUF file, in float32."""
    if path.suffix == ".gguf":
        from kaoken.bench.decoder_models import from_gguf

        return from_gguf(path)
    from kaoken.frontend.hugging_face import load_folder_model, read_config
    from kaoken.frontend.hugging_face_seq2seq import is_seq2seq_folder

    kind = "AutoModelForSeq2SeqLM" if is_seq2seq_folder(path) else "AutoModelForCausalLM"
    return load_folder_model(path, read_config(path), kind)
