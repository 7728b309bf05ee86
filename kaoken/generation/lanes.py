"""Sequences that go on side by side.

Those of one context, where the model was compiled for a batch: a step reads each weight once for
all of them. Otherwise contexts of their own, one after the other: the same results, but slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kaoken.errors import KaokenError

if TYPE_CHECKING:
    from kaoken.compiled_decoder import CompiledDecoder


class Lanes:
    """`count` sequences by number. KaokenError where the model was compiled for fewer, but some."""

    def __init__(self, decoder: CompiledDecoder, count: int):
        if 1 < decoder.batch < count:
            raise KaokenError(
                f"{decoder.name} goes on with at most {decoder.batch} texts at once, not {count}: "
                f"compile with --batch {count}"
            )
        self.count, self._decoder = count, decoder
        others = 0 if decoder.batch > 1 else count - 1
        self._contexts = [decoder, *(decoder.new_context() for _ in range(others))]

    def read(self, lane: int, source: Sequence[int] | None) -> None:
        """Make the text of a lane from this source, where the model has an encoder."""
        self._at(lane).read(source)

    def begin(self, lane: int, tokens: Sequence[int]) -> np.ndarray:
        """Hold these tokens; float32 [vocabulary], what follows."""
        return self._at(lane).begin(tokens).copy()

    def step(self, lanes: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        """Add a token to each of some lanes; float32 [lanes, vocabulary]."""
        if self._decoder.batch > 1:
            return self._decoder.step_batch(tokens, lanes)
        steps = zip(lanes, tokens, strict=True)
        return np.stack([self._contexts[lane].step(token).copy() for lane, token in steps])

    def copy(self, to: int, lane: int) -> None:
        """Make a lane hold what another one holds."""
        if self._decoder.batch > 1:
            self._decoder.copy_sequence(to, lane)
        else:
            self._contexts[to].take(self._contexts[lane])

    def length(self, lane: int) -> int:
        return len(self._at(lane))

    def close(self) -> None:
        """What the decoder is about is its first sequence again."""
        if self._decoder.batch > 1:
            self._decoder.select(0)

    def _at(self, lane: int) -> CompiledDecoder:
        if self._decoder.batch == 1:
            return self._contexts[lane]
        self._decoder.select(lane)
        return self._decoder
