"""A compiled model that makes a text from another one, such as T5 and BART: numpy and ctypes alone.

model = kaoken.load("t5")
model.encode(source_ids)
model.prefill(model.start_tokens)
for token in model.stream(max_new_tokens=50):
    ...
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kaoken.backend.loader import Library
from kaoken.compiled_decoder import CompiledDecoder
from kaoken.errors import KaokenError
from kaoken.generation.generate import Prompts, prompts_of

_FUNCTIONS = {
    "encode": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_int64]),
    "source_length": (ctypes.c_int64, []),
}


class CompiledEncoderDecoder(CompiledDecoder):
    """One context of an encoder with its decoder: the source it has read, and the text so far.

    The source stays until another one is encoded; `reset` and `rewind` are about the text alone.
    `generate` takes sources: one [tokens], several [sources, tokens] with padding at the right
    where `attention_mask` is 0, or lists of any lengths. Its texts begin with `start_tokens`.
    """

    def __init__(self, library: Library, threads: int | None = None):
        super().__init__(library, threads)
        encoder = library.manifest["encoder"]
        self.max_source: int = encoder["max_source"]
        """The most tokens of a source."""
        self.start_tokens: tuple[int, ...] = tuple(encoder["start_tokens"])
        """What the text begins with."""
        self._encode = library.functions(_FUNCTIONS)

    def encode(self, tokens: Sequence[int] | np.ndarray) -> None:
        """Read a source, and forget the text and the source before.

        Raises KaokenError when it has no tokens, or more than the model was compiled for; the
        context then has no source.
        """
        ids = np.ascontiguousarray(tokens, np.int64).reshape(-1)
        self._check(self._encode["encode"](self._own.handle, ids.ctypes.data, ids.size))

    @property
    def source_length(self) -> int:
        """How many tokens the source has; 0 where there is none."""
        return self._encode["source_length"](self._own.handle)

    def start(self, prompt: Sequence[int]) -> list[int]:
        """Read a source; gives what the text begins with, which the context then holds."""
        self.encode(prompt)
        return super().start(self.start_tokens)

    def read(self, source: Sequence[int] | None) -> None:
        if source is not None:
            self.encode(source)

    def prompts(self, input_ids: Any, attention_mask: Any) -> Prompts:
        sources = _sources(input_ids, attention_mask)
        starts = [list(self.start_tokens)] * len(sources)
        return Prompts(starts, np.array(starts), sources)

    def all_logits(self, tokens: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
        raise KaokenError(f"{self.name} needs a source: there are no logits of a text alone")


def _sources(input_ids: Any, attention_mask: Any) -> list[list[int]]:
    """The tokens of each source, without padding."""
    if attention_mask is None:
        return prompts_of(input_ids).tokens
    mask = np.asarray(attention_mask)[..., ::-1]
    return [ids[::-1] for ids in prompts_of(np.asarray(input_ids)[..., ::-1], mask).tokens]
