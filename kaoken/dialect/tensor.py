"""The `kaoken` ops around the layers: constants, data movement, elementwise, reductions."""

from __future__ import annotations

from xdsl.dialects.builtin import (
    BoolAttr,
    DenseArrayBase,
    FloatAttr,
    IntegerAttr,
    TensorType,
    i1,
    i64,
)
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import (
    ParsePropInAttrDict,
    irdl_op_definition,
    operand_def,
    prop_def,
    var_operand_def,
)
from xdsl.utils.exceptions import VerifyException

from kaoken.dialect.attributes import FunctionAttr, Reduction, ReductionAttr, Shape, ShapeAttr
from kaoken.dialect.base import AnyTensor, KaokenOp, tensor_type, unify
from kaoken.dialect.dims import Dim, product
from kaoken.dialect.nn import broadcast_shapes, expect_integers


@irdl_op_definition
class FullOp(KaokenOp):
    """A tensor whose elements all are `value`, a FloatAttr or IntegerAttr of the element type."""

    name = "kaoken.full"

    value = prop_def(FloatAttr | IntegerAttr)
    shape = prop_def(ShapeAttr)

    assembly_format = "$value `to` $shape attr-dict `:` type($result)"

    def infer_shape(self, *operands: Shape) -> Shape:
        return self.shape.data

    def infer_element_type(self) -> Attribute:
        return self.value.type


@irdl_op_definition
class IotaOp(KaokenOp):
    """`start, start + 1, ...`: one dimension of `shape`'s only size."""

    name = "kaoken.iota"

    shape = prop_def(ShapeAttr)
    start = prop_def(IntegerAttr, default_value=IntegerAttr(0, i64))

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$shape attr-dict `:` type($result)"

    def infer_shape(self, *operands: Shape) -> Shape:
        if len(self.shape.data) != 1:
            raise VerifyException("iota has one dimension")
        return self.shape.data

    def infer_element_type(self) -> Attribute:
        return i64


class UnaryTensorOp(KaokenOp):
    """One tensor in, one tensor out."""

    input = operand_def(AnyTensor)


@irdl_op_definition
class ReshapeOp(UnaryTensorOp):
    """The same elements in row-major order under another shape."""

    name = "kaoken.reshape"

    shape = prop_def(ShapeAttr)

    assembly_format = "$input `to` $shape attr-dict `:` type($input) `->` type($result)"

    def infer_shape(self, *operands: Shape) -> Shape:
        unify(product(operands[0]), product(self.shape.data), "number of elements")
        return self.shape.data


@irdl_op_definition
class TransposeOp(UnaryTensorOp):
    """Dimension i of the result is dimension `permutation[i]` of the input."""

    name = "kaoken.transpose"

    permutation = prop_def(DenseArrayBase.constr(i64))

    assembly_format = "$input $permutation attr-dict `:` type($input) `->` type($result)"

    def infer_shape(self, *operands: Shape) -> Shape:
        order = self.permutation.get_values()
        if sorted(order) != list(range(len(operands[0]))):
            raise VerifyException(f"{list(order)} does not permute {len(operands[0])} dimensions")
        return tuple(operands[0][i] for i in order)


