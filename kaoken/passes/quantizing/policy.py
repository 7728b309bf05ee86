"""Which weights become what, one by one, from a file.

    # weights              dtype   group
    lm_head.weight         int8
    *.down_proj.weight     int4    16
    *.layers.0.*           bf16

A group says that eight bits are to be codes like fewer ones, in groups, instead of one scale a row.
A weight takes the first line whose pattern fits its name, or one of the names that were joined in
it; all others what the command says. Patterns are those of shells (`fnmatch`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from kaoken.choices import DTYPES, FEW_BITS, GROUP_SIZE, MIXED
from kaoken.errors import KaokenError

_DTYPES = tuple(name for name in DTYPES if name not in ("auto", MIXED))
GROUPED_INT8 = "int8g"
"""What eight bits in groups are called here; a file says `int8` and a group."""


@dataclass(frozen=True)
class Choice:
    """What a weight becomes; `group` weights along K share a scale where it has few bits."""

    dtype: str
    group: int = GROUP_SIZE
    is_named: bool = False
    """Whether a line of the file says so: then embeddings and the last layer are no exception."""

    @property
    def has_codes(self) -> bool:
        """Whether weights are rounded to codes with scales of groups."""
        return self.dtype in (*FEW_BITS, GROUPED_INT8)

    def __str__(self) -> str:
        if self.dtype == GROUPED_INT8:
            return f"int8 {self.group}"
        return f"{self.dtype} {self.group}" if self.group != GROUP_SIZE else self.dtype


@dataclass(frozen=True)
class Rule:
    """A line of a file: what weights become whose names a pattern fits."""

    pattern: str
    choice: Choice
    place: str = ""
    """File and line."""

    def __str__(self) -> str:
        return f"{self.pattern} {self.choice}"


@dataclass(frozen=True)
class Policy:
    """The lines of a file, and what holds where none fits."""

    default: Choice
    rules: tuple[Rule, ...] = ()

    @property
    def choices(self) -> list[Choice]:
        """All that weights may become."""
        return list(dict.fromkeys([*(rule.choice for rule in self.rules), self.default]))

    def of(self, names: Sequence[str]) -> Choice:
        """What a weight made of those becomes."""
        rule = self._rule(names)
        return self.default if rule is None else rule.choice

    def has_rule(self, names: Sequence[str]) -> bool:
        """Whether a line fits a weight made of those."""
        return self._rule(names) is not None

    def _rule(self, names: Sequence[str]) -> Rule | None:
        fits = (r for r in self.rules if any(fnmatchcase(name, r.pattern) for name in names))
        return next(fits, None)

    def check(self, names: Sequence[str]) -> None:
        """Raise KaokenError for a pattern that fits no weight, which is a slip of the pen."""
        for rule in self.rules:
            if not any(fnmatchcase(name, rule.pattern) for name in names):
                known = ", ".join(names[:3]) or "none"
                raise KaokenError(
                    f"{rule.place}: no weight of a layer is called {rule.pattern!r}: "
                    f"there are {known}{', ...' if len(names) > 3 else ''}"
                )


def read_policy(path: str | Path | None, default: Choice) -> Policy:
    """A policy file; without one all weights become the same.

    Raises KaokenError, with the line, for what cannot be read.
    """
    if path is None:
        return Policy(default)
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise KaokenError(f"the policy {path} cannot be read: {reason}") from None
    return parse_policy(lines, str(path), default)


def parse_policy(lines: Sequence[str], path: str, default: Choice) -> Policy:
    """The lines of a policy; KaokenError for what cannot be read."""
    texts = [(i + 1, line.split("#")[0].split()) for i, line in enumerate(lines)]
    return Policy(default, tuple(_rule(words, f"{path}:{i}") for i, words in texts if words))


def _rule(words: list[str], place: str) -> Rule:
    if not 2 <= len(words) <= 3:
        raise KaokenError(f"{place}: expected a pattern, a dtype and perhaps a group size")
    pattern, dtype, *group = words
    if dtype not in _DTYPES:
        raise KaokenError(f"{place}: unknown dtype {dtype}: choose from {', '.join(_DTYPES)}")
    if group and not group[0].isdecimal():
        raise KaokenError(f"{place}: the group size is {group[0]}, but must be a number")
    size = int(group[0]) if group else GROUP_SIZE
    dtype = GROUPED_INT8 if dtype == "int8" and group else dtype
    return Rule(pattern, Choice(dtype, size, is_named=True), place)
