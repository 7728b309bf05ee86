"""aten ops that move data: views, transposes, slices, concatenation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xdsl.ir import SSAValue

from kaoken.dialect.attributes import Function
from kaoken.dialect.dims import Dim, product
from kaoken.errors import KaokenError
from kaoken.frontend.aten.registry import Importer, Scalar, aten
from kaoken.frontend.graph import ONE

Size = int | Dim


@aten(
    "view",
    "_unsafe_view",
    "reshape",
    "view_copy",
    "unsqueeze",
    "squeeze",
    "flatten",
    "unflatten",
    "_reshape_alias",
)
def reshape(g: Importer, x: SSAValue, *_: Any, **__: Any) -> SSAValue:
    return g.reshape(x, g.expected)


@aten("view.dtype")
def view_dtype(g: Importer, x: SSAValue, dtype: Any) -> SSAValue:
    if g.dtype(x) == dtype:
        return x
    raise KaokenError("viewing a tensor's bytes as another type is not supported")


@aten("view_as", "reshape_as")
def view_as(g: Importer, x: SSAValue, other: SSAValue) -> SSAValue:
    return g.reshape(x, g.shape(other))


@aten("expand", "expand_as", "broadcast_to", "expand_copy")
def expand(g: Importer, x: SSAValue, *_: Any, **__: Any) -> SSAValue:
    return g.broadcast(x, g.expected)


@aten("permute")
def permute(g: Importer, x: SSAValue, dims: Sequence[int]) -> SSAValue:
    return g.transpose(x, g.dims(list(dims), x) if g.rank(x) else [])


@aten("transpose.int", "swapaxes", "swapdims")
def transpose(g: Importer, x: SSAValue, dim0: int, dim1: int) -> SSAValue:
    return g.swap(x, dim0, dim1) if g.rank(x) else x


@aten("t", "numpy_T")
def t(g: Importer, x: SSAValue) -> SSAValue:
    return g.transpose(x, list(reversed(range(g.rank(x)))))


@aten("mT", "adjoint")
def matrix_transpose(g: Importer, x: SSAValue) -> SSAValue:
    return g.swap(x, -2, -1)


@aten("movedim.int", "movedim.intlist", "moveaxis")
def movedim(g: Importer, x: SSAValue, source: Any, destination: Any) -> SSAValue:
    origin, target = g.dims(source, x), g.dims(destination, x)
    order = [i for i in range(g.rank(x)) if i not in origin]
    for to, from_ in sorted(zip(target, origin, strict=True)):
        order.insert(to, from_)
    return g.transpose(x, order)


@aten("slice.Tensor")
def slice_(
    g: Importer,
    x: SSAValue,
    dim: int = 0,
    start: Size | None = None,
    end: Size | None = None,
    step: int = 1,
) -> SSAValue:
    at = g.dim(dim, g.rank(x))
    size, first = g.shape(x)[at], _position(start or 0, g.shape(x)[at])
    if step == 1:
        return g.slice(x, at, first, first + g.expected[at])
    stop = size if end is None else _position(end, size)
    if size.constant is None or stop.constant is None or first.constant is None:
        return strided(g, x, at, first, g.expected[at], step)
    return g.slice(x, at, first, Dim.of(min(stop.constant, size.constant)), step)


def strided(g: Importer, x: SSAValue, dim: int, first: Dim, count: Dim, step: int) -> SSAValue:
    """`count` elements from `first` on, each `step` after the one before."""
    if step == 1:
        return g.slice(x, dim, first, first + count)
    if first.constant is None:
        raise KaokenError("a slice with a step and an open start is not supported")
    if (known := count.constant) is not None:
        return g.slice(x, dim, first, first + (known - 1) * step + 1, step)
    # A slice with a step has known bounds; the elements of another are gathered one by one.
    steps = g.apply(Function.MUL, g.iota(count), step)
    return g.gather(x, [g.apply(Function.ADD, steps, first.constant)], dim)


def _position(index: Size, size: Dim) -> Dim:
    """A Python index as a distance from the front."""
    if isinstance(index, int) and index < 0:
        known = size.constant
        return size + index if known is None else Dim.of(max(known + index, 0))
    if isinstance(index, int) and size.constant is not None:
        return Dim.of(min(index, size.constant))
    dim = Dim.of(index)
    negative = all(c <= 0 for _, c in dim.terms) and dim.terms
    return size + dim if negative else dim


@aten("select.int")
def select(g: Importer, x: SSAValue, dim: int, index: Size) -> SSAValue:
    at = g.dim(dim, g.rank(x))
    start = _position(index, g.shape(x)[at])
    return g.reshape(g.slice(x, at, start, start + 1), g.expected)


@aten("narrow")
def narrow(g: Importer, x: SSAValue, dim: int, start: Size, length: Size) -> SSAValue:
    at = g.dim(dim, g.rank(x))
    first = _position(start, g.shape(x)[at])
    return g.slice(x, at, first, first + Dim.of(length))


@aten("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk")
def split(g: Importer, x: SSAValue, _: Any, dim: int = 0) -> list[SSAValue]:
    at = g.dim(dim, g.rank(x))
    parts: list[SSAValue] = []
    start = Dim.of(0)
    for i in range(len(g.results)):
        stop = start + g.expected_of(i)[at]
        parts.append(g.slice(x, at, start, stop))
        start = stop
    return parts


@aten("unbind")
def unbind(g: Importer, x: SSAValue, dim: int = 0) -> list[SSAValue]:
    at = g.dim(dim, g.rank(x))
    ends = [(Dim.of(i), Dim.of(i + 1)) for i in range(len(g.results))]
    return [g.reshape(g.slice(x, at, a, b), g.expected_of(0)) for a, b in ends]


@aten("cat", "concat", "concatenate")
def cat(g: Importer, tensors: Sequence[SSAValue], dim: int = 0) -> SSAValue:
    dtype, rank = g.promoted(*tensors), max(map(g.rank, tensors))
    parts = [g.cast(x, dtype) for x in tensors if g.rank(x) == rank]
    return g.concat(parts, g.dim(dim, rank))


@aten("stack")
def stack(g: Importer, tensors: Sequence[SSAValue], dim: int = 0) -> SSAValue:
    at = g.dim(dim, g.rank(tensors[0]) + 1)
    shape = g.shape(tensors[0])
    return cat(g, [g.reshape(x, (*shape[:at], ONE, *shape[at:])) for x in tensors], at)


@aten("repeat", "tile")
def repeat(g: Importer, x: SSAValue, repeats: Sequence[Size]) -> SSAValue:
    rank = max(len(repeats), g.rank(x))
    shape = (ONE,) * (rank - g.rank(x)) + g.shape(x)
    counts = [Dim.of(1)] * (rank - len(repeats)) + [Dim.of(n) for n in repeats]
    split_up = tuple(d for size in shape for d in (ONE, size))
    grown = tuple(d for n, size in zip(counts, shape, strict=True) for d in (n, size))
    return g.reshape(g.broadcast(g.reshape(x, split_up), grown), g.expected)


@aten("repeat_interleave.self_int")
def repeat_interleave(
    g: Importer, x: SSAValue, repeats: Size, dim: int | None = None, **_: Any
) -> SSAValue:
    if dim is None:
        x, dim = g.reshape(x, (product(g.shape(x)),)), 0
    at, shape = g.dim(dim, g.rank(x)), g.shape(x)
    inner = g.reshape(x, (*shape[: at + 1], ONE, *shape[at + 1 :]))
    grown = g.broadcast(inner, (*shape[: at + 1], Dim.of(repeats), *shape[at + 1 :]))
    return g.reshape(grown, g.expected)


@aten("constant_pad_nd", "pad")
def pad(
    g: Importer, x: SSAValue, pad: Sequence[Size], *rest: Any, value: Scalar | None = None
) -> SSAValue:
    mode = next((r for r in rest if isinstance(r, str)), "constant")
    number = next((r for r in rest if not isinstance(r, str | None)), value) or 0
    if mode != "constant" or isinstance(number, Dim):
        raise KaokenError(f"padding with mode {mode!r} is not supported")
    for i in range(len(pad) // 2):
        at = g.rank(x) - 1 - i
        x = _pad_dimension(g, x, at, Dim.of(pad[2 * i]), Dim.of(pad[2 * i + 1]), number)
    return x


def _pad_dimension(
    g: Importer, x: SSAValue, at: int, before: Dim, after: Dim, value: int | float
) -> SSAValue:
    shape = g.shape(x)
    cut_front = -(before.constant or 0) if (before.constant or 0) < 0 else 0
    cut_back = after if (after.constant or 0) < 0 else Dim.of(0)
    x = g.slice(x, at, Dim.of(cut_front), shape[at] + cut_back)
    parts = [x]
    if (before.constant or 0) > 0 or before.constant is None:
        parts.insert(0, g.full(value, g.dtype(x), (*shape[:at], before, *shape[at + 1 :])))
    if (after.constant or 0) > 0 or after.constant is None:
        parts.append(g.full(value, g.dtype(x), (*shape[:at], after, *shape[at + 1 :])))
    return g.concat(parts, at)


@aten("slice_scatter")
def slice_scatter(
    g: Importer,
    x: SSAValue,
    src: SSAValue,
    dim: int = 0,
    start: Size | None = None,
    end: Size | None = None,
    step: int = 1,
) -> SSAValue:
    if step != 1:
        raise KaokenError("writing to a slice with a step is not supported")
    at = g.dim(dim, g.rank(x))
    size = g.shape(x)[at]
    first = _position(start or 0, size)
    return _replace(g, x, g.cast(src, g.dtype(x)), at, first)


@aten("select_scatter")
def select_scatter(g: Importer, x: SSAValue, src: SSAValue, dim: int, index: Size) -> SSAValue:
    at, shape = g.dim(dim, g.rank(x)), g.shape(x)
    row = g.reshape(g.cast(src, g.dtype(x)), (*shape[:at], ONE, *shape[at + 1 :]))
    return _replace(g, x, row, at, _position(index, shape[at]))


def _replace(g: Importer, x: SSAValue, part: SSAValue, at: int, first: Dim) -> SSAValue:
    """`x` with `part` in place of the elements from `first` on."""
    size, last = g.shape(x)[at], first + g.shape(part)[at]
    pieces = [part]
    if first != Dim.of(0):
        pieces.insert(0, g.slice(x, at, Dim.of(0), first))
    if last != size:
        pieces.append(g.slice(x, at, last, size))
    return g.concat(pieces, at)


@aten("copy")
def copy(g: Importer, x: SSAValue, src: SSAValue, *_: Any) -> SSAValue:
    return g.broadcast(g.cast(src, g.dtype(x)), g.shape(x))