@irdl_op_definition
class SliceOp(UnaryTensorOp):
    """Elements `start`, `start + step`, ... before `stop` of dimension `dim`.

    `range` is `<[start, stop]>`, both within the input, stop not before start; step is 1 where
    the sizes are open.
    """

    name = "kaoken.slice"

    dim = prop_def(IntegerAttr)
    range = prop_def(ShapeAttr)
    step = prop_def(IntegerAttr, default_value=IntegerAttr(1, i64))

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$input $range attr-dict `:` type($input) `->` type($result)"

    def infer_shape(self, *operands: Shape) -> Shape:
        if len(self.range.data) != 2:
            raise VerifyException("range is <[start, stop]>")
        start, stop = self.range.data
        size, step = stop - start, self.step.value.data
        if step != 1:
            if size.constant is None:
                raise VerifyException("a step needs known bounds")
            size = Dim.of(-(-size.constant // step))
        at = checked_dim(self.dim, len(operands[0]))
        return (*operands[0][:at], size, *operands[0][at + 1 :])


@irdl_op_definition
class ConcatOp(KaokenOp):
    """The inputs one after the other along dimension `dim`."""

    name = "kaoken.concat"

    inputs = var_operand_def(AnyTensor)
    dim = prop_def(IntegerAttr)

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$inputs attr-dict `:` type($inputs) `->` type($result)"

    def infer_shape(self, *operands: Shape) -> Shape:
        if not operands:
            raise VerifyException("concat needs an input")
        shape = list(operands[0])
        at = checked_dim(self.dim, len(shape))
        for other in operands[1:]:
            if len(other) != len(shape):
                raise VerifyException("concat needs inputs of one rank")
            for i, dim in enumerate(other):
                shape[i] = shape[i] + dim if i == at else unify(shape[i], dim, "concat")
        return tuple(shape)


@irdl_op_definition
class BroadcastOp(UnaryTensorOp):
    """The input repeated to `shape` by numpy's rules."""

    name = "kaoken.broadcast"

    shape = prop_def(ShapeAttr)

    assembly_format = "$input `to` $shape attr-dict `:` type($input) `->` type($result)"

    def infer_shape(self, *operands: Shape) -> Shape:
        shape = broadcast_shapes(operands[0], self.shape.data)
        if len(shape) != len(self.shape.data):
            raise VerifyException("broadcast cannot drop dimensions")
        return self.shape.data


@irdl_op_definition
class GatherOp(KaokenOp):
    """`input[indices...]` along `dims` (consecutive), as numpy indexes with arrays.

    The indices broadcast together; their shape takes the place of `dims`. An index outside the
    dimension is an error at run time.
    """

    name = "kaoken.gather"

    input = operand_def(AnyTensor)
    indices = var_operand_def(AnyTensor)
    dims = prop_def(DenseArrayBase.constr(i64))

    assembly_format = (
        "$input `at` $indices `along` $dims attr-dict "
        "`:` type($input) `at` type($indices) `->` type($result)"
    )

    def infer_shape(self, *operands: Shape) -> Shape:
        dims = list(self.dims.get_values())
        if not dims or dims != list(range(dims[0], dims[0] + len(dims))):
            raise VerifyException("gather's dims are consecutive")
        if len(dims) != len(self.indices) or dims[-1] >= len(operands[0]):
            raise VerifyException("gather needs one index tensor for each of its dims")
        for index in self.indices:
            expect_integers(index, "indices")
        chosen = broadcast_shapes(*operands[1:])
        return (*operands[0][: dims[0]], *chosen, *operands[0][dims[-1] + 1 :])


@irdl_op_definition
class CastOp(UnaryTensorOp):
    """Conversion of the element type: floats to integers truncate, anything not zero is true."""

    name = "kaoken.cast"

    assembly_format = "$input attr-dict `:` type($input) `->` type($result)"

    def infer_shape(self, *operands: Shape) -> Shape:
        return operands[0]

    def infer_element_type(self) -> Attribute:
        return tensor_type(self.result).element_type

    @classmethod
    def to(cls, input_: SSAValue, element_type: Attribute) -> CastOp:
        """Build a cast of a tensor to an element type."""
        type_ = TensorType(element_type, tensor_type(input_).get_shape())
        return cls.build(operands=[input_], result_types=[type_])


@irdl_op_definition
class ElementwiseOp(KaokenOp):
    """A scalar function of one to three tensors of one element type, with numpy broadcasting.

    Comparisons give i1. `select` takes a condition of i1 and two tensors.
    """

    name = "kaoken.elementwise"

    function = prop_def(FunctionAttr)
    inputs = var_operand_def(AnyTensor)

    assembly_format = "$function $inputs attr-dict `:` type($inputs) `->` type($result)"

    def infer_shape(self, *operands: Shape) -> Shape:
        function = self.function.data
        if len(operands) != function.arity:
            raise VerifyException(f"{function} takes {function.arity} operands")
        elements = [tensor_type(v).element_type for v in self.inputs]
        if function.arity == 3 and elements.pop(0) != i1:
            raise VerifyException("select's condition is a tensor of i1")
        if len(set(elements)) != 1:
            raise VerifyException(f"{function} of different element types")
        return broadcast_shapes(*operands)

    def infer_element_type(self) -> Attribute:
        if self.function.data.is_comparison:
            return i1
        return tensor_type(self.inputs[-1]).element_type


@irdl_op_definition
class ReduceOp(UnaryTensorOp):
    """A reduction over `dims`, which vanish, or with `keepdim` become 1."""

    name = "kaoken.reduce"

    reduction = prop_def(ReductionAttr)
    dims = prop_def(DenseArrayBase.constr(i64))
    keepdim = prop_def(BoolAttr, default_value=BoolAttr.from_bool(False))

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$reduction $input `over` $dims attr-dict `:` type($input) `->` type($result)"

    def infer_shape(self, *operands: Shape) -> Shape:
        dims = set(self.dims.get_values())
        if not dims <= set(range(len(operands[0]))):
            raise VerifyException("reduce over a dimension that is not there")
        kept = Dim.of(1) if self.keepdim.value.data else None
        reduced = [kept if i in dims else d for i, d in enumerate(operands[0])]
        return tuple(d for d in reduced if d is not None)

    def infer_element_type(self) -> Attribute:
        if self.reduction.data in (Reduction.ANY, Reduction.ALL):
            return i1
        return super().infer_element_type()


@irdl_op_definition
class CumsumOp(UnaryTensorOp):
    """Running sums along dimension `dim`."""

    name = "kaoken.cumsum"

    dim = prop_def(IntegerAttr)

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$input attr-dict `:` type($input) `->` type($result)"

    def infer_shape(self, *operands: Shape) -> Shape:
        checked_dim(self.dim, len(operands[0]))
        return operands[0]


def checked_dim(dim: IntegerAttr, rank: int) -> int:
    """The number of a dimension. Raises VerifyException when the tensor has no such dimension."""
    if not 0 <= dim.value.data < rank:
        raise VerifyException(f"dimension {dim.value.data} of a tensor with {rank}")
    return dim.value.data


TENSOR_OPS = [
    FullOp,
    IotaOp,
    ReshapeOp,
    TransposeOp,
    SliceOp,
    ConcatOp,
    BroadcastOp,
    GatherOp,
    CastOp,
    ElementwiseOp,
    ReduceOp,
    CumsumOp,
]
