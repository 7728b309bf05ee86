"""Integer weights that follow from the place in them: position ids 0, 1, 2; token types 0, 0, 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from kaoken.dialect.nn import WeightOp
from kaoken.weights import store_of

if TYPE_CHECKING:
    import numpy as np

_LARGEST = 1 << 22
"""Elements; larger integer weights are no positions."""


def stored_affine(op: WeightOp) -> tuple[tuple[int, ...], int] | None:
    """(slopes, offset) where a weight's number at (i, j, ...) is offset + slopes . (i, j, ...)."""
    module = _module_of(op)
    if module is None or (key := op.key.data) not in (store := store_of(module)):
        return None
    array = store[key]
    if array.dtype.kind != "i" or not 0 < array.size <= _LARGEST:
        return None
    return _affine_array(array)


def _affine_array(array: np.ndarray) -> tuple[tuple[int, ...], int] | None:
    import numpy as np

    origin = int(array[(0,) * array.ndim])
    slopes: list[int] = []
    expected = np.full((), origin)
    for d, size in enumerate(array.shape):
        step = tuple(int(i == d) for i in range(array.ndim))
        slopes.append(int(array[step]) - origin if size > 1 else 0)
        places = np.arange(size).reshape([-1 if i == d else 1 for i in range(array.ndim)])
        expected = expected + slopes[d] * places
    return (tuple(slopes), origin) if np.array_equal(array, expected) else None


def _module_of(op: Operation) -> ModuleOp | None:
    parent = op.parent_op()
    while parent is not None and not isinstance(parent, ModuleOp):
        parent = parent.parent_op()
    return parent
