"""What the meanings of all ops share: sizes of symbols, and how results are rounded."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from xdsl.interpreter import InterpreterFunctions
from xdsl.ir import Operation, SSAValue

from kaoken.dialect.attributes import Shape
from kaoken.dialect.base import tensor_type
from kaoken.dialect.dims import DYNAMIC
from kaoken.dtypes import numpy_dtype
from kaoken.errors import KaokenError

Array = np.ndarray
Arrays = tuple[Array, ...]


class OpFunctions(InterpreterFunctions):
    """Meanings of ops; one object knows the sizes of symbols and the caches of one run."""

    def __init__(
        self, sizes: Mapping[str, int] | None = None, caches: dict[str, Array] | None = None
    ) -> None:
        self._sizes: list[dict[str, int]] = [dict(sizes or {})]
        self._caches = {} if caches is None else caches

    def _shape(self, shape: Shape) -> tuple[int, ...]:
        try:
            return tuple(dim.evaluate(self._sizes[-1]) for dim in shape)
        except KeyError as error:
            raise KaokenError(f"no input tells the size {error.args[0]}") from None


def result_dtype(op: Operation) -> np.dtype:
    return numpy_dtype(tensor_type(op.results[0]).element_type)


def wide(x: Array) -> Array:
    """Floats (bf16 too, whose numpy kind is V) as float64, anything else as it is."""
    return x.astype(np.float64) if x.dtype.kind in "fV" else x


def result(op: Operation, value: Array) -> Array:
    """The value in the element type of the op's result; its sizes must be those of the type."""
    type_ = tensor_type(op.results[0])
    sizes = type_.get_shape()
    if len(sizes) != value.ndim or any(
        n not in (size, DYNAMIC) for n, size in zip(sizes, value.shape, strict=True)
    ):
        raise KaokenError(f"{op.name} gives sizes {list(value.shape)}, but its type is {type_}")
    return value.astype(numpy_dtype(type_.element_type), copy=False)


def float_dtype(op: Operation) -> np.dtype:
    dtype = numpy_dtype(tensor_type(op.results[0]).element_type)
    return np.dtype(np.float32) if dtype.kind == "V" else dtype


def check_indices(value: SSAValue, indices: Array, size: int) -> None:
    wrong = indices[(indices < 0) | (indices >= size)]
    if wrong.size:
        name = value.name_hint or "an index"
        raise KaokenError(f"{name} holds {wrong.flat[0]}, which is outside 0..{size - 1}")
