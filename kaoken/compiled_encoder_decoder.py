"""A compiled model that makes a text from another one, such as T5 and BART: numpy and ctypes alone.

model = kaoken.load("t5")
model.encode(source_ids)
model.prefill(model.start_tokens)
for token in model.stream(max_new_tokens=50):
    ...
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from kaoken.backend.loader import Library
from kaoken.compiled_decoder import CompiledDecoder
from kaoken.errors import KaokenError

_FUNCTIONS = {
    "encode": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_int64]),
    "source_length": (ctypes.c_int64, []),
}


class CompiledEncoderDecoder(CompiledDecoder):
    """One context of an encoder with its decoder: the source it has read, and the text so far.

    The source stays until another one is encoded; `reset` and `rewind` are about the text alone.
    """

    def __init__(self, library: Library, threads: int | None = None):
        super().__init__(library, threads)
        encoder = library.manifest["encoder"]
        self.max_source: int = encoder["max_source"]
        """The most tokens of a source."""
        self.start_tokens: tuple[int, ...] = tuple(encoder["start_tokens"])
        """What the text begins with."""
        self._forced = encoder["forced_bos_token_id"], encoder["forced_eos_token_id"]
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

    def generate(
        self,
        input_ids: Sequence[int] | np.ndarray,
        max_new_tokens: int = 20,
        eos_token_id: int | Sequence[int] | None = None,
    ) -> np.ndarray:
        """The likeliest text for a source [1, tokens], int64 [1, start tokens and all new ones].

        As `generate` of transformers without sampling.
        """
        ids = np.asarray(input_ids, np.int64)
        if ids.ndim == 2 and len(ids) != 1:
            raise KaokenError(f"{self.name} generates one text at a time, not {len(ids)}")
        ends = [eos_token_id] if isinstance(eos_token_id, int) else eos_token_id
        self.encode(ids)
        self.prefill(self.start_tokens)
        first, last = self._forced
        new: list[int] = []
        if first is not None and max_new_tokens > 1:
            new.append(first)
            self.step(first)
        new += self.stream(max_new_tokens - len(new), ends)
        if last is not None and len(new) == max_new_tokens:
            new[-1] = last
        return np.array([[*self.start_tokens, *new]], np.int64)
