"""The table from aten ops to builder functions, and what every builder function works with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from xdsl.builder import Builder
from xdsl.dialects.builtin import (
    BFloat16Type,
    Float16Type,
    Float32Type,
    Float64Type,
    IntegerType,
    bf16,
    f16,
    f32,
    f64,
    i1,
    i8,
    i16,
    i32,
    i64,
)
from xdsl.ir import Attribute, SSAValue

from kaoken.dialect.attributes import Function, Shape
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import UI8
from kaoken.errors import KaokenError
from kaoken.frontend.graph import Graph
from kaoken.frontend.symbols import Symbols

Scalar = bool | int | float | Dim
Operand = SSAValue | Scalar
Builds = TypeVar("Builds", bound=Callable[..., Any])

_BUILDERS: dict[str, Callable[..., Any]] = {}
_FLOATS = (Float16Type, BFloat16Type, Float32Type, Float64Type)
_TYPES: dict[str, Attribute] = {
    "torch.float64": f64,
    "torch.float32": f32,
    "torch.float16": f16,
    "torch.bfloat16": bf16,
    "torch.int64": i64,
    "torch.int32": i32,
    "torch.int16": i16,
    "torch.int8": i8,
    "torch.uint8": UI8,
    "torch.bool": i1,
}


def aten(*names: str) -> Callable[[Builds], Builds]:
    """Register a builder for ops such as `add` (every overload) or `max.dim` (that one).

    A builder takes the Importer, then the op's own arguments by position and name: tensors are
    values, symbolic ints are Dims, dtypes are element types. It gives a value, or a list of values
    for an op with several results.
    """

    return torch_op(*(f"aten.{name}" for name in names))


def torch_op(*names: str) -> Callable[[Builds], Builds]:
    """The same for ops of any library, such as `kaoken.dequantize`."""

    def register(builder: Builds) -> Builds:
        _BUILDERS.update(dict.fromkeys(names, builder))
        return builder

    return register


def find_builder(target: str) -> Callable[..., Any] | None:
    """The builder of an op by the name of its overload, such as `aten.add.Tensor`."""
    return _BUILDERS.get(target) or _BUILDERS.get(target.rpartition(".")[0])


def element_type_of(dtype: Any) -> Attribute:
    """The element type of a torch dtype. Raises KaokenError when kaoken has none."""
    if (type_ := _TYPES.get(str(dtype))) is None:
        raise KaokenError(f"tensors of {dtype} are not supported: convert them in the module")
    return type_


class Importer(Graph):
    """A Graph with the shapes that torch expects of the op being imported, and its types' rules."""

    def __init__(self, builder: Builder, symbols: Symbols):
        super().__init__(builder)
        self.symbols = symbols
        self.results: Any = None

    @property
    def expected(self) -> Shape:
        """The shape of the op's only result."""
        return self.symbols.shape(self.results)

    @property
    def expected_dtype(self) -> Attribute:
        """The element type of the op's only result."""
        return element_type_of(self.results.dtype)

    def expected_of(self, index: int) -> Shape:
        """The shape of one of the op's results."""
        return self.symbols.shape(self.results[index])

    def tensor(self, value: Operand, dtype: Attribute | None = None) -> SSAValue:
        """A value or number as a tensor of an element type (by default torch's for the number)."""
        if isinstance(value, Dim):
            size = self.size(value)
            return size if dtype is None else self.cast(size, dtype)
        if isinstance(value, SSAValue):
            return value if dtype is None else self.cast(value, dtype)
        return self.full(value, scalar_type(value) if dtype is None else dtype)

    def promoted(self, *operands: Operand) -> Attribute:
        """The element type that torch computes in: tensors before 0-d tensors before numbers."""
        levels: list[list[Attribute]] = [[], [], []]
        for operand in operands:
            if isinstance(operand, SSAValue):
                levels[0 if self.rank(operand) else 1].append(self.dtype(operand))
            else:
                levels[2].append(scalar_type(operand))
        result: Attribute | None = None
        for level in levels:
            for type_ in _joined(level):
                if result is None or _category(type_) > _category(result):
                    result = type_
        assert result is not None
        return result

    def promote(self, *operands: Operand) -> list[SSAValue]:
        """The operands as tensors of the element type that torch computes in."""
        dtype = self.promoted(*operands)
        return [self.tensor(operand, dtype) for operand in operands]

    def floats(self, *operands: Operand) -> list[SSAValue]:
        """The same, where integers become f32."""
        dtype = self.promoted(*operands)
        return [self.tensor(v, dtype if is_float(dtype) else f32) for v in operands]

    def apply(self, function: Function, *operands: Operand) -> SSAValue:
        """An elementwise function in the type that torch computes in."""
        return self.elementwise(function, *self.promote(*operands))

    def dim(self, index: int, rank: int) -> int:
        return index % max(rank, 1)

    def dims(self, dims: int | Sequence[int] | None, value: SSAValue) -> list[int]:
        """Dimensions as numbers from 0; none given means all."""
        rank = self.rank(value)
        if dims is None or dims == []:
            return list(range(rank))
        return [self.dim(d, rank) for d in ([dims] if isinstance(dims, int) else dims)]


def scalar_type(value: Scalar) -> Attribute:
    """The type of a Python number: float is torch's default dtype f32."""
    if isinstance(value, bool):
        return i1
    return f32 if isinstance(value, float) else i64


def is_float(dtype: Attribute) -> bool:
    return isinstance(dtype, _FLOATS)


def _category(dtype: Attribute) -> int:
    if is_float(dtype):
        return 2
    return 0 if dtype == i1 else 1


def _joined(types: Sequence[Attribute]) -> list[Attribute]:
    """The one type that holds all of them, in a list; nothing of nothing."""
    if not types:
        return []
    result = types[0]
    for type_ in types[1:]:
        result = _join(result, type_)
    return [result]


def _join(a: Attribute, b: Attribute) -> Attribute:
    if a == b:
        return a
    if _category(a) != _category(b):
        return max(a, b, key=_category)
    if {a, b} == {f16, bf16}:
        return f32
    return max(a, b, key=_width)


def _width(dtype: Attribute) -> int:
    if isinstance(dtype, IntegerType):
        return dtype.width.data
    return {f16: 16, bf16: 16, f32: 32, f64: 64}[dtype]  # pyright: ignore[reportArgumentType]
