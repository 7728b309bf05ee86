"""How many tokens to guess: prompt lookup (Saxena 2023), with as many guesses as come true.

A pass that checks guesses gives the same bits as one step after the other, so guessing changes
nothing but the time. A pass of several rows costs a little more than a step. So the number of
guesses grows while all come true, shrinks to what did, and rests for a while after none did.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_LONGEST_REST = 16


@dataclass
class Speculation:
    """How it went in one text."""

    most: int
    """The most guesses of one pass."""
    passes: int = 0
    guessed: int = 0
    accepted: int = 0
    _next: int = field(init=False)
    _rest: int = 0
    _resting: int = 0

    def __post_init__(self) -> None:
        self._next = self.most

    def wanted(self, room: int) -> int:
        """How many guesses to make now, where `room` more tokens may come."""
        if self._resting:
            self._resting -= 1
            return 0
        return min(self._next, room)

    def note(self, guessed: int, accepted: int) -> None:
        """Learn from a pass."""
        self.passes += 1
        self.guessed += guessed
        self.accepted += accepted
        self._next = min(self.most, 2 * guessed if accepted == guessed else max(1, accepted))
        self._rest = 0 if accepted else min(_LONGEST_REST, 2 * self._rest or 1)
        self._resting = self._rest
