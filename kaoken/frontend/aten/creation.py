"""aten ops that make tensors out of sizes and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xdsl.dialects.builtin import i1, i64
from xdsl.ir import Attribute, SSAValue

from kaoken.dialect.attributes import Function
from kaoken.dialect.dims import Dim
from kaoken.errors import KaokenError
from kaoken.frontend.aten.arithmetic import add, mul
from kaoken.frontend.aten.registry import Importer, Operand, Scalar, aten
from kaoken.frontend.graph import ONE

F = Function


def _filled(g: Importer, value: Scalar) -> SSAValue:
    """The expected result, all `value`."""
    dtype = g.expected_dtype
    if isinstance(value, Dim):
        return g.broadcast(g.cast(g.size(value), dtype), g.expected)
    return g.full(value, dtype, g.expected)


@aten("full")
def full(g: Importer, size: Sequence[Any], fill_value: Scalar, **_: Any) -> SSAValue:
    return _filled(g, fill_value)


@aten("full_like")
def full_like(g: Importer, x: SSAValue, fill_value: Scalar, **_: Any) -> SSAValue:
    return _filled(g, fill_value)


@aten("new_full")
def new_full(g: Importer, x: SSAValue, size: Any, fill_value: Scalar, **_: Any) -> SSAValue:
    return _filled(g, fill_value)


@aten("ones", "ones_like", "new_ones")
def ones(g: Importer, *_: Any, **__: Any) -> SSAValue:
    return _filled(g, 1)


@aten("zeros", "zeros_like", "new_zeros", "empty", "empty_like", "new_empty", "empty_permuted")
def zeros(g: Importer, *_: Any, **__: Any) -> SSAValue:
    return _filled(g, 0)


@aten("fill")
def fill(g: Importer, x: SSAValue, value: Operand) -> SSAValue:
    return g.broadcast(g.tensor(value, g.dtype(x)), g.shape(x))


@aten("scalar_tensor")
def scalar_tensor(g: Importer, value: Scalar, **_: Any) -> SSAValue:
    return _filled(g, value)


@aten("arange")
def arange(g: Importer, *bounds: Scalar, **_: Any) -> SSAValue:
    start, stop, step = _bounds(bounds)
    count, dtype = _count(g, start, stop, step), g.expected_dtype
    if step == 1 and isinstance(start, int):
        return g.cast(g.iota(count, start), dtype)
    numbers: Operand = g.cast(g.iota(count), dtype)
    return g.cast(add(g, mul(g, numbers, step), start), dtype)


def _bounds(bounds: Sequence[Scalar]) -> tuple[Scalar, Scalar, Scalar]:
    if len(bounds) == 1:
        return 0, bounds[0], 1
    return bounds[0], bounds[1], bounds[2] if len(bounds) > 2 else 1


def _count(g: Importer, start: Scalar, stop: Scalar, step: Scalar) -> Dim:
    if step == 1 and not isinstance(start, float) and not isinstance(stop, float):
        return Dim.of(stop) - Dim.of(start)
    return g.expected[0]


@aten("linspace")
def linspace(g: Importer, start: float, end: float, steps: int, **_: Any) -> SSAValue:
    step = (end - start) / max(steps - 1, 1)
    numbers = g.cast(g.iota(Dim.of(steps)), g.expected_dtype)
    return add(g, mul(g, numbers, step), start)


@aten("eye")
def eye(g: Importer, *_: Any, **__: Any) -> SSAValue:
    rows, columns = _coordinates(g, g.expected[0], g.expected[1])
    return g.cast(g.elementwise(F.EQ, rows, columns), g.expected_dtype)


@aten("tril")
def tril(g: Importer, x: SSAValue, diagonal: int = 0) -> SSAValue:
    return _triangle(g, x, F.LE, diagonal)


@aten("triu")
def triu(g: Importer, x: SSAValue, diagonal: int = 0) -> SSAValue:
    return _triangle(g, x, F.GE, diagonal)


def _triangle(g: Importer, x: SSAValue, comparison: Function, diagonal: int) -> SSAValue:
    rows, columns = _coordinates(g, *g.shape(x)[-2:])
    shifted = add(g, rows, diagonal) if diagonal else rows
    kept = g.elementwise(comparison, columns, shifted)
    if g.dtype(x) == i1:
        return g.elementwise(F.AND, x, kept)
    return g.elementwise(F.SELECT, kept, x, g.full(0, g.dtype(x)))


def _coordinates(g: Importer, height: Dim, width: Dim) -> tuple[SSAValue, SSAValue]:
    """The row [height, 1] and the column [width] of each element of a matrix."""
    return g.reshape(g.iota(height), (height, ONE)), g.iota(width)


@aten("one_hot")
def one_hot(g: Importer, x: SSAValue, num_classes: int = -1) -> SSAValue:
    if num_classes < 0:
        raise KaokenError("one_hot needs num_classes: sizes must not depend on data")
    column = g.reshape(x, (*g.shape(x), ONE))
    classes: Attribute = g.dtype(x)
    return g.cast(g.elementwise(F.EQ, column, g.cast(g.iota(Dim.of(num_classes)), classes)), i64)
