"""Element types and dense constants: the numpy dtype and safetensors name of an MLIR type.

numpy is imported inside the functions, so that tools which only move text start fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xdsl.dialects.builtin import (
    BFloat16Type,
    BytesAttr,
    DenseIntOrFPElementsAttr,
    Float16Type,
    Float32Type,
    Float64Type,
    IndexType,
    IntegerType,
    Signedness,
    TensorType,
    bf16,
    f16,
    f32,
    f64,
    i1,
)
from xdsl.ir import Attribute

from kaoken.errors import KaokenError

if TYPE_CHECKING:
    import numpy as np

_FLOATS: dict[type[Attribute], str] = {
    BFloat16Type: "bfloat16",
    Float16Type: "float16",
    Float32Type: "float32",
    Float64Type: "float64",
    IndexType: "int64",
}
_FLOAT_TYPES: dict[str, Attribute] = {
    "bfloat16": bf16,
    "float16": f16,
    "float32": f32,
    "float64": f64,
    "bool": i1,
}

SAFETENSORS_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
"""numpy dtype name -> what a safetensors header calls it."""


def dtype_name(element_type: Attribute) -> str:
    """The numpy name of an element type, such as `float32`; KaokenError when there is none."""
    if (name := _FLOATS.get(type(element_type))) is not None:
        return name
    if isinstance(element_type, IntegerType):
        width = element_type.width.data
        if width == 1:
            return "bool"
        unsigned = element_type.signedness.data is Signedness.UNSIGNED
        if width in (8, 16, 32, 64):
            return f"{'u' if unsigned else ''}int{width}"
    raise KaokenError(f"tensors of {element_type} are not supported")


def numpy_dtype(element_type: Attribute) -> np.dtype:
    """The numpy dtype of an element type (i1 is bool, bf16 comes from ml_dtypes)."""
    return dtype_by_name(dtype_name(element_type))


def dtype_by_name(name: str) -> np.dtype:
    """A numpy dtype from its name, `bfloat16` included."""
    import numpy as np

    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def element_type(dtype: np.dtype) -> Attribute:
    """The element type of a numpy dtype; KaokenError when there is none."""
    if (type_ := _FLOAT_TYPES.get(dtype.name)) is not None:
        return type_
    if dtype.kind not in "iu":
        raise KaokenError(f"arrays of {dtype.name} are not supported")
    signedness = Signedness.UNSIGNED if dtype.kind == "u" else Signedness.SIGNLESS
    return IntegerType(dtype.itemsize * 8, signedness)


def dense_array(attr: Attribute) -> np.ndarray:
    """The array of a `dense<...>` attribute; KaokenError for other attributes."""
    import numpy as np

    if not isinstance(attr, DenseIntOrFPElementsAttr):
        raise KaokenError(f"expected a dense constant, found {attr.name}")
    flat = np.frombuffer(attr.data.data, numpy_dtype(attr.get_element_type()))
    shape = attr.get_shape()
    return np.broadcast_to(flat[0], shape) if flat.size == 1 else flat.reshape(shape)


def dense_attribute(array: np.ndarray) -> DenseIntOrFPElementsAttr:
    """The `dense<...>` attribute of a small array."""
    type_: TensorType[Any] = TensorType(element_type(array.dtype), array.shape)
    return DenseIntOrFPElementsAttr(type_, BytesAttr(array.tobytes()))
