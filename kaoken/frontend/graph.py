"""Building `kaoken` ops while knowing every value's symbolic shape.

The methods of `Graph` fold what needs no op: a reshape to the same shape, a transpose undone by
the next one, a cast to the same type. What they return may therefore be an older value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from xdsl.builder import Builder
from xdsl.dialects.builtin import (
    ArrayAttr,
    BoolAttr,
    DenseArrayBase,
    DictionaryAttr,
    FloatAttr,
    IntegerAttr,
    IntegerType,
    StringAttr,
    TensorType,
    f64,
    i1,
    i64,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Operation, SSAValue

from kaoken.dialect.attributes import (
    Function,
    FunctionAttr,
    Reduction,
    ReductionAttr,
    Shape,
    ShapeAttr,
)
from kaoken.dialect.base import KaokenOp, tensor_type, type_shape
from kaoken.dialect.dims import Dim, product
from kaoken.dialect.nn import MatmulOp
from kaoken.dialect.tensor import (
    BroadcastOp,
    CastOp,
    ConcatOp,
    CumsumOp,
    ElementwiseOp,
    FullOp,
    GatherOp,
    IotaOp,
    ReduceOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
)

Number = bool | int | float
ONE = Dim.of(1)


class Shapes:
    """The symbolic shape of each value, computed when asked for and remembered."""

    def __init__(self) -> None:
        self._known: dict[SSAValue, Shape] = {}

    @staticmethod
    def of_function(function: FuncOp) -> Shapes:
        """Shapes in a function whose arguments carry `kaoken.shape`."""
        shapes = Shapes()
        attributes = function.arg_attrs or ArrayAttr([DictionaryAttr({})] * len(function.args))
        for i, (value, attrs) in enumerate(zip(function.args, attributes, strict=True)):
            shape, name = attrs.data.get("kaoken.shape"), attrs.data.get("kaoken.name")
            prefix = name.data if isinstance(name, StringAttr) else f"arg{i}"
            known = shape.data if isinstance(shape, ShapeAttr) else None
            shapes.set(value, known or type_shape(tensor_type(value), f"{prefix}_"))
        for op in function.body.block.ops:
            for result in op.results:
                if isinstance(result.type, TensorType):
                    shapes.of(result)
        return shapes

    def set(self, value: SSAValue, shape: Shape) -> None:
        self._known[value] = shape

    def of(self, value: SSAValue) -> Shape:
        if (shape := self._known.get(value)) is None:
            shape = self._known[value] = self._infer(value)
        return shape

    def _infer(self, value: SSAValue) -> Shape:
        owner = value.owner
        if isinstance(owner, KaokenOp):
            return owner.infer_shape(*[self.of(operand) for operand in owner.operands])
        return type_shape(tensor_type(value), f"u{len(self._known)}_")


class Graph:
    """A builder of `kaoken` ops on values whose shapes it knows."""

    def __init__(self, builder: Builder, shapes: Shapes):
        self.builder = builder
        self.shapes = shapes

    def shape(self, value: SSAValue) -> Shape:
        return self.shapes.of(value)

    def rank(self, value: SSAValue) -> int:
        return tensor_type(value).get_num_dims()

    def dtype(self, value: SSAValue) -> Attribute:
        return tensor_type(value).element_type

    def add(self, op: KaokenOp) -> SSAValue:
        """Insert an op and give its result."""
        self.builder.insert(op)
        self.shapes.of(op.result)
        return op.result

    def make(
        self,
        op: type[KaokenOp],
        operands: Sequence[SSAValue | Operation | Sequence[SSAValue | Operation] | None],
        properties: Mapping[str, Attribute | None] | None = None,
    ) -> SSAValue:
        return self.add(op.make(operands, properties))

    def full(self, value: Number, dtype: Attribute, shape: Shape = ()) -> SSAValue:
        """A tensor of one number, which is converted to the element type as torch does."""
        attributes = {"value": number_attr(value, dtype), "shape": ShapeAttr(shape)}
        return self.make(FullOp, [], attributes)

    def iota(self, size: Dim, start: int = 0) -> SSAValue:
        return self.make(IotaOp, [], {"shape": ShapeAttr((size,)), "start": int_attr(start)})

    def size(self, dim: Dim) -> SSAValue:
        """A size as a number the program computes with: i64 without dimensions."""
        if (n := dim.constant) is not None:
            return self.full(n, i64)
        total: SSAValue | None = None
        for monomial, coefficient in dim.terms:
            shape = tuple(Dim.symbol(name) for name in monomial)
            ones = self.full(coefficient, i64, shape)
            term = self.reduce(Reduction.SUM, ones, range(len(shape))) if shape else ones
            total = term if total is None else self.elementwise(Function.ADD, total, term)
        assert total is not None
        return total

    def reshape(self, value: SSAValue, shape: Shape) -> SSAValue:
        folded = self.fold_reshape(value, shape)
        if folded is not None:
            return folded
        return self.make(ReshapeOp, [value], {"shape": ShapeAttr(shape)})

    def fold_reshape(self, value: SSAValue, shape: Shape) -> SSAValue | None:
        """A reshape without a new ReshapeOp on `value`, where there is such a way."""
        if self.shape(value) == shape:
            return value
        owner = value.owner
        if isinstance(owner, ReshapeOp):
            return self.reshape(owner.input, shape)
        if isinstance(owner, FullOp):
            return self.full(constant_of(owner), self.dtype(value), shape)
        return None

    def transpose(self, value: SSAValue, permutation: Sequence[int]) -> SSAValue:
        """Dimension i of the result is dimension `permutation[i]` of the value."""
        folded = self.fold_transpose(value, permutation)
        if folded is not None:
            return folded
        order = DenseArrayBase.from_list(i64, list(permutation))
        return self.make(TransposeOp, [value], {"permutation": order})

    def fold_transpose(self, value: SSAValue, permutation: Sequence[int]) -> SSAValue | None:
        """A transpose without a new TransposeOp on `value`, where there is such a way."""
        if list(permutation) == sorted(permutation):
            return value
        owner, shape = value.owner, self.shape(value)
        if isinstance(owner, TransposeOp):
            inner = owner.permutation.get_values()
            return self.transpose(owner.input, [inner[i] for i in permutation])
        moved = [i for i in permutation if shape[i] != ONE]
        if moved == sorted(moved):
            return self.reshape(value, tuple(shape[i] for i in permutation))
        return None

    def swap(self, value: SSAValue, a: int, b: int) -> SSAValue:
        """The value with two dimensions exchanged; negative numbers count from the end."""
        order = list(range(self.rank(value)))
        order[a], order[b] = order[b], order[a]
        return self.transpose(value, order)

    def broadcast(self, value: SSAValue, shape: Shape) -> SSAValue:
        folded = self.fold_broadcast(value, shape)
        if folded is not None:
            return folded
        return self.make(BroadcastOp, [value], {"shape": ShapeAttr(shape)})

    def fold_broadcast(self, value: SSAValue, shape: Shape) -> SSAValue | None:
        """A broadcast without a new BroadcastOp on `value`, where there is such a way."""
        if self.shape(value) == shape:
            return value
        owner = value.owner
        if isinstance(owner, BroadcastOp):
            return self.broadcast(owner.input, shape)
        if isinstance(owner, FullOp):
            return self.full(constant_of(owner), self.dtype(value), shape)
        old = self.shape(value)
        if product(old) == product(shape) and product(old).constant != 0:
            return self.reshape(value, shape)
        return None

    def cast(self, value: SSAValue, dtype: Attribute) -> SSAValue:
        folded = self.fold_cast(value, dtype)
        return self.add(CastOp.to(value, dtype)) if folded is None else folded

    def fold_cast(self, value: SSAValue, dtype: Attribute) -> SSAValue | None:
        """A cast without a new CastOp on `value`, where there is such a way."""
        old = self.dtype(value)
        if old == dtype:
            return value
        owner = value.owner
        if isinstance(owner, FullOp):
            number = constant_of(owner)
            if isinstance(dtype, IntegerType) and dtype != i1 and number != number:
                return None
            return self.full(number, dtype, self.shape(value))
        if isinstance(owner, CastOp) and (
            self.dtype(owner.input) == i1 or (dtype == i1 and _is_wider(owner, self))
        ):
            return self.cast(owner.input, dtype)
        return None

    def slice(self, value: SSAValue, dim: int, start: Dim, stop: Dim, step: int = 1) -> SSAValue:
        size = self.shape(value)[dim]
        if start == Dim.of(0) and stop == size and step == 1:
            return value
        bounds = ShapeAttr((start, stop))
        attributes = {"dim": int_attr(dim), "range": bounds, "step": int_attr(step)}
        return self.make(SliceOp, [value], attributes)

    def concat(self, values: Sequence[SSAValue], dim: int) -> SSAValue:
        if len(values) == 1:
            return values[0]
        return self.make(ConcatOp, [list(values)], {"dim": int_attr(dim)})

    def gather(self, value: SSAValue, indices: Sequence[SSAValue], first: int) -> SSAValue:
        dims = DenseArrayBase.from_list(i64, list(range(first, first + len(indices))))
        return self.make(GatherOp, [value, list(indices)], {"dims": dims})

    def elementwise(self, function: Function, *inputs: SSAValue) -> SSAValue:
        return self.make(ElementwiseOp, [list(inputs)], {"function": FunctionAttr(function)})

    def reduce(
        self, reduction: Reduction, value: SSAValue, dims: Iterable[int], keepdim: bool = False
    ) -> SSAValue:
        attributes: dict[str, Attribute] = {
            "reduction": ReductionAttr(reduction),
            "dims": DenseArrayBase.from_list(i64, sorted(dims)),
            "keepdim": BoolAttr.from_bool(keepdim),
        }
        return self.make(ReduceOp, [value], attributes)

    def cumsum(self, value: SSAValue, dim: int) -> SSAValue:
        return self.make(CumsumOp, [value], {"dim": int_attr(dim)})

    def matmul(self, lhs: SSAValue, rhs: SSAValue, transpose_rhs: bool = False) -> SSAValue:
        """A batched matrix product; a transposed rhs is read in place."""
        owner = rhs.owner
        if isinstance(owner, TransposeOp) and _swaps_last_two(owner):
            rhs, transpose_rhs = owner.input, not transpose_rhs
        flag = BoolAttr.from_bool(transpose_rhs)
        return self.make(MatmulOp, [lhs, rhs], {"transpose_rhs": flag})


def number_attr(value: Number, dtype: Attribute) -> FloatAttr | IntegerAttr:
    """A number as an attribute of an element type."""
    if isinstance(dtype, IntegerType):
        return IntegerAttr(int(bool(value)) if dtype == i1 else int(value), dtype)
    return FloatAttr(float(value), dtype)  # pyright: ignore[reportArgumentType]


def constant_of(op: FullOp) -> Number:
    """The number that fills the tensor."""
    value = op.value
    if isinstance(value, FloatAttr):
        return value.value.data
    return bool(value.value.data) if value.type == i1 else value.value.data


def int_attr(value: int) -> IntegerAttr:
    return IntegerAttr(value, i64)


def float_attr(value: float) -> FloatAttr:
    return FloatAttr(value, f64)


def _is_wider(cast: CastOp, graph: Graph) -> bool:
    """True if no number but zero becomes zero by this cast."""
    old, new = graph.dtype(cast.input), graph.dtype(cast.result)
    if isinstance(old, IntegerType):
        return not isinstance(new, IntegerType) or new.width.data >= old.width.data
    return False


def _swaps_last_two(op: TransposeOp) -> bool:
    order = list(op.permutation.get_values())
    plain = list(range(len(order)))
    return len(order) >= 2 and order == [*plain[:-2], plain[-1], plain[-2]]
