"""Names that C takes."""

from __future__ import annotations

import re

_KEYWORDS = frozenset(
    "auto bool break case char const continue default do double else enum extern float for goto if "
    "inline int long register restrict return short signed sizeof static struct switch typedef "
    "union unsigned void volatile while main model error threads call team".split()
)


def c_identifier(text: str) -> str:
    """A C name as near to `text` as can be: `a.b-c` gives `a_b_c`, `int` gives `int_`."""
    name = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or "x"
    if name[0].isdigit():
        name = f"m{name}"
    return f"{name}_" if name in _KEYWORDS else name
