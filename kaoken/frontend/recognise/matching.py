"""What the recognising rules look at: elementwise ops, numbers, polynomials, statistics of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from xdsl.ir import Operation, SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern

from kaoken.analysis.value_shapes import shape_of
from kaoken.dialect.attributes import Function, Reduction, Shape
from kaoken.dialect.base import KaokenOp
from kaoken.dialect.canonicalization.rules import owner, splat
from kaoken.dialect.dims import Dim
from kaoken.dialect.tensor import BroadcastOp, CastOp, ElementwiseOp, ReduceOp, ReshapeOp
from kaoken.frontend.graph import Graph

F = Function
ONE = Dim.of(1)
Polynomial = dict[tuple[int, ...], float]
"""Coefficients by the exponents of the atoms: x + 2xy is {(1, 0): 1, (1, 1): 2}."""

_DEPTH = 8
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Recogniser(RewritePattern):
    """A rewrite pattern made of a function: what an op's result is in better words, or None.

    The function may build ops only once it is sure of its match.
    """

    kind: type[Operation]
    function: Callable[[Graph, Any], SSAValue | None]

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if not isinstance(op, self.kind) or not op.results[0].uses:
            return
        result = self.function(Graph(rewriter), op)
        if result is None or result is op.results[0]:
            return
        if result.type != op.results[0].type:
            assert len(shape_of(result)) == len(shape_of(op.results[0])), f"{op.name} changed rank"
            result = rewriter.replace_value_with_new_type(result, op.results[0].type)
        rewriter.replace(op, (), (result,))


def inputs_of(value: SSAValue, function: Function) -> tuple[SSAValue, ...] | None:
    """The operands of the elementwise function that makes a value, where it is this one."""
    op = owner(value, ElementwiseOp)
    return tuple(op.inputs) if op is not None and op.function.data is function else None


def number(value: SSAValue) -> float | None:
    """The one number that a tensor holds."""
    found = splat(value)
    return None if found is None else float(found)


def close(a: float | None, b: float) -> bool:
    """Equal but for the rounding of constants to f32."""
    return a is not None and math.isclose(a, b, rel_tol=_TOLERANCE)


def polynomial(
    value: SSAValue, atoms: Sequence[SSAValue], depth: int = _DEPTH
) -> Polynomial | None:
    """A value as a polynomial of others, where sums and products of them make it."""
    for i, atom in enumerate(atoms):
        if value is atom:
            return {tuple(int(i == j) for j in range(len(atoms))): 1.0}
    constant = (0,) * len(atoms)
    if (c := number(value)) is not None:
        return {constant: c}
    op = owner(value, ElementwiseOp)
    if op is None or depth == 0 or op.function.data not in _POLYNOMIAL:
        return None
    parts = [polynomial(v, atoms, depth - 1) for v in op.inputs]
    known = [p for p in parts if p is not None]
    return _combine(op.function.data, known) if len(known) == len(parts) else None


_POLYNOMIAL = {F.ADD, F.SUB, F.MUL, F.DIV, F.NEG, F.POW}


def _combine(function: Function, parts: list[Polynomial]) -> Polynomial | None:
    first, second = parts[0], parts[-1]
    if function is F.ADD:
        return _sum(first, second, 1)
    if function is F.SUB:
        return _sum(first, second, -1)
    if function is F.MUL:
        return _product(first, second)
    if function is F.NEG:
        return {e: -c for e, c in first.items()}
    if any(any(exponents) for exponents in second):
        return None
    constant = next(iter(second.values()))
    if function is F.DIV:
        return {e: c / constant for e, c in first.items()} if constant else None
    return _power(first, constant)


def _sum(a: Polynomial, b: Polynomial, sign: int) -> Polynomial:
    return {e: a.get(e, 0.0) + sign * b.get(e, 0.0) for e in a.keys() | b.keys()}


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    total: Polynomial = {}
    for ea, ca in a.items():
        for eb, cb in b.items():
            e = tuple(x + y for x, y in zip(ea, eb, strict=True))
            total[e] = total.get(e, 0.0) + ca * cb
    return total


def _power(base: Polynomial, exponent: float) -> Polynomial | None:
    if exponent not in (1, 2, 3):
        return None
    result = base
    for _ in range(int(exponent) - 1):
        result = _product(result, base)
    return result


def is_polynomial(found: Polynomial | None, wanted: Polynomial) -> bool:
    """Equal but for the rounding of constants."""
    if found is None:
        return False
    keys = {e for e, c in found.items() if c} | wanted.keys()
    return all(close(found.get(e, 0.0), wanted.get(e, 0.0)) for e in keys)


def below(value: SSAValue, depth: int = 5) -> list[SSAValue]:
    """A value and those that elementwise ops make it of, each once, nearest first."""
    found = dict.fromkeys([value])
    level = [value]
    for _ in range(depth):
        ops = [op for v in level if (op := owner(v, ElementwiseOp)) is not None]
        level = [v for op in ops for v in op.inputs if v not in found]
        found.update(dict.fromkeys(level))
    return list(found)


def is_column(value: SSAValue, x: SSAValue) -> bool:
    """True if a value has one number for each row of x, or that number repeated along the row."""
    rows, shape = shape_of(x), shape_of(value)
    return shape == (*rows[:-1], ONE) or (shape == rows and owner(value, BroadcastOp) is not None)


def rows_only(value: SSAValue) -> SSAValue:
    """A value without the broadcasts and reshapes that add or drop a last dimension of 1."""
    while (op := owner(value, BroadcastOp) or owner(value, ReshapeOp)) is not None:
        before, after = shape_of(op.input), shape_of(op.result)
        if isinstance(op, ReshapeOp) and after != (*before, ONE) and before != (*after, ONE):
            return value
        value = op.input
    return value


def row_reduction(value: SSAValue, reduction: Reduction) -> SSAValue | None:
    """x of a value `reduce(x)` over the last dimension, kept or not: see `is_column`."""
    op = owner(rows_only(value), ReduceOp)
    if op is None or op.reduction.data is not reduction:
        return None
    return op.input if op.dims.get_values() == (len(shape_of(op.input)) - 1,) else None


def row_mean(value: SSAValue) -> SSAValue | None:
    """x of a value that is the mean of x over the last dimension: `mean(x)`, `sum(x) / n`."""
    if (x := row_reduction(value, Reduction.MEAN)) is not None:
        return x
    for function in (F.DIV, F.MUL):
        parts = inputs_of(rows_only(value), function)
        if parts is None or (c := number(parts[1])) is None:
            continue
        x = row_reduction(parts[0], Reduction.SUM)
        size = None if x is None else shape_of(x)[-1].constant
        if size and close(c, size if function is F.DIV else 1 / size):
            return x
    return None


def without_ones(shape: Shape) -> Shape:
    return tuple(dim for dim in shape if dim != ONE)


def plain(value: SSAValue) -> SSAValue:
    """What a value is made of by casts, broadcasts and reshapes that only add or drop ones."""
    while True:
        op = owner(value, BroadcastOp) or owner(value, CastOp) or owner(value, ReshapeOp)
        if op is None or not _keeps_order(op):
            return value
        value = op.input


def _keeps_order(op: KaokenOp) -> bool:
    if not isinstance(op, ReshapeOp):
        return True
    return without_ones(shape_of(op.input)) == without_ones(shape_of(op.result))
