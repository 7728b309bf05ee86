"""aten ops that pick elements by index tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xdsl.dialects.builtin import i1, i64
from xdsl.ir import SSAValue

from kaoken.dialect.attributes import Function, Reduction
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import broadcast_shapes
from kaoken.errors import KaokenError
from kaoken.frontend.aten.registry import Importer, aten, is_float
from kaoken.frontend.graph import ONE

F, R = Function, Reduction


@aten("index.Tensor")
def index(g: Importer, x: SSAValue, indices: Sequence[SSAValue | None]) -> SSAValue:
    given = [(i, index) for i, index in enumerate(indices) if index is not None]
    dims, chosen = [i for i, _ in given], [_index(g, x, i, index) for i, index in given]
    first = dims[0]
    if dims == list(range(first, first + len(dims))):
        return g.gather(x, chosen, first)
    return _index_apart(g, x, dims, chosen)


def _index_apart(
    g: Importer, x: SSAValue, dims: Sequence[int], chosen: Sequence[SSAValue]
) -> SSAValue:
    """Indices with dimensions between them: numpy puts the chosen elements in front."""
    rest = [i for i in range(g.rank(x)) if i not in dims]
    return g.gather(g.transpose(x, [*dims, *rest]), chosen, 0)


def _index(g: Importer, x: SSAValue, dim: int, index: SSAValue) -> SSAValue:
    if g.dtype(index) == i1:
        raise KaokenError("indexing by a bool tensor is not supported: sizes would depend on data")
    return _from_front(g, g.cast(index, i64), g.shape(x)[dim])


def _from_front(g: Importer, index: SSAValue, size: Dim) -> SSAValue:
    """Indices where negative ones, which count from the end, have become positive."""
    below = g.elementwise(F.LT, index, g.full(0, i64))
    return g.elementwise(F.SELECT, below, g.elementwise(F.ADD, index, g.size(size)), index)


@aten("index_select")
def index_select(g: Importer, x: SSAValue, dim: int, index: SSAValue) -> SSAValue:
    return g.gather(x, [index], g.dim(dim, g.rank(x)))


_FEW = 512
"""So many columns of a matrix are compared with all indices rather than looked up."""


@aten("gather")
def gather(g: Importer, x: SSAValue, dim: int, index: SSAValue, **_: Any) -> SSAValue:
    rank, shape = g.rank(x), g.shape(index)
    at = g.dim(dim, rank)
    if is_float(g.dtype(x)) and _has_few_columns(g, x, index, at):
        chosen = _is_column(g, x, index)
        rows = g.reshape(x, (shape[0], ONE, g.shape(x)[1]))
        return g.reduce(R.SUM, g.elementwise(F.SELECT, chosen, rows, g.tensor(0, g.dtype(x))), [2])
    positions = [index if i == at else _along(g, shape[i], i, rank) for i in range(rank)]
    return g.gather(x, positions, 0)


def _has_few_columns(g: Importer, x: SSAValue, index: SSAValue, at: int) -> bool:
    """Whether the rows of a matrix pick among few numbers, as the routers of experts do.

    Without an index of the rows, each row is then seen to be on its own.
    """
    if g.rank(x) != 2 or at != 1 or g.shape(index)[0] != g.shape(x)[0]:
        return False
    size = g.shape(x)[1].constant
    return size is not None and size <= _FEW


def _is_column(g: Importer, x: SSAValue, index: SSAValue) -> SSAValue:
    """[rows, picks, columns]: whether a pick is that column."""
    rows, picks = g.shape(index)
    columns = g.shape(x)[1]
    places = g.reshape(g.iota(columns), (ONE, ONE, columns))
    return g.elementwise(F.EQ, g.reshape(index, (rows, picks, ONE)), places)


@aten("scatter.value")
def scatter_value(g: Importer, x: SSAValue, dim: int, index: SSAValue, value: Any) -> SSAValue:
    """A number in the places that the indices say, of matrices with few columns."""
    if not _has_few_columns(g, x, index, g.dim(dim, g.rank(x))):
        raise KaokenError("scatter is supported along the last of two dimensions, a small one")
    hit = g.reduce(R.ANY, _is_column(g, x, index), [1])
    return g.elementwise(F.SELECT, hit, g.tensor(value, g.dtype(x)), x)


def _along(g: Importer, size: Dim, dim: int, rank: int) -> SSAValue:
    """0, 1, ... along one of `rank` dimensions."""
    return g.reshape(g.iota(size), tuple(size if i == dim else ONE for i in range(rank)))


@aten("take_along_dim")
def take_along_dim(g: Importer, x: SSAValue, index: SSAValue, dim: int | None = None) -> SSAValue:
    if dim is None:
        raise KaokenError("take_along_dim without a dimension is not supported")
    at, rank = g.dim(dim, g.rank(x)), g.rank(x)
    shape = broadcast_shapes(
        tuple(ONE if i == at else d for i, d in enumerate(g.shape(x))), g.shape(index)
    )
    grown = tuple(g.shape(index)[at] if i == at else d for i, d in enumerate(shape))
    positions = [index if i == at else _along(g, grown[i], i, rank) for i in range(rank)]
    return g.gather(x, positions, 0)


@aten("flip")
def flip(g: Importer, x: SSAValue, dims: Sequence[int]) -> SSAValue:
    for dim in g.dims(list(dims), x):
        size = g.shape(x)[dim]
        last = g.size(size - 1)
        x = g.gather(x, [g.elementwise(F.SUB, last, g.iota(size))], dim)
    return x


@aten("roll")
def roll(g: Importer, x: SSAValue, shifts: Any, dims: Any = ()) -> SSAValue:
    if not dims and dims != 0:
        raise KaokenError("roll without dimensions is not supported")
    amounts = [shifts] if isinstance(shifts, int) else list(shifts)
    for amount, dim in zip(amounts, g.dims(dims, x), strict=True):
        size = g.shape(x)[dim]
        back = size - amount if size.constant is None else Dim.of(-amount % size.constant)
        if size.constant is None and amount < 0:
            back = Dim.of(-amount)
        front = g.slice(x, dim, Dim.of(0), back)
        x = g.concat([g.slice(x, dim, back, size), front], dim)
    return x
