"""Rules that remove movements of data: reshape, transpose, slice, concat, broadcast.

    reshape(reshape(x)) -> reshape(x)          transpose(transpose(x)) -> transpose(x)
    a transpose that only moves sizes of 1 -> reshape
    transpose(reshape(transpose(x))) -> one transpose and one reshape
    slice(slice(x)) -> slice(x)                concat(slice(x, 0, 4), slice(x, 4, 8)) -> slice(x)

They never turn a reshape into something else and never lengthen a chain, so they end.
"""

from __future__ import annotations

from xdsl.ir import SSAValue

from kaoken.analysis.value_shapes import shape_of
from kaoken.dialect.attributes import Shape, ShapeAttr, int_attr
from kaoken.dialect.canonicalization.rules import (
    Replacement,
    full_like,
    int_array,
    like,
    owner,
    reshape_to,
    reshaped,
    same_shape,
    sole_owner,
    splat,
)
from kaoken.dialect.dims import Dim
from kaoken.dialect.tensor import BroadcastOp, ConcatOp, ReshapeOp, SliceOp, TransposeOp

_ONE = Dim.of(1)
DataMovement = ReshapeOp | TransposeOp | SliceOp | BroadcastOp


def drop_reshape(op: ReshapeOp) -> Replacement:
    """A reshape to the same shape."""
    return op.input if same_shape(op.input, op.result) else None


def merge_reshapes(op: ReshapeOp) -> Replacement:
    if (inner := owner(op.input, ReshapeOp)) is None:
        return None
    return reshaped(op, inner.input)


def merge_transposes(op: TransposeOp) -> Replacement:
    if (inner := owner(op.input, TransposeOp)) is None:
        return None
    first, second = _order(inner), _order(op)
    return [_transpose_like(op, inner.input, [first[i] for i in second])]


def drop_transpose(op: TransposeOp) -> Replacement:
    """A transpose after which all elements lie as before: only sizes of 1 have moved, if any."""
    shape = shape_of(op.input)
    moved = [i for i in _order(op) if shape[i] != _ONE]
    return reshaped(op, op.input) if moved == sorted(moved) else None


def merge_transposes_around_reshape(op: TransposeOp) -> Replacement:
    """transpose(reshape(transpose(x))) where the reshape only splits dimensions, or only merges."""
    if (middle := sole_owner(op.input, ReshapeOp)) is None:
        return None
    if (inner := owner(middle.input, TransposeOp)) is None:
        return None
    groups = dimension_groups(shape_of(inner.result), shape_of(middle.result))
    if groups is None:
        return None
    if all(len(before) == 1 for before, _ in groups):
        return _split_first(op, inner, [after for _, after in groups])
    if all(len(after) == 1 for _, after in groups):
        return _merge_last(op, inner, [before for before, _ in groups])
    return None


def _split_first(op: TransposeOp, inner: TransposeOp, parts: list[list[int]]) -> Replacement:
    """transpose(split(transpose(x))) -> transpose(split(x)); `parts` are what each size became."""
    order = _order(inner)
    split = shape_of(op.input)
    source_order = sorted(range(len(order)), key=lambda i: order[i])
    places = [d for i in source_order for d in parts[i]]
    reshape = reshape_to(inner.input, tuple(split[d] for d in places))
    position = {d: at for at, d in enumerate(places)}
    return [reshape, _transpose_like(op, reshape.result, [position[d] for d in _order(op)])]


def _merge_last(op: TransposeOp, inner: TransposeOp, parts: list[list[int]]) -> Replacement:
    """transpose(merge(transpose(x))) -> merge(transpose(x)); `parts` are what each size was."""
    order = _order(inner)
    new_order = [order[d] for i in _order(op) for d in parts[i]]
    transpose = TransposeOp.make([inner.input], {"permutation": int_array(new_order)})
    shape = ShapeAttr(shape_of(op.result))
    return [transpose, like(op, ReshapeOp, [transpose], {"shape": shape})]


def _order(op: TransposeOp) -> list[int]:
    return list(op.permutation.get_values())


def _transpose_like(op: TransposeOp, value: SSAValue, order: list[int]) -> TransposeOp:
    return like(op, TransposeOp, [value], {"permutation": int_array(order)})


def dimension_groups(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]] | None:
    """Which dimensions of a reshape's input became which of its output, in order.

    [B, S, 12] to [B, S, 3, 4] gives [([0], [0]), ([1], [1]), ([2], [2, 3])]; None where the sizes
    do not say.
    """
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) and j < len(after):
        left, right = [i], [j]
        size_left, size_right = before[i], after[j]
        while size_left != size_right:
            if j + 1 < len(after) and size_left.divide(size_right) is not None:
                j += 1
                right.append(j)
                size_right = size_right * after[j]
            elif i + 1 < len(before) and size_right.divide(size_left) is not None:
                i += 1
                left.append(i)
                size_left = size_left * before[i]
            else:
                return None
        groups.append((left, right))
        i, j = i + 1, j + 1
    if not groups or any(d != _ONE for d in (*before[i:], *after[j:])):
        return None
    groups[-1][0].extend(range(i, len(before)))
    groups[-1][1].extend(range(j, len(after)))
    return groups


