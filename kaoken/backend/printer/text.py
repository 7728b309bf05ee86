"""C expressions as strings, with as few parentheses as C needs.

Every expression has spaces around its binary operators, so a string's precedence can be read off
its top level: `precedence("a * b + f(c - d)")` is that of `+`.
"""

from __future__ import annotations

import math
import re
import struct
from functools import lru_cache

PRIMARY, UNARY, CONDITIONAL = 16, 14, 3

_BINARY = {
    "*": 13,
    "/": 13,
    "%": 13,
    "+": 12,
    "-": 12,
    "<<": 11,
    ">>": 11,
    "<": 10,
    ">": 10,
    "<=": 10,
    ">=": 10,
    "==": 9,
    "!=": 9,
    "&": 8,
    "^": 7,
    "|": 6,
    "&&": 5,
    "||": 4,
    "?": CONDITIONAL,
    ":": CONDITIONAL,
}
_GUARDED = frozenset({"<<", ">>", "&", "^", "|", "&&", "||", "==", "!=", "<", ">", "<=", ">="})
"""Operators whose operands gcc wants in parentheses, or readers do."""

_INTEGER = re.compile(r"-?\d+")
_CAST = re.compile(r"\([A-Za-z_][\w ]*\**\)[\w({~-]")


@lru_cache(maxsize=65536)
def precedence(text: str) -> int:
    """How tightly the outermost operator of a C expression binds; 16 for names and calls."""
    top = _top_level(text)
    operators = [_BINARY[word] for word in top.split(" ") if word in _BINARY]
    if operators:
        return min(operators)
    unary = text[0] in "-!~*&" or _CAST.match(text) is not None
    return UNARY if unary else PRIMARY


def _top_level(text: str) -> str:
    """The text without what stands in brackets."""
    if not any(c in text for c in "([{"):
        return text
    kept: list[str] = []
    depth = 0
    for c in text:
        depth -= c in ")]}"
        if not depth:
            kept.append(c)
        depth += c in "([{"
    return "".join(kept)


def wrap(text: str, level: int) -> str:
    """The expression, in parentheses when it binds less tightly than `level`."""
    return text if precedence(text) >= level else f"({text})"


def binary(operator: str, left: str, right: str) -> str:
    """`left operator right`; no reassociation: `a - (b - c)` keeps its parentheses."""
    level = UNARY if operator in _GUARDED else _BINARY[operator]
    return f"{wrap(left, level)} {operator} {wrap(right, level + (level != UNARY))}"


def unary(operator: str, operand: str) -> str:
    """`-x`, `!x`, or a cast when the operator is `(type)`."""
    inner = wrap(operand, UNARY)
    return f"{operator}({inner})" if inner.startswith(operator) else operator + inner


def is_integer(text: str) -> bool:
    """Whether the text is an integer literal."""
    return _INTEGER.fullmatch(text) is not None


def is_atom(text: str) -> bool:
    """Whether repeating the text costs nothing: a name or a literal."""
    return re.fullmatch(r"-?[\w.]+", text) is not None


def add(left: str, right: str) -> str:
    """The sum of two index expressions, constants folded."""
    if is_integer(left) and is_integer(right):
        return str(int(left) + int(right))
    if left == "0":
        return right
    if right == "0":
        return left
    if is_integer(left):
        left, right = right, left
    if right.startswith("-") and is_integer(right):
        return f"{wrap(left, _BINARY['-'])} - {right[1:]}"
    return f"{wrap(left, _BINARY['+'])} + {wrap(right, _BINARY['+'])}"


def multiply(left: str, right: str) -> str:
    """The product of two index expressions, constants folded."""
    if is_integer(left) and is_integer(right):
        return str(int(left) * int(right))
    if "0" in (left, right):
        return "0"
    if left == "1":
        return right
    if right == "1":
        return left
    if is_integer(left):
        left, right = right, left
    return binary("*", left, right)


def float_literal(value: float, bits: int) -> str:
    """The shortest C literal that reads back as exactly this f32 or f64."""
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    if bits == 64:
        return repr(value)
    text = _shortest_single(value)
    return text + ("f" if any(c in text for c in ".e") else ".0f")


def _shortest_single(value: float) -> str:
    single = to_single(value)
    for digits in range(1, 9):
        text = f"{single:.{digits}g}"
        if to_single(float(text)) == single:
            return text
    return f"{single:.9g}"


def to_single(value: float) -> float:
    """The nearest f32, infinite beyond its range."""
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)


def integer_literal(value: int) -> str:
    """A C literal of any value of 64 bits."""
    if value == -(2**63):
        return "INT64_MIN"
    return str(value) if abs(value) < 2**31 else f"INT64_C({value})"


class _Operand(str):
    """An argument of a template: `{0}` as it is, `{0!u}` ready for a unary operator."""

    def __repr__(self) -> str:
        return wrap(str(self), UNARY)


def fill(template: str, *operands: str, **named: str | int) -> str:
    """Put operands into a template of an instruction table."""
    text = template.replace("!u}", "!r}")
    return text.format(*map(_Operand, operands), **named)
