"""Convolutions as linear layers of windows, channels last.

```
%y = aten.conv2d(%x, %weight, %bias, [8, 8])          # x [B, 3, 32, 32], weight [64, 3, 8, 8]
```
becomes, windows that lie side by side being views of the input (the patches of a ViT),
```mlir
%0 = kaoken.reshape %x to <[B, 3, 4, 8, 4, 8]>
%1 = kaoken.transpose %0 [0, 2, 4, 1, 3, 5]
%2 = kaoken.reshape %1 to <[B, 4, 4, 192]>
%3 = kaoken.linear %2, %weight_as_64x192 bias %bias   # `bake` folds the weight's reshape
%y = kaoken.transpose %3 [0, 3, 1, 2]
```
Other windows are the concatenation of one slice of the padded input for each place in the kernel.
With groups there is a linear layer for each, and where a group is one channel (depthwise) the
slices are multiplied by their rows of the weight and added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from xdsl.ir import SSAValue

from kaoken.dialect.attributes import Function, Shape
from kaoken.dialect.dims import Dim, product
from kaoken.errors import KaokenError
from kaoken.frontend.aten.layers import linear
from kaoken.frontend.aten.movement import pad, strided
from kaoken.frontend.aten.registry import Importer, aten
from kaoken.frontend.graph import ONE

F = Function
Sizes = int | Sequence[int]


@dataclass(frozen=True)
class Windows:
    """Where a convolution looks: sizes along each of the dimensions after the channels."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    counts: Shape

    @property
    def side_by_side(self) -> bool:
        """Whether each window begins where the one before it ends."""
        return self.stride == self.kernel and set(self.dilation) == {1}


@aten("conv1d", "conv2d", "conv3d")
def conv(
    g: Importer,
    x: SSAValue,
    weight: SSAValue,
    bias: SSAValue | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> SSAValue:
    kernel = tuple(_known(d) for d in g.shape(weight)[2:])
    rank = len(kernel)
    steps, spread = _each(stride, rank), _each(dilation, rank)
    if g.rank(x) == rank + 1:
        x = g.reshape(x, (ONE, *g.shape(x)))
    margins = _margins(padding, kernel, spread)
    if any(margins):
        x = pad(g, x, margins)
    windows = Windows(kernel, steps, spread, g.expected[-rank:])
    channels_last = _channels_last(g, x, weight, bias, windows, groups)
    return g.reshape(g.transpose(channels_last, [0, rank + 1, *range(1, rank + 1)]), g.expected)


@aten("convolution")
def convolution(
    g: Importer,
    x: SSAValue,
    weight: SSAValue,
    bias: SSAValue | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
) -> SSAValue:
    if transposed:
        raise KaokenError("transposed convolutions are not supported")
    return conv(g, x, weight, bias, stride, padding, dilation, groups)


def _known(size: Dim) -> int:
    if (n := size.constant) is None:
        raise KaokenError("a convolution needs a weight of known sizes")
    return n


def _each(sizes: Sizes, rank: int) -> tuple[int, ...]:
    """One number for each dimension; a single one is for all."""
    given = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    return given * rank if len(given) == 1 else given


def _margins(padding: Sizes | str, kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """What is added before and after each dimension, the last first, as `aten.pad` takes it."""
    if padding == "valid":
        padding = 0
    if isinstance(padding, str):
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in totals]
    else:
        pairs = [(size, size) for size in _each(padding, len(kernel))]
    return [size for pair in reversed(pairs) for size in pair]


def _channels_last(
    g: Importer,
    x: SSAValue,
    weight: SSAValue,
    bias: SSAValue | None,
    windows: Windows,
    groups: int,
) -> SSAValue:
    """The convolution of a padded input, as [batch, sizes..., channels]."""
    if groups == 1 and windows.side_by_side:
        flat = g.reshape(weight, (g.shape(weight)[0], product(g.shape(weight)[1:])))
        return linear(g, _patches(g, x, windows), flat, bias)
    rank = len(windows.kernel)
    x = g.transpose(x, [0, *range(2, rank + 2), 1])
    if groups > 1 and g.shape(weight)[1] == ONE:
        return _depthwise(g, list(_slices(g, x, windows)), weight, bias)
    weight = g.transpose(weight, [0, *range(2, rank + 2), 1])
    flat = g.reshape(weight, (g.shape(weight)[0], product(g.shape(weight)[1:])))
    parts = [
        linear(g, g.concat(list(_slices(g, inputs, windows)), rank + 1), rows, shift)
        for inputs, rows, shift in zip(
            _split(g, x, rank + 1, groups),
            _split(g, flat, 0, groups),
            [None] * groups if bias is None else _split(g, bias, 0, groups),
            strict=True,
        )
    ]
    return g.concat(parts, rank + 1)


def _patches(g: Importer, x: SSAValue, windows: Windows) -> SSAValue:
    """Windows side by side, [batch, counts..., channels * places in the kernel]."""
    counts, kernel = windows.counts, [Dim.of(k) for k in windows.kernel]
    rank = len(kernel)
    for i, (count, size) in enumerate(zip(counts, kernel, strict=True)):
        x = g.slice(x, i + 2, Dim.of(0), count * size)
    batch, channels = g.shape(x)[:2]
    halves = [d for pair in zip(counts, kernel, strict=True) for d in pair]
    x = g.reshape(x, (batch, channels, *halves))
    x = g.transpose(x, [0, *range(2, 2 * rank + 2, 2), 1, *range(3, 2 * rank + 2, 2)])
    return g.reshape(x, (batch, *counts, channels * product(kernel)))


def _slices(g: Importer, x: SSAValue, windows: Windows, dim: int = 0) -> Iterator[SSAValue]:
    """What each place in the kernel sees of `x` [batch, sizes..., channels], the last fastest."""
    if dim == len(windows.kernel):
        yield x
        return
    for place in range(windows.kernel[dim]):
        first = Dim.of(place * windows.dilation[dim])
        seen = strided(g, x, dim + 1, first, windows.counts[dim], windows.stride[dim])
        yield from _slices(g, seen, windows, dim + 1)


def _depthwise(
    g: Importer, slices: Sequence[SSAValue], weight: SSAValue, bias: SSAValue | None
) -> SSAValue:
    """Each channel by itself: a slice times its row of the weight, added up."""
    channels = g.shape(slices[0])[-1]
    outputs, count = g.shape(weight)[0], Dim.of(len(slices))
    each = Dim.of(_known(outputs) // _known(channels))
    table = g.transpose(g.reshape(weight, (channels, each, count)), [2, 0, 1])
    total: SSAValue | None = None
    for i, seen in enumerate(slices):
        row = g.reshape(g.slice(table, 0, Dim.of(i), Dim.of(i + 1)), (channels, each))
        term = g.elementwise(F.MUL, g.reshape(seen, (*g.shape(seen), ONE)), row)
        total = term if total is None else g.elementwise(F.ADD, total, term)
    assert total is not None
    result = g.reshape(total, (*g.shape(total)[:-2], outputs))
    return result if bias is None else g.elementwise(F.ADD, result, bias)


def _split(g: Importer, x: SSAValue, dim: int, count: int) -> list[SSAValue]:
    """Equal parts of a dimension of known size."""
    size = _known(g.shape(x)[dim]) // count
    return [g.slice(x, dim, Dim.of(i * size), Dim.of((i + 1) * size)) for i in range(count)]
