"""One kernel: the function that an op becomes, and how its caller calls it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from xdsl.dialects import func
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    FunctionType,
    IndexType,
    IntegerAttr,
    MemRefType,
    StringAttr,
    f32,
    i64,
)
from xdsl.ir import Attribute, Block, Region, SSAValue

from kaoken.dialect.attributes import ScheduleAttr, Shape, ShapeAttr
from kaoken.dialect.base import tensor_type
from kaoken.dialect.dims import Dim
from kaoken.dialect.kaoken_loop import ConvertOp
from kaoken.passes.lowering.nest import Index, Nest
from kaoken.passes.strict import demand

STATUS_TYPE = MemRefType(i64, [2])


@dataclass(frozen=True)
class BufferArgument:
    """A kernel argument that the caller fills with the buffer of `value`, seen as `type`."""

    value: SSAValue
    type: MemRefType[Attribute]
    buffer: SSAValue | None = None
    """The caller's buffer, where it is not that of `value`."""
    offset: int = 0
    """Where in the buffer the argument begins, in bytes."""


@dataclass(frozen=True)
class SizeArgument:
    """A kernel argument that the caller fills with a size."""

    dim: Dim


@dataclass(frozen=True)
class StatusArgument:
    """The kernel argument through which run-time errors are told: (code, value)."""


KernelArgument = BufferArgument | SizeArgument | StatusArgument


def as_f32(nest: Nest, value: SSAValue) -> SSAValue:
    """A number of any type as f32."""
    return value if value.type == f32 else nest.insert(ConvertOp(value, f32))


@dataclass
class Kernel(Nest):
    """A function under construction: arguments on one side, a nest on the other."""

    block: Block
    shapes: dict[SSAValue, Shape]
    maxima: dict[str, int]
    add_error: Callable[[str], int]
    name: str = ""
    comment: str = ""
    arguments: list[KernelArgument] = field(default_factory=list)
    _sizes: dict[Dim, SSAValue] = field(default_factory=dict)
    _attributes: list[dict[str, Attribute]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.block)

    def shape(self, value: SSAValue) -> Shape:
        return self.shapes[value]

    def buffer(
        self,
        name: str,
        value: SSAValue,
        shape: Shape | None = None,
        buffer: SSAValue | None = None,
        element: Attribute | None = None,
        offset: int = 0,
    ) -> SSAValue:
        """An argument for the buffer of a tensor, seen as `shape` of `element` where given.

        It begins `offset` bytes behind the buffer's start.
        """
        dims = self.shapes[value] if shape is None else shape
        element = element or tensor_type(value).element_type
        type_ = MemRefType(element, [d.static for d in dims])
        argument = self._add(BufferArgument(value, type_, buffer, offset), type_, name)
        if any(dim.constant is None for dim in dims[1:]):
            self._name_strides(dims)
        return argument

    def _name_strides(self, dims: Shape) -> None:
        """Say which size arguments the inner open sizes of the last buffer are."""
        position = len(self._attributes) - 1
        named: list[Dim] = []
        for dim in dims:
            size = self.size(f"size{len(self._sizes)}", dim)
            named.append(dim if isinstance(size, int) else Dim.symbol(size.name_hint or ""))
        self._attributes[position]["kaoken.shape"] = ShapeAttr(tuple(named))

    def size(self, name: str, dim: Dim) -> Index:
        """A size: a number, or the index argument that carries it."""
        if dim.constant is not None:
            return dim.constant
        if dim not in self._sizes:
            self._sizes[dim] = self._add(SizeArgument(dim), IndexType(), name)
            self._attributes[-1]["kaoken.name"] = StringAttr(name)
        return self._sizes[dim]

    def in_place(self, target: SSAValue, source: SSAValue) -> None:
        """Say that the buffer `target` may be the memory of `source`: each element is read
        before it is written, and never after."""
        arguments: list[SSAValue] = list(self.block.args)
        at, place = arguments.index(source), arguments.index(target)
        self._attributes[at]["kaoken.in_place"] = IntegerAttr(place, i64)

    def status(self) -> SSAValue:
        return self._add(StatusArgument(), STATUS_TYPE, "status")

    def _add(self, argument: KernelArgument, type_: Attribute, name: str) -> SSAValue:
        self.arguments.append(argument)
        self._attributes.append({})
        value = self.block.insert_arg(type_, len(self.block.args))
        value.name_hint = name
        return value

    def finish(
        self, schedule: ScheduleAttr | None, demanded: ScheduleAttr | None = None
    ) -> func.FuncOp:
        """The private function, which takes over the nest; `demanded` is what must be obeyed."""
        self.builder.insert(func.ReturnOp())
        function = func.FuncOp(
            self.name,
            FunctionType.from_lists(self.block.arg_types, []),
            Region(self.block),
            "private",
            arg_attrs=ArrayAttr([DictionaryAttr(a) for a in self._attributes]),
        )
        function.attributes["kaoken.comment"] = StringAttr(self.comment)
        if schedule is not None:
            function.attributes["kaoken.schedule"] = schedule
        if demanded is not None:
            demand(function, demanded)
        return function
