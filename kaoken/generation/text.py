"""Tokens as text while they come: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_WITHOUT_TEXT = 8
"""So many tokens without text of their own may stand among those of a stop string."""


def ends_in(stop: Sequence[str], tokenizer: Any, prompt: Sequence[int], new: Sequence[int]) -> bool:
    """Whether the last new token completes a stop string, or the last few hold one."""
    if not stop:
        return False
    count = min(len(new), max(len(text.encode()) for text in stop) + _WITHOUT_TEXT)
    before = [*prompt, *new[: len(new) - count]]
    stream = TextStream(tokenizer, before[-_WITHOUT_TEXT:], stop)
    for token in new[len(new) - count :]:
        stream.put(token)
    return stream.stopped


class TextStream:
    """The text of a continuation, piece by piece, up to the first stop string.

    What may still become a stop string is held back, so that no part of one is ever given;
    neither is half a character, whose other bytes are in the next token.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str] = ()):
        from tokenizers.decoders import DecodeStream

        self._tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)
        # What the prompt ends with decides whether a space begins the first piece.
        self._decoder = DecodeStream(ids=list(prompt), skip_special_tokens=True)
        self._stop = [text for text in stop if text]
        self._held = ""
        self.stopped = False
        """Whether a stop string has come."""

    def put(self, token: int) -> str:
        """The text that is certain now that this token has come; "" for none."""
        piece = None if self.stopped else self._decoder.step(self._tokenizer, int(token))
        if piece is None:
            return ""
        text = self._held + piece
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        sure = len(text) - self._maybe_stop(text)
        self._held = text[sure:]
        return text[:sure]

    def end(self) -> str:
        """What was held back, as no more tokens come."""
        held, self._held = self._held, ""
        return held

    def _maybe_stop(self, text: str) -> int:
        """How many characters at the end are the beginning of a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stop):
                return size
        return 0
