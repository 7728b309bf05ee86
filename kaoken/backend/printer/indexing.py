"""Index arithmetic: affine expressions as C, and memref indices as one row-major offset."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xdsl.ir.affine import (
    AffineBinaryOpExpr,
    AffineBinaryOpKind,
    AffineConstantExpr,
    AffineDimExpr,
    AffineExpr,
    AffineMap,
    AffineSymExpr,
)

from kaoken.backend.printer.text import add, binary, is_integer, multiply, wrap
from kaoken.dialect.dims import Dim


def affine_text(expr: AffineExpr, dims: Sequence[str], symbols: Sequence[str]) -> str:
    """An affine expression in C, its dimensions and symbols replaced by C expressions."""
    if isinstance(expr, AffineConstantExpr):
        return str(expr.value)
    if isinstance(expr, AffineDimExpr):
        return dims[expr.position]
    if isinstance(expr, AffineSymExpr):
        return symbols[expr.position]
    assert isinstance(expr, AffineBinaryOpExpr)
    return _binary_text(expr, dims, symbols)


def _binary_text(expr: AffineBinaryOpExpr, dims: Sequence[str], symbols: Sequence[str]) -> str:
    left = affine_text(expr.lhs, dims, symbols)
    if expr.kind is AffineBinaryOpKind.Add:
        if (subtrahend := _negated(expr.rhs)) is not None:
            return _subtract(left, affine_text(subtrahend, dims, symbols))
        if (subtrahend := _negated(expr.lhs)) is not None:
            right = affine_text(expr.rhs, dims, symbols)
            return _subtract(right, affine_text(subtrahend, dims, symbols))
        return add(left, affine_text(expr.rhs, dims, symbols))
    right = affine_text(expr.rhs, dims, symbols)
    if expr.kind is AffineBinaryOpKind.Mul:
        return multiply(left, right)
    return _divide(expr.kind, left, right, _may_be_negative(expr.lhs))


def _negated(expr: AffineExpr) -> AffineExpr | None:
    """`e` for an expression of the form `e * -c`, as `e * c`."""
    if not isinstance(expr, AffineBinaryOpExpr) or expr.kind is not AffineBinaryOpKind.Mul:
        return None
    factor = expr.rhs
    if isinstance(factor, AffineConstantExpr) and factor.value < 0:
        return expr.lhs * -factor.value
    return None


def _subtract(left: str, right: str) -> str:
    if is_integer(left) and is_integer(right):
        return str(int(left) - int(right))
    return left if right == "0" else binary("-", left, right)


def _may_be_negative(expr: AffineExpr) -> bool:
    """Whether a subtraction occurs: indices and sizes themselves never are negative."""
    constants = (e for e in expr.dfs() if isinstance(e, AffineConstantExpr))
    return any(e.value < 0 for e in constants)


def _divide(kind: AffineBinaryOpKind, left: str, right: str, signed: bool) -> str:
    """Affine division rounds down (or up) where C rounds towards zero."""
    if is_integer(left) and is_integer(right):
        a, b = int(left), int(right)
        results = {
            AffineBinaryOpKind.FloorDiv: a // b,
            AffineBinaryOpKind.CeilDiv: -(-a // b),
            AffineBinaryOpKind.Mod: a % b,
        }
        return str(results[kind])
    if kind is AffineBinaryOpKind.FloorDiv:
        return f"kk_floordiv_i64({left}, {right})" if signed else binary("/", left, right)
    if kind is AffineBinaryOpKind.CeilDiv:
        if signed or not is_integer(right):
            return f"kk_ceildiv_i64({left}, {right})"
        return binary("/", add(left, str(int(right) - 1)), right)
    if signed:
        return f"{wrap(left, 12)} - kk_floordiv_i64({left}, {right}) * {right}"
    return binary("%", left, right)


def map_texts(map_: AffineMap, operands: Sequence[str]) -> list[str]:
    """The results of an affine map over C expressions, dimensions before symbols."""
    dims, symbols = operands[: map_.num_dims], operands[map_.num_dims :]
    return [affine_text(expr, dims, symbols) for expr in map_.results]


def least(texts: Sequence[str], name: str = "min") -> str:
    """The least (or with `max` the greatest) of some indices."""
    result = texts[-1]
    for text in reversed(texts[:-1]):
        result = f"kk_{name}_i64({text}, {result})"
    return result


def flatten(indices: Sequence[str], size: Callable[[int], str]) -> str:
    """The row-major offset of an element; the first size never matters and is not asked for."""
    offset = "0"
    for position, index in enumerate(indices):
        if offset != "0":
            offset = multiply(offset, size(position))
        offset = add(offset, index)
    return offset


def dim_text(dim: Dim, symbols: dict[str, str]) -> str:
    """A symbolic size in C; KeyError names a symbol without a C name."""
    terms = [_term(monomial, count, symbols) for monomial, count in dim.terms]
    total = terms[0] if terms else "0"
    for term in terms[1:]:
        total = binary("-", total, term[1:]) if term.startswith("-") else add(total, term)
    return total


def _term(monomial: tuple[str, ...], count: int, symbols: dict[str, str]) -> str:
    text = str(count)
    for name in monomial:
        text = multiply(text, symbols[name])
    return text
