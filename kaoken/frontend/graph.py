"""Building `kaoken` ops on values of known symbolic shapes.

The methods of `Graph` make no op where none is needed, such as a reshape to the same shape; what
they return may therefore be an older value. All else is left to canonicalization.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from xdsl.builder import Builder
from xdsl.dialects.builtin import BoolAttr, DenseArrayBase, i64
from xdsl.ir import Attribute, Operation, SSAValue

from kaoken.analysis.value_shapes import shape_of
from kaoken.dialect.attributes import (
    Function,
    FunctionAttr,
    Reduction,
    ReductionAttr,
    Shape,
    ShapeAttr,
    int_attr,
)
from kaoken.dialect.base import KaokenOp, tensor_type
from kaoken.dialect.canonicalization.rules import Number, number_attr
from kaoken.dialect.dims import Dim
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

ONE = Dim.of(1)


class Graph:
    """A builder of `kaoken` ops."""

    def __init__(self, builder: Builder):
        self.builder = builder

    def shape(self, value: SSAValue) -> Shape:
        return shape_of(value)

    def rank(self, value: SSAValue) -> int:
        return tensor_type(value).get_num_dims()

    def dtype(self, value: SSAValue) -> Attribute:
        return tensor_type(value).element_type

    def add(self, op: KaokenOp) -> SSAValue:
        """Insert an op and give its result."""
        return self.builder.insert(op).result

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
        if self.shape(value) == shape:
            return value
        return self.make(ReshapeOp, [value], {"shape": ShapeAttr(shape)})

    def transpose(self, value: SSAValue, permutation: Sequence[int]) -> SSAValue:
        """Dimension i of the result is dimension `permutation[i]` of the value."""
        if list(permutation) == sorted(permutation):
            return value
        order = DenseArrayBase.from_list(i64, list(permutation))
        return self.make(TransposeOp, [value], {"permutation": order})

    def swap(self, value: SSAValue, a: int, b: int) -> SSAValue:
        """The value with two dimensions exchanged; negative numbers count from the end."""
        order = list(range(self.rank(value)))
        order[a], order[b] = order[b], order[a]
        return self.transpose(value, order)

    def broadcast(self, value: SSAValue, shape: Shape) -> SSAValue:
        if self.shape(value) == shape:
            return value
        return self.make(BroadcastOp, [value], {"shape": ShapeAttr(shape)})

    def cast(self, value: SSAValue, dtype: Attribute) -> SSAValue:
        return value if self.dtype(value) == dtype else self.add(CastOp.to(value, dtype))

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
        flag = BoolAttr.from_bool(transpose_rhs)
        return self.make(MatmulOp, [lhs, rhs], {"transpose_rhs": flag})
