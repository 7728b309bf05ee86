"""Turns the syntax tree of a schedule into rules, and checks all names and arguments in it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, NoReturn

from lark import Token, Tree

from kaoken.schedule.facts import SIZES, WORDS, known_features, op_names
from kaoken.schedule.language import (
    ANY_OP,
    COMPARISONS,
    DIRECTIVES,
    LOOP,
    LOOPS,
    MACHINE_NUMBERS,
    OPEN,
    SIZE,
    Comparison,
    Condition,
    Place,
    Product,
    Rule,
    Schedule,
    Source,
    Step,
    kinds_of,
)

_SUFFIXES = {"K": 1 << 10, "M": 1 << 20}
Node = Tree[Any]


def place_of(token: Token) -> Place:
    return Place(token.line or 1, token.column or 1, len(token))


def any_of(words: Iterable[str], last: str = "or") -> str:
    """`a, b or c`."""
    *most, end = words
    return f"{', '.join(most)} {last} {end}" if most else end


def _tokens(tree: Node, kind: str) -> list[Token]:
    return [c for c in tree.children if isinstance(c, Token) and c.type == kind]


def _trees(tree: Node, kind: str | None = None) -> list[Node]:
    return [c for c in tree.children if isinstance(c, Tree) and kind in (None, c.data)]


class Reader:
    """Reads one file, from its constants to its rules. Raises ScheduleError."""

    def __init__(self, source: Source):
        self.source = source
        self.constants: dict[str, tuple[int | str, ...]] = {n: (n,) for n in MACHINE_NUMBERS}

    def schedule(self, tree: Node) -> Schedule:
        """All rules of a file."""
        rules: list[Rule] = []
        for item in _trees(tree):
            if item.data == "constant":
                self._constant(item)
            else:
                rules.append(self._rule(item))
        return Schedule(self.source, tuple(rules))

    def _refuse(self, where: Token | Place, message: str) -> NoReturn:
        place = where if isinstance(where, Place) else place_of(where)
        raise self.source.error(place, message)

    def _known(self, token: Token, what: str, known: Iterable[str]) -> str:
        """The name that a token is, of those that are known."""
        names = sorted(known)
        if token not in names:
            near = difflib.get_close_matches(token, names, n=1)
            hint = f", did you mean {near[0]}?" if near else "."
            self._refuse(token, f"unknown {what} {token}{hint} Known: {', '.join(names)}")
        return str(token)

    # Values

    def _constant(self, tree: Node) -> None:
        (name,), (value,) = _tokens(tree, "NAME"), _trees(tree)
        product = self._number(self._product(value))
        if name in self.constants:
            self._refuse(name, f"{name} has a value already")
        self.constants[str(name)] = product.factors

    def _product(self, tree: Node) -> Product:
        factors: list[int | str] = []
        tokens = [t for factor in _trees(tree) for t in factor.children if isinstance(t, Token)]
        for token in tokens:
            if token.type == "NUMBER":
                digits = token.rstrip("KM")
                factors.append(int(digits) * _SUFFIXES.get(token[len(digits) :], 1))
            else:
                factors.extend(self.constants.get(str(token), (str(token),)))
        first, last = place_of(tokens[0]), place_of(tokens[-1])
        end = last.column + last.width if last.line == first.line else first.column + 1
        return Product(tuple(factors), Place(first.line, first.column, end - first.column))

    def _number(self, product: Product) -> Product:
        """The product, which must have a value."""
        if product.unknown is not None:
            known = ", ".join(self.constants)
            self._refuse(
                product.place,
                f"expected a number, found {product.unknown}, which has no value. Known: {known}",
            )
        return product

    # Rules

    def _rule(self, tree: Node) -> Rule:
        (op,), patterns, whens = _trees(tree, "op"), _tokens(tree, "PATTERN"), _trees(tree, "when")
        names = _tokens(op, "NAME")
        width = len(names[0]) if names else 1
        return Rule(
            self._known(names[0], "op", op_names()) if names else ANY_OP,
            patterns[0][1:-1] if patterns else None,
            tuple(self._test(test) for test in _trees(tree, "test")),
            self._condition(_trees(whens[0])[0]) if whens else None,
            self._steps(_trees(tree, "directive")),
            Place(tree.meta.line, tree.meta.column, width),
            self._head(tree),
        )

    def _head(self, tree: Node) -> str:
        """A rule's text before the brace."""
        start = tree.meta.start_pos
        heads = [c for c in _trees(tree) if c.data != "directive" and not c.meta.empty]
        ends = [head.meta.end_pos for head in heads]
        ends += [token.end_pos or 0 for token in _tokens(tree, "PATTERN")]
        end = self.source.text.index("{", max([start, *ends]))
        return " ".join(self.source.text[start:end].split())

    def _test(self, tree: Node) -> Comparison:
        (key,), (comparison,) = _tokens(tree, "NAME"), _tokens(tree, "COMPARE")
        self._known(key, "property", [*SIZES, *WORDS])
        product = self._product(_trees(tree)[0])
        if key in WORDS and product.name not in WORDS[key]:
            self._refuse(product.place, f"{key} is one of {', '.join(WORDS[key])}")
        if key in SIZES and product.name != OPEN:
            self._number(product)
        if product.unknown is not None and comparison not in ("=", "!="):
            self._refuse(comparison, f"{key} {comparison} needs a number, found {product.unknown}")
        return Comparison(str(key), str(comparison), product)

    def _condition(self, tree: Node) -> Condition:
        if tree.data == "feature":
            name = self._known(_tokens(tree, "NAME")[0], "target feature", known_features())
            return lambda features, numbers: name in features
        if tree.data == "comparison":
            key = self._known(_tokens(tree, "NAME")[0], "number of a target", MACHINE_NUMBERS)
            compare = COMPARISONS[str(_tokens(tree, "COMPARE")[0])]
            product = self._number(self._product(_trees(tree)[0]))
            return lambda features, numbers: compare(numbers[key], product.value(numbers))
        parts = [self._condition(child) for child in _trees(tree)]
        if tree.data == "negated":
            return lambda features, numbers: not parts[0](features, numbers)
        combine = any if tree.data == "either" else all
        return lambda features, numbers: combine(part(features, numbers) for part in parts)

    # Directives

    def _steps(self, trees: list[Node]) -> tuple[Step, ...]:
        steps = tuple(self._step(tree) for tree in trees)
        for name in ("panel", "literal"):
            same = [step for step in steps if step.name == name]
            if len(same) > 1:
                self._refuse(same[1].place, f"{name} is given twice")
            if same and name == "literal" and len(steps) > 1:
                self._refuse(same[0].place, "literal() leaves no loops: it must stand alone")
        return steps

    def _step(self, tree: Node) -> Step:
        (token,) = _tokens(tree, "NAME")
        name = self._known(token, "directive", DIRECTIVES)
        arguments = tuple(self._product(t) for t in _trees(tree))
        self._check_arguments(token, arguments)
        return Step(name, arguments, bool(_tokens(tree, "TRY")), place_of(token))

    def _check_arguments(self, token: Token, arguments: tuple[Product, ...]) -> None:
        name = str(token)
        signature, given = DIRECTIVES[name], len(arguments)
        if not given if signature == (LOOPS,) else given != len(signature):
            self._refuse(token, f"{_usage(name)}, not {given} arguments")
        for product, kind in zip(arguments, kinds_of(name, arguments), strict=True):
            if kind == SIZE:
                self._check_size(product)
            elif product.name is None or product.name in self.constants:
                self._refuse(product.place, f"{_usage(name)}: this is not a loop's name")

    def _check_size(self, product: Product) -> None:
        self._number(product)
        if product.is_known and product.value({}) < 1:
            self._refuse(product.place, "a size must be at least 1")


def _usage(name: str) -> str:
    words = {LOOP: "a loop", SIZE: "a size", LOOPS: "one loop or more"}
    wanted = [words[kind] for kind in DIRECTIVES[name]]
    return f"{name} takes {any_of(wanted, 'and') if wanted else 'no arguments'}"
