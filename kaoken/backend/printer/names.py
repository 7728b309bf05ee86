"""C identifiers for SSA values: made from name hints, valid, and unique where they are visible."""

from __future__ import annotations

import re
from collections.abc import Iterable

_KEYWORDS = frozenset(
    """auto break case char const continue default do double else enum extern float for goto if
    inline int long register restrict return short signed sizeof static struct switch typedef
    union unsigned void volatile while bool true false asm typeof
    main abs acos asin atan ceil cos cosh div erf exp floor fma fmax fmin free log malloc memcpy
    memset pow printf read remove rename rint round signal sin sinh sqrt stdin stdout tan tanh
    trunc write unix linux""".split()
)


def identifier(text: str) -> str:
    """The text with everything that C does not allow in a name replaced."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII)
    if not name or name[0].isdigit():
        name = f"v{name}"
    if name.startswith(("kk_", "_")):
        name = f"v_{name.lstrip('_')}"
    return f"{name}_" if name in _KEYWORDS else name


class Names:
    """Names in nested scopes: a name may come again only where the older one is out of sight."""

    def __init__(self, reserved: Iterable[str] = ()):
        self._scopes: list[dict[str, int]] = [dict.fromkeys(reserved, 1)]
        """For each name in a scope, how many of its kind there are: x, x_2, x_3."""

    def push(self) -> None:
        self._scopes.append({})

    def pop(self) -> None:
        self._scopes.pop()

    def new(self, hint: str | None, fallback: str = "v") -> str:
        """A name in the innermost scope, close to the hint."""
        wanted = identifier(hint or fallback)
        name, count = wanted, max(scope.get(wanted, 0) for scope in self._scopes)
        while count and (name == wanted or any(name in scope for scope in self._scopes)):
            count += 1
            name = f"{wanted}_{count}"
        innermost = self._scopes[-1]
        innermost[name] = 1
        innermost[wanted] = max(count, 1)
        return name
