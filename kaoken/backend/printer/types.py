"""C types for MLIR types, and the short names (`f32`) that instruction tables use."""

from __future__ import annotations

from xdsl.dialects.builtin import (
    BFloat16Type,
    Float16Type,
    Float32Type,
    Float64Type,
    IndexType,
    IntegerType,
    MemRefType,
    NoneAttr,
    Signedness,
    VectorType,
)
from xdsl.ir import Attribute, SSAValue

from kaoken.errors import KaokenError

_FLOATS = {
    Float32Type: ("f32", "float", 4),
    Float64Type: ("f64", "double", 8),
    Float16Type: ("f16", "uint16_t", 2),
    BFloat16Type: ("bf16", "uint16_t", 2),
}
_C_NAMES = {short: c for short, c, _ in _FLOATS.values()} | {"i1": "bool"}
_C_NAMES |= {f"i{bits}": f"int{bits}_t" for bits in (8, 16, 32, 64)}
_C_NAMES |= {f"u{bits}": f"uint{bits}_t" for bits in (8, 16, 32, 64)}


def short_name(type_: Attribute) -> str:
    """`f32`, `i64`, `u8`, `i1` ... of a scalar type; index is i64.

    Raises KaokenError for a type that C has no word for.
    """
    if (known := _FLOATS.get(type(type_))) is not None:  # type: ignore[arg-type]
        return known[0]
    if isinstance(type_, IndexType):
        return "i64"
    if isinstance(type_, IntegerType):
        letter = "u" if type_.signedness.data is Signedness.UNSIGNED else "i"
        name = f"{letter}{type_.width.data}"
        if name in _C_NAMES:
            return name
    raise KaokenError(f"the C printer has no type for {type_}")


def c_name(short: str) -> str:
    """The C type of a short name: `float` for `f32`."""
    return _C_NAMES[short]


def scalar_type(type_: Attribute) -> str:
    """The C type of an MLIR scalar type."""
    return c_name(short_name(type_))


def element_bytes(type_: Attribute) -> int:
    """How much memory one element takes, in bytes; i1 takes one."""
    short = short_name(type_)
    for name, _, size in _FLOATS.values():
        if name == short:
            return size
    return max(1, int(short[1:]) // 8)


def element_type(value: SSAValue) -> Attribute:
    """The type of a vector's or memref's elements, or of the scalar itself."""
    type_ = value.type
    return type_.element_type if isinstance(type_, VectorType | MemRefType) else type_


def memref_type(value: SSAValue) -> MemRefType:
    """The type of a value that must be a contiguous memref.

    Raises KaokenError when it has another layout.
    """
    type_ = value.type
    assert isinstance(type_, MemRefType)
    if not isinstance(type_.layout, NoneAttr):
        raise KaokenError(f"the C printer knows only contiguous memrefs, not {type_}")
    return type_


def vector_shape(value: SSAValue) -> tuple[int, ...]:
    """The sizes of a vector value."""
    type_ = value.type
    assert isinstance(type_, VectorType)
    return type_.get_shape()
