"""What verifiers of several ops ask of shapes and element types."""

from __future__ import annotations

from xdsl.dialects.builtin import IntegerAttr, IntegerType, i1
from xdsl.ir import SSAValue
from xdsl.utils.exceptions import VerifyException

from kaoken.dialect.attributes import Shape
from kaoken.dialect.base import tensor_type, unify
from kaoken.dialect.dims import Dim

BYTE_BITS = 8
"""The bits of a code, unless it says another number of them."""


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


def check_bits(bits: IntegerAttr, are_signed_codes: bool) -> None:
    """Refuse what is no number of bits of signed codes, and fewer than 8 of anything else."""
    if not 2 <= bits.value.data <= BYTE_BITS:
        raise VerifyException("signed codes have 2 to 8 bits")
    if bits.value.data < BYTE_BITS and not are_signed_codes:
        raise VerifyException("only signed codes around zero have fewer than 8 bits")