def drop_slice(op: SliceOp) -> Replacement:
    """A slice of everything."""
    start, stop = op.range.data
    size = shape_of(op.input)[op.dim.value.data]
    whole = start == Dim.of(0) and stop == size and op.step.value.data == 1
    return op.input if whole else None


def merge_slices(op: SliceOp) -> Replacement:
    inner = owner(op.input, SliceOp)
    if inner is None or inner.dim != op.dim:
        return None
    first, (start, stop) = inner.range.data[0], op.range.data
    steps = inner.step.value.data, op.step.value.data
    if steps == (1, 1):
        return [_slice_like(op, inner.input, first + start, first + stop, 1)]
    if (count := shape_of(op.result)[op.dim.value.data].constant) is None:
        return None
    start = first + start * steps[0]
    stop = start + max(0, (count - 1) * steps[0] * steps[1] + 1)
    return [_slice_like(op, inner.input, start, stop, steps[0] * steps[1])]


def slice_one_input(op: SliceOp) -> Replacement:
    """A slice of a concat that lies within one of its inputs."""
    inner = owner(op.input, ConcatOp)
    if inner is None or inner.dim != op.dim:
        return None
    start, stop = (d.constant for d in op.range.data)
    if start is None or stop is None:
        return None
    offset = 0
    for value in inner.inputs:
        if (size := shape_of(value)[op.dim.value.data].constant) is None:
            return None
        if offset <= start and stop <= offset + size:
            low, high = Dim.of(start - offset), Dim.of(stop - offset)
            return [_slice_like(op, value, low, high, op.step.value.data)]
        offset += size
    return None


def _slice_like(op: SliceOp | ConcatOp, value: SSAValue, a: Dim, b: Dim, step: int) -> SliceOp:
    properties = {"dim": op.dim, "range": ShapeAttr((a, b)), "step": int_attr(step)}
    return like(op, SliceOp, [value], properties)


def simplify_concat(op: ConcatOp) -> Replacement:
    """A concat of one input, of concats, or of neighbouring slices."""
    if len(op.inputs) == 1:
        return op.inputs[0]
    inner = [owner(v, ConcatOp) for v in op.inputs]
    if any(c is not None and c.dim == op.dim for c in inner):
        values = [
            value
            for v, c in zip(op.inputs, inner, strict=True)
            for value in ([v] if c is None or c.dim != op.dim else c.inputs)
        ]
        return [like(op, ConcatOp, [values], {"dim": op.dim})]
    if len({splat(v) for v in op.inputs}) == 1 and (value := splat(op.inputs[0])) is not None:
        return [full_like(op, value)]
    return _join_slices(op)


def _join_slices(op: ConcatOp) -> Replacement:
    slices = [owner(v, SliceOp) for v in op.inputs]
    first = slices[0]
    if first is None or first.dim != op.dim:
        return None
    (start, stop), source = first.range.data, first.input
    for s in slices[1:]:
        if s is None or (s.input, s.dim, s.range.data[0]) != (source, op.dim, stop):
            return None
        stop = s.range.data[1]
    if any(s is None or s.step.value.data != 1 for s in slices):
        return None
    return [_slice_like(op, source, start, stop, 1)]


def drop_broadcast(op: BroadcastOp) -> Replacement:
    return op.input if same_shape(op.input, op.result) else None


def merge_broadcasts(op: BroadcastOp) -> Replacement:
    if (inner := owner(op.input, BroadcastOp)) is None:
        return None
    return [like(op, BroadcastOp, [inner.input], {"shape": op.shape})]


def fold_full(op: DataMovement) -> Replacement:
    """Any movement of equal elements."""
    value = splat(op.input)
    return None if value is None else [full_like(op, value)]


def leading_ones_dropped(value: SSAValue) -> SSAValue:
    """What a value is made of by broadcasts and by reshapes that only add sizes of 1 in front."""
    while True:
        if (broadcast := owner(value, BroadcastOp)) is not None:
            value = broadcast.input
        elif (reshape := owner(value, ReshapeOp)) is not None and _adds_leading_ones(reshape):
            value = reshape.input
        else:
            return value


def _adds_leading_ones(op: ReshapeOp) -> bool:
    before, after = shape_of(op.input), shape_of(op.result)
    added = len(after) - len(before)
    return added >= 0 and after[:added] == (_ONE,) * added and after[added:] == before
