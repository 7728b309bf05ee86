"""What verifiers of several ops ask of shapes and element types."""

from __future__ import annotations

from xdsl.dialects.builtin import IntegerType, i1
from xdsl.ir import SSAValue
from xdsl.utils.exceptions import VerifyException

from kaoken.dialect.attributes import Shape
from kaoken.dialect.base import tensor_type, unify
from kaoken.dialect.dims import Dim


def broadcast_shapes(*shapes: Shape) -> Shape:
    """numpy's broadcast of shapes. Raises VerifyException when two known sizes clash."""
    rank = max((len(shape) for shape in shapes), default=0)
    one = Dim.of(1)
    result = [one] * rank
    for shape in shapes:
        for i, dim in enumerate(shape, start=rank - len(shape)):
            if dim == one:
                continue
            result[i] = dim if result[i] == one else unify(result[i], dim, "broadcast")
    return tuple(result)


def expect_integers(value: SSAValue, what: str) -> None:
    """Raise VerifyException unless the tensor holds integers."""
    element = tensor_type(value).element_type
    if not isinstance(element, IntegerType) or element == i1:
        raise VerifyException(f"{what} must be integers, not {element}")


def head_size(width: Dim, heads: int, what: str) -> int:
    if (n := width.constant) is None or n % heads:
        raise VerifyException(f"{what}'s row of {width} does not split into {heads} heads")
    return n // heads


def expect_vector(shape: Shape, size: Dim, what: str) -> None:
    expect_shape(shape, (size,), what)


def expect_shape(shape: Shape, wanted: Shape, what: str) -> None:
    if len(shape) != len(wanted):
        raise VerifyException(f"{what} has {len(shape)} dimensions, not {len(wanted)}")
    for a, b in zip(shape, wanted, strict=True):
        unify(a, b, what)
