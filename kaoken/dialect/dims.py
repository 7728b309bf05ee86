"""Symbolic sizes: polynomials with integer coefficients over named dimensions.

A tensor type says `?` for an open size; which `?` are equal, and what they are made of,
is said by `Dim`s such as `tokens`, `batch*tokens` or `2*tokens + 1`. Polynomials have one
normal form, so two sizes are equal exactly when their `Dim`s are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

DYNAMIC = -(2**63)
"""What builtin tensor and memref types store for `?`: xDSL's DYNAMIC_INDEX. It is not imported,
because a compiled model's loader reads sizes without xDSL."""

Monomial = tuple[str, ...]
"""Sorted symbol names with repetition: `()` is 1, `("batch", "tokens")` is batch*tokens."""

_TOKEN = re.compile(r"\s*(?:(\d+)|([A-Za-z_][A-Za-z_0-9]*)|([-+*()]))")


@dataclass(frozen=True)
class Dim:
    """A size in elements; `terms` is sorted and holds no zero coefficient."""

    terms: tuple[tuple[Monomial, int], ...]

    @staticmethod
    def of(value: int | str | Dim) -> Dim:
        """An int, a symbol's name, or an expression such as `"batch*tokens + 1"`."""
        if isinstance(value, Dim):
            return value
        if isinstance(value, int):
            return Dim((((), value),)) if value else Dim(())
        return _parse(value)

    @staticmethod
    def symbol(name: str) -> Dim:
        return Dim((((name,), 1),))

    @property
    def constant(self) -> int | None:
        """The number this size is, or None when it is open."""
        if not self.terms:
            return 0
        if len(self.terms) == 1 and self.terms[0][0] == ():
            return self.terms[0][1]
        return None

    @property
    def symbols(self) -> frozenset[str]:
        return frozenset(name for monomial, _ in self.terms for name in monomial)

    @property
    def static(self) -> int:
        """The size as a tensor type stores it: the number, or `?`."""
        return DYNAMIC if (n := self.constant) is None else n

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        """The number under an assignment of every symbol; KeyError names a missing one."""
        return sum(c * math.prod(sizes[s] for s in m) for m, c in self.terms)

    def divide(self, divisor: Dim) -> Dim | None:
        """The exact quotient by a single-term size, or None when there is none."""
        if len(divisor.terms) != 1:
            return Dim.of(1) if self == divisor and self.terms else None
        (monomial, coefficient) = divisor.terms[0]
        quotient: list[tuple[Monomial, int]] = []
        for m, c in self.terms:
            rest = _without(m, monomial)
            if rest is None or c % coefficient:
                return None
            quotient.append((rest, c // coefficient))
        return _normal(quotient)

    def __add__(self, other: Dim | int) -> Dim:
        return _normal((*self.terms, *Dim.of(other).terms))

    def __sub__(self, other: Dim | int) -> Dim:
        return self + Dim.of(other) * -1

    def __mul__(self, other: Dim | int) -> Dim:
        return _normal(
            (tuple(sorted(ma + mb)), ca * cb)
            for ma, ca in self.terms
            for mb, cb in Dim.of(other).terms
        )

    def __str__(self) -> str:
        if not self.terms:
            return "0"
        text = " + ".join(_print_term(m, c) for m, c in self.terms)
        return text.replace("+ -", "- ")


def product(dims: Iterable[Dim]) -> Dim:
    """The number of elements of a shape; 1 for the empty one."""
    total = Dim.of(1)
    for dim in dims:
        total = total * dim
    return total


def _normal(terms: Iterable[tuple[Monomial, int]]) -> Dim:
    total: dict[Monomial, int] = {}
    for monomial, coefficient in terms:
        total[monomial] = total.get(monomial, 0) + coefficient
    ordered = sorted(total.items(), key=lambda term: (-len(term[0]), term[0]))
    return Dim(tuple((m, c) for m, c in ordered if c))


def _without(monomial: Monomial, factors: Monomial) -> Monomial | None:
    rest = list(monomial)
    for factor in factors:
        if factor not in rest:
            return None
        rest.remove(factor)
    return tuple(rest)


def _print_term(monomial: Monomial, coefficient: int) -> str:
    if not monomial:
        return str(coefficient)
    names = "*".join(monomial)
    if coefficient == 1:
        return names
    return f"-{names}" if coefficient == -1 else f"{coefficient}*{names}"


def _parse(text: str) -> Dim:
    tokens: list[str] = []
    position = 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"not a size: {text!r}")
        tokens.append(match.group().strip())
        position = match.end()
    try:
        dim, rest = _parse_sum(tokens)
    except IndexError:
        raise ValueError(f"not a size: {text!r}") from None
    if rest:
        raise ValueError(f"not a size: {text!r}")
    return dim


def _parse_sum(tokens: list[str]) -> tuple[Dim, list[str]]:
    total, tokens = _parse_product(tokens)
    while tokens and tokens[0] in "+-":
        sign = 1 if tokens[0] == "+" else -1
        term, tokens = _parse_product(tokens[1:])
        total = total + term * sign
    return total, tokens


def _parse_product(tokens: list[str]) -> tuple[Dim, list[str]]:
    total, tokens = _parse_atom(tokens)
    while tokens and tokens[0] == "*":
        factor, tokens = _parse_atom(tokens[1:])
        total = total * factor
    return total, tokens


def _parse_atom(tokens: list[str]) -> tuple[Dim, list[str]]:
    head, rest = tokens[0], tokens[1:]
    if head == "-":
        dim, rest = _parse_atom(rest)
        return dim * -1, rest
    if head == "(":
        dim, rest = _parse_sum(rest)
        if rest[0] != ")":
            raise ValueError(f"expected ')' in a size, found {rest[0]!r}")
        return dim, rest[1:]
    return (Dim.of(int(head)) if head.isdigit() else Dim.symbol(head)), rest
