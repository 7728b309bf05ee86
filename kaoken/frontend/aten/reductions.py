"""aten ops that reduce dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from xdsl.dialects.builtin import i1, i64
from xdsl.ir import Attribute, SSAValue

from kaoken.dialect.attributes import Function, Reduction
from kaoken.dialect.dims import Dim, product
from kaoken.errors import KaokenError
from kaoken.frontend.aten.arithmetic import div, mul, power, sub
from kaoken.frontend.aten.registry import Importer, aten, is_float
from kaoken.frontend.graph import ONE

F, R = Function, Reduction
Dims = int | Sequence[int] | None


def _accumulator(g: Importer, x: SSAValue, dtype: Attribute | None) -> SSAValue:
    """The operand in the type in which torch sums it: integers in i64."""
    if dtype is not None:
        return g.cast(x, dtype)
    return x if is_float(g.dtype(x)) else g.cast(x, i64)


@aten("sum")
def sum_(
    g: Importer, x: SSAValue, dim: Dims = None, keepdim: bool = False, dtype: Any = None
) -> SSAValue:
    return g.reduce(R.SUM, _accumulator(g, x, dtype), g.dims(dim, x), keepdim)


@aten("mean")
def mean(
    g: Importer, x: SSAValue, dim: Dims = None, keepdim: bool = False, dtype: Any = None
) -> SSAValue:
    return g.reduce(R.MEAN, _accumulator(g, x, dtype), g.dims(dim, x), keepdim)


@aten("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
def adaptive_avg_pool(g: Importer, x: SSAValue, output_size: int | Sequence[int]) -> SSAValue:
    """Means of equal parts of the last dimensions."""
    sizes = [output_size] if isinstance(output_size, int) else list(output_size)
    for at, count in enumerate(sizes, g.rank(x) - len(sizes)):
        shape = g.shape(x)
        size = shape[at].constant
        if count != 1 and (size is None or size % count):
            raise KaokenError(f"pooling a size of {shape[at]} into {count} unequal parts")
        part = shape[at] if count == 1 or size is None else Dim.of(size // count)
        x = g.reshape(x, (*shape[:at], Dim.of(count), part, *shape[at + 1 :]))
        x = g.reduce(R.MEAN, x, [at + 1])
    return x


@aten("prod")
def prod(
    g: Importer, x: SSAValue, dim: Dims = None, keepdim: bool = False, dtype: Any = None
) -> SSAValue:
    return g.reduce(R.PROD, _accumulator(g, x, dtype), g.dims(dim, x), keepdim)


@aten("amax")
def amax(g: Importer, x: SSAValue, dim: Dims = None, keepdim: bool = False) -> SSAValue:
    return g.reduce(R.MAX, x, g.dims(dim, x), keepdim)


@aten("amin")
def amin(g: Importer, x: SSAValue, dim: Dims = None, keepdim: bool = False) -> SSAValue:
    return g.reduce(R.MIN, x, g.dims(dim, x), keepdim)


@aten("max.default")
def max_all(g: Importer, x: SSAValue) -> SSAValue:
    return amax(g, x)


@aten("min.default")
def min_all(g: Importer, x: SSAValue) -> SSAValue:
    return amin(g, x)


@aten("max.dim")
def max_dim(g: Importer, x: SSAValue, dim: int, keepdim: bool = False) -> list[SSAValue]:
    return [amax(g, x, dim, keepdim), argmax(g, x, dim, keepdim)]


@aten("min.dim")
def min_dim(g: Importer, x: SSAValue, dim: int, keepdim: bool = False) -> list[SSAValue]:
    return [amin(g, x, dim, keepdim), argmin(g, x, dim, keepdim)]


@aten("argmax")
def argmax(g: Importer, x: SSAValue, dim: int | None = None, keepdim: bool = False) -> SSAValue:
    return _first_place(g, R.MAX, x, dim, keepdim)


@aten("argmin")
def argmin(g: Importer, x: SSAValue, dim: int | None = None, keepdim: bool = False) -> SSAValue:
    return _first_place(g, R.MIN, x, dim, keepdim)


@aten("topk")
def topk(
    g: Importer, x: SSAValue, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> list[SSAValue]:
    """The largest one after the other; of equal ones the first comes first."""
    at, rank = g.dim(dim, g.rank(x)), g.rank(x)
    if not is_float(g.dtype(x)):
        raise KaokenError("topk of numbers that are not floats")
    size = g.shape(x)[at]
    places = g.reshape(g.iota(size), tuple(size if i == at else ONE for i in range(rank)))
    reduction = R.MAX if largest else R.MIN
    last = g.tensor(-math.inf if largest else math.inf, g.dtype(x))
    values: list[SSAValue] = []
    indices: list[SSAValue] = []
    for _ in range(k):
        values.append(g.reduce(reduction, x, [at], True))
        indices.append(_first_place(g, reduction, x, at, True))
        x = g.elementwise(F.SELECT, g.elementwise(F.EQ, places, indices[-1]), last, x)
    return [g.concat(values, at), g.concat(indices, at)]


def _first_place(
    g: Importer, reduction: Reduction, x: SSAValue, dim: int | None, keepdim: bool
) -> SSAValue:
    """Where the extreme is found first."""
    if dim is None:
        place = _first_place(g, reduction, g.reshape(x, (product(g.shape(x)),)), 0, False)
        return g.reshape(place, g.expected)
    at, rank = g.dim(dim, g.rank(x)), g.rank(x)
    size = g.shape(x)[at]
    hit = g.elementwise(F.EQ, x, g.reduce(reduction, x, [at], True))
    places = g.reshape(g.iota(size), tuple(size if i == at else ONE for i in range(rank)))
    candidates = g.elementwise(F.SELECT, hit, places, g.size(size))
    return g.reduce(R.MIN, candidates, [at], keepdim)


@aten("any")
def any_(g: Importer, x: SSAValue, dim: Dims = None, keepdim: bool = False) -> SSAValue:
    return g.reduce(R.ANY, g.cast(x, i1), g.dims(dim, x), keepdim)


@aten("all")
def all_(g: Importer, x: SSAValue, dim: Dims = None, keepdim: bool = False) -> SSAValue:
    return g.reduce(R.ALL, g.cast(x, i1), g.dims(dim, x), keepdim)


@aten("logsumexp")
def logsumexp(g: Importer, x: SSAValue, dim: Dims, keepdim: bool = False) -> SSAValue:
    dims = g.dims(dim, x)
    top = g.reduce(R.MAX, x, dims, True)
    total = g.reduce(R.SUM, g.elementwise(F.EXP, sub(g, x, top)), dims, True)
    result = g.elementwise(F.ADD, g.elementwise(F.LOG, total), top)
    return result if keepdim else g.reduce(R.SUM, result, dims)


@aten("var.correction")
def var(
    g: Importer,
    x: SSAValue,
    dim: Dims = None,
    correction: float | None = None,
    keepdim: bool = False,
) -> SSAValue:
    dims = g.dims(dim, x)
    centred = g.elementwise(F.SUB, x, g.reduce(R.MEAN, x, dims, True))
    squares = g.elementwise(F.MUL, centred, centred)
    less = 1 if correction is None else correction
    if less == 0:
        return g.reduce(R.MEAN, squares, dims, keepdim)
    count = product(g.shape(x)[i] for i in dims) - Dim.of(int(less))
    total = g.reduce(R.SUM, squares, dims, keepdim)
    return div(g, total, count if count.constant is None else float(count.constant))


@aten("var.default")
def var_default(g: Importer, x: SSAValue, unbiased: bool = True) -> SSAValue:
    return var(g, x, None, float(unbiased))


@aten("var.dim")
def var_dim(
    g: Importer, x: SSAValue, dim: Dims, unbiased: bool = True, keepdim: bool = False
) -> SSAValue:
    return var(g, x, dim, float(unbiased), keepdim)


@aten("std.correction")
def std(
    g: Importer,
    x: SSAValue,
    dim: Dims = None,
    correction: float | None = None,
    keepdim: bool = False,
) -> SSAValue:
    return g.elementwise(F.SQRT, var(g, x, dim, correction, keepdim))


@aten("std.default")
def std_default(g: Importer, x: SSAValue, unbiased: bool = True) -> SSAValue:
    return std(g, x, None, float(unbiased))


@aten("std.dim")
def std_dim(
    g: Importer, x: SSAValue, dim: Dims, unbiased: bool = True, keepdim: bool = False
) -> SSAValue:
    return std(g, x, dim, float(unbiased), keepdim)


@aten("var_mean.correction")
def var_mean(
    g: Importer,
    x: SSAValue,
    dim: Dims = None,
    correction: float | None = None,
    keepdim: bool = False,
) -> list[SSAValue]:
    return [var(g, x, dim, correction, keepdim), mean(g, x, dim, keepdim)]


@aten("linalg_vector_norm")
def vector_norm(
    g: Importer,
    x: SSAValue,
    ord: float = 2,
    dim: Dims = None,
    keepdim: bool = False,
    dtype: Any = None,
) -> SSAValue:
    x, dims = _accumulator(g, x, dtype), g.dims(dim, x)
    if ord == 2:
        return g.elementwise(F.SQRT, g.reduce(R.SUM, mul(g, x, x), dims, keepdim))
    size = g.elementwise(F.ABS, x)
    if ord in (math.inf, -math.inf):
        return g.reduce(R.MAX if ord > 0 else R.MIN, size, dims, keepdim)
    if ord == 1:
        return g.reduce(R.SUM, size, dims, keepdim)
    return power(g, g.reduce(R.SUM, power(g, size, float(ord)), dims, keepdim), 1.0 / ord)


@aten("norm")
def norm(
    g: Importer, x: SSAValue, p: float | None = 2, dim: Dims = None, keepdim: bool = False, **_: Any
) -> SSAValue:
    return vector_norm(g, x, 2 if p is None else p, dim, keepdim)


@aten("cumsum")
def cumsum(g: Importer, x: SSAValue, dim: int, dtype: Any = None) -> SSAValue:
    x = _accumulator(g, x, dtype)
    return g.cumsum(x, g.dim(dim, g.rank(x))) if g.rank(x) else x


@aten("diff")
def diff(
    g: Importer,
    x: SSAValue,
    n: int = 1,
    dim: int = -1,
    prepend: SSAValue | None = None,
    append: SSAValue | None = None,
) -> SSAValue:
    at = g.dim(dim, g.rank(x))
    x = g.concat([part for part in (prepend, x, append) if part is not None], at)
    for _ in range(n):
        size = g.shape(x)[at]
        after, before = g.slice(x, at, ONE, size), g.slice(x, at, Dim.of(0), size - ONE)
        x = g.elementwise(F.NE if g.dtype(x) == i1 else F.SUB, after, before)
    return x
