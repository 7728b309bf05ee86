"""Nests where each element of the result is a function of elements: out[i...] = f(in[...]).

Elementwise functions, activations, casts, constants and data movement. Neighbouring dimensions
that every operand walks through alike are merged first, so that most nests have two loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xdsl.dialects import arith
from xdsl.dialects.builtin import IntegerType, f32, i64
from xdsl.ir import SSAValue

from kaoken.dialect.attributes import Activation, Approximation, Function, Reduction, Shape
from kaoken.dialect.base import KaokenOp, tensor_type
from kaoken.dialect.dims import Dim, product
from kaoken.dialect.nn import GeluOp, ReluOp, SigmoidOp, SiluOp, TanhOp
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
from kaoken.errors import KaokenError
from kaoken.passes.lowering.kernel import Kernel
from kaoken.passes.lowering.nest import Index
from kaoken.passes.lowering.panels import each_column, panel_of, panelled_buffer
from kaoken.passes.lowering.rows import checked_index, row_shape
from kaoken.passes.lowering.scalars import emit_activation, emit_cast, emit_function

ONE = Dim.of(1)

_ACTIVATIONS: dict[type[KaokenOp], Activation] = {
    ReluOp: Activation.RELU,
    SiluOp: Activation.SILU,
    TanhOp: Activation.TANH,
    SigmoidOp: Activation.SIGMOID,
}


def _loops(
    kernel: Kernel, shape: Shape, body: Callable[[list[SSAValue]], None], prefix: str = ""
) -> None:
    """One parallel loop a dimension, the first named `m`, the last `h`, those between `d1` ..."""

    def nest(ivs: list[SSAValue]) -> None:
        at = len(ivs)
        if at == len(shape):
            body(ivs)
            return
        name = "h" if at == len(shape) - 1 else f"d{at}" if at else "m"
        with kernel.parallel(prefix + name, kernel.size(f"n{at}", shape[at])) as iv:
            nest([*ivs, iv])

    nest([])


def _pointwise(
    kernel: Kernel,
    op: KaokenOp,
    operands: Sequence[SSAValue],
    function: Callable[[list[SSAValue]], SSAValue],
) -> None:
    """out[i...] = function(operands at i...), with numpy broadcasting."""
    result = kernel.shape(op.result)
    aligned = [_align(kernel.shape(v), len(result)) for v in operands]
    shape, views = _merge(result, aligned)
    pairs = zip(operands, views, strict=True)
    buffers = [kernel.buffer(f"x{i}", v, view) for i, (v, view) in enumerate(pairs)]
    y = kernel.buffer("y", op.result, shape)
    for x, view in zip(buffers, views, strict=True):
        if view == shape:
            kernel.in_place(y, x)

    def element(ivs: list[SSAValue]) -> None:
        values = [
            kernel.load(x, *(0 if d == ONE else iv for d, iv in zip(view, ivs, strict=True)))
            for x, view in zip(buffers, views, strict=True)
        ]
        kernel.store(function(values), y, *ivs)

    _loops(kernel, shape, element)


def _align(shape: Shape, rank: int) -> Shape:
    return (ONE,) * (rank - len(shape)) + shape


def _merge(result: Shape, operands: list[Shape]) -> tuple[Shape, list[Shape]]:
    """Merge neighbouring dimensions where every operand has both or neither.

    At most the last one stays apart when its size is known: it is the one to vectorise.
    """
    shape: list[Dim] = []
    views: list[list[Dim]] = [[] for _ in operands]
    previous: tuple[bool, ...] | None = None
    for at, dim in enumerate(result):
        present = tuple(o[at] == dim for o in operands)
        is_row = at == len(result) - 1 and at > 0 and dim.constant is not None
        if previous == present and not is_row and shape:
            shape[-1] = shape[-1] * dim
            for view, operand in zip(views, operands, strict=True):
                view[-1] = view[-1] * operand[at]
        else:
            shape.append(dim)
            for view, operand in zip(views, operands, strict=True):
                view.append(operand[at])
        previous = present
    return tuple(shape), [tuple(view) for view in views]


def lower_elementwise(op: ElementwiseOp, kernel: Kernel) -> None:
    function = op.function.data
    kernel.name, kernel.comment = f"elementwise_{function}", f"{function}, element by element"
    _pointwise(kernel, op, list(op.inputs), lambda v: emit_function(kernel, function, v))


def lower_activation(op: GeluOp | ReluOp | SiluOp | TanhOp | SigmoidOp, kernel: Kernel) -> None:
    if isinstance(op, GeluOp):
        exact = op.approximate.data is Approximation.NONE
        activation = Activation.GELU if exact else Activation.GELU_TANH
    else:
        activation = _ACTIVATIONS[type(op)]
    kernel.name, kernel.comment = f"elementwise_{activation}", f"{activation}, element by element"
    _pointwise(kernel, op, [op.input], lambda v: emit_activation(kernel, activation, v[0]))


def lower_cast(op: CastOp, kernel: Kernel) -> None:
    to = tensor_type(op.result).element_type
    kernel.name, kernel.comment = f"cast_to_{to}", f"conversion to {to}"
    panel = panel_of(op.result)
    if panel is None:
        _pointwise(kernel, op, [op.input], lambda v: emit_cast(kernel, v[0], to))
        return
    rows, width = row_shape(kernel.shape(op.input))
    m_end = kernel.size("m", rows)
    x = kernel.buffer("x", op.input, (rows, width))
    y = panelled_buffer(kernel, "y", op.result)
    with kernel.parallel("m", m_end) as m, each_column(kernel, m, width, panel) as (h, place):
        kernel.store(emit_cast(kernel, kernel.load(x, m, h), to), y, *place)


def lower_broadcast(op: BroadcastOp, kernel: Kernel) -> None:
    kernel.name, kernel.comment = "broadcast", "repetition along broadcast dimensions"
    _pointwise(kernel, op, [op.input], lambda v: v[0])


def lower_copy(value: SSAValue, target: SSAValue, kernel: Kernel) -> None:
    """Copy a tensor's buffer into another one of the caller."""
    kernel.name, kernel.comment = "copy", "a copy"
    count = product(kernel.shape(value))
    x = kernel.buffer("x", value, (count,))
    y = kernel.buffer("y", value, (count,), target)
    with kernel.parallel("m", kernel.size("m", count)) as i:
        kernel.store(kernel.load(x, i), y, i)


def lower_reshape(op: ReshapeOp, kernel: Kernel) -> None:
    """A reshape that must land in memory of its own, as a result of the function does."""
    kernel.name, kernel.comment = "copy", "a copy"
    count = product(kernel.shape(op.result))
    x, y = kernel.buffer("x", op.input, (count,)), kernel.buffer("y", op.result, (count,))
    with kernel.parallel("m", kernel.size("m", count)) as i:
        kernel.store(kernel.load(x, i), y, i)


def lower_full(op: FullOp, kernel: Kernel) -> None:
    kernel.name, kernel.comment = "full", f"every element {op.value.value.data}"
    value = op.value.value.data
    y = kernel.buffer("y", op.result, (product(kernel.shape(op.result)),))
    with kernel.parallel("m", kernel.size("m", product(kernel.shape(op.result)))) as i:
        kernel.store(kernel.constant(value, op.value.type), y, i)


def lower_iota(op: IotaOp, kernel: Kernel) -> None:
    kernel.name, kernel.comment = "iota", "0, 1, 2 ..."
    y = kernel.buffer("y", op.result)
    element = tensor_type(op.result).element_type
    with kernel.parallel("m", kernel.size("m", kernel.shape(op.result)[0])) as i:
        value = kernel.affine(lambda i: i + op.start.value.data, i)
        kernel.store(kernel.insert(arith.IndexCastOp(value, element)), y, i)


def _copy(kernel: Kernel, op: KaokenOp, source: Callable[[list[SSAValue]], list[Index]]) -> None:
    """out[i...] = in[source(i...)]."""
    x = kernel.buffer("x", op.operands[0])
    y = kernel.buffer("y", op.result)
    _loops(
        kernel,
        kernel.shape(op.result),
        lambda ivs: kernel.store(kernel.load(x, *source(ivs)), y, *ivs),
    )


def lower_transpose(op: TransposeOp, kernel: Kernel) -> None:
    order = op.permutation.get_values()
    kernel.name, kernel.comment = "transpose", f"dimensions in the order {list(order)}"
    _copy(kernel, op, lambda ivs: [ivs[order.index(i)] for i in range(len(order))])


def lower_slice(op: SliceOp, kernel: Kernel) -> None:
    at, step = op.dim.value.data, op.step.value.data
    start = op.range.data[0]
    kernel.name, kernel.comment = "slice", f"part of dimension {at}"
    offset = kernel.size("start", start)

    def source(ivs: list[SSAValue]) -> list[Index]:
        scaled = ivs[at] if step == 1 else kernel.affine(lambda i: i * step, ivs[at])
        moved = (
            kernel.affine(lambda i: i + offset, scaled)
            if isinstance(offset, int)
            else kernel.add_index(scaled, offset)
        )
        return [*ivs[:at], moved, *ivs[at + 1 :]]

    _copy(kernel, op, source)


def lower_concat(op: ConcatOp, kernel: Kernel) -> None:
    at = op.dim.value.data
    kernel.name, kernel.comment = "concat", f"inputs one after the other along dimension {at}"
    inputs = [kernel.buffer(f"x{i}", v) for i, v in enumerate(op.inputs)]
    y = kernel.buffer("y", op.result)
    offset: Index = 0
    for x, value in zip(inputs, op.inputs, strict=True):
        shape = kernel.shape(value)

        def element(ivs: list[SSAValue], x: SSAValue = x, offset: Index = offset) -> None:
            moved = kernel.add_index(ivs[at], offset)
            kernel.store(kernel.load(x, *ivs), y, *ivs[:at], moved, *ivs[at + 1 :])

        _loops(kernel, shape, element)
        offset = kernel.add_index(offset, kernel.size(f"part{len(kernel.arguments)}", shape[at]))


def lower_gather(op: GatherOp, kernel: Kernel) -> None:
    dims = list(op.dims.get_values())
    kernel.name, kernel.comment = "gather", f"elements by index along {dims}"
    x = kernel.buffer("x", op.input)
    indices = [kernel.buffer(f"i{i}", v) for i, v in enumerate(op.indices)]
    y = kernel.buffer("y", op.result)
    status = kernel.status()
    result, first = kernel.shape(op.result), dims[0]
    chosen = len(result) - len(kernel.shape(op.input)) + len(dims)
    limits = [kernel.size(f"limit{d}", kernel.shape(op.input)[d]) for d in dims]
    code = kernel.add_error("an index lies outside the dimension that it selects from")

    def element(ivs: list[SSAValue]) -> None:
        middle = ivs[first : first + chosen]
        at: list[Index] = []
        for buffer, value, limit in zip(indices, op.indices, limits, strict=True):
            shape = _align(kernel.shape(value), chosen)
            own = len(kernel.shape(value))
            where = [0 if d == ONE else iv for d, iv in zip(shape, middle, strict=True)]
            index = kernel.load(buffer, *where[chosen - own :])
            at.append(checked_index(kernel, index, limit, status, code))
        value = kernel.load(x, *ivs[:first], *at, *ivs[first + chosen :])
        kernel.store(value, y, *ivs)

    _loops(kernel, result, element)


def lower_reduce(op: ReduceOp, kernel: Kernel) -> None:
    kind, dims = op.reduction.data, sorted(op.dims.get_values())
    kernel.name, kernel.comment = f"reduce_{kind}", f"{kind} over dimensions {dims}"
    shape = kernel.shape(op.input)
    kept = [i for i in range(len(shape)) if i not in dims]
    x = kernel.buffer("x", op.input)
    y = kernel.buffer("y", op.result, tuple(shape[i] for i in kept))
    element = tensor_type(op.input).element_type
    to = tensor_type(op.result).element_type

    def accumulate(at: dict[int, SSAValue], left: list[int], acc: SSAValue) -> SSAValue:
        if not left:
            value = kernel.load(x, *(at[i] for i in range(len(shape))))
            if kind in (Reduction.ANY, Reduction.ALL):
                value = emit_cast(kernel, value, to)
            return _combine(kernel, kind, acc, value)
        size = kernel.size(f"r{left[0]}", shape[left[0]])
        return kernel.fold(
            f"r{left[0]}",
            size,
            acc,
            lambda iv, acc: accumulate({**at, left[0]: iv}, left[1:], acc),
        )

    def result(ivs: list[SSAValue]) -> None:
        start = _identity(kernel, kind, op)
        total = accumulate(dict(zip(kept, ivs, strict=True)), dims, start)
        if kind is Reduction.MEAN:
            total = _mean(kernel, total, [kernel.size(f"r{i}", shape[i]) for i in dims])
        kernel.store(total, y, *ivs)

    if kind is Reduction.MEAN and element != f32:
        raise KaokenError(f"mean of {element} has no lowering: cast to f32 first")
    _loops(kernel, tuple(shape[i] for i in kept), result)


def _mean(kernel: Kernel, total: SSAValue, sizes: list[Index]) -> SSAValue:
    count: Index = 1
    for size in sizes:
        count = kernel.multiply_index(count, size)
    if isinstance(count, int):
        return kernel.insert(arith.DivfOp(total, kernel.constant(count, f32)))
    wide = kernel.insert(arith.IndexCastOp(count, i64))
    return kernel.insert(arith.DivfOp(total, kernel.insert(arith.SIToFPOp(wide, f32))))


def _identity(kernel: Kernel, kind: Reduction, op: ReduceOp) -> SSAValue:
    to = tensor_type(op.result).element_type
    is_float = not isinstance(to, IntegerType)
    half = 0 if is_float else 1 << (to.width.data - 1)
    match kind:
        case Reduction.PROD | Reduction.ALL:
            return kernel.constant(1, to)
        case Reduction.MAX:
            return kernel.constant(float("-inf") if is_float else -half, to)
        case Reduction.MIN:
            return kernel.constant(float("inf") if is_float else half - 1, to)
        case _:
            return kernel.constant(0, to)


_COMBINE = {
    Reduction.SUM: Function.ADD,
    Reduction.MEAN: Function.ADD,
    Reduction.PROD: Function.MUL,
    Reduction.MAX: Function.MAXIMUM,
    Reduction.MIN: Function.MINIMUM,
    Reduction.ANY: Function.OR,
    Reduction.ALL: Function.AND,
}


def _combine(kernel: Kernel, kind: Reduction, acc: SSAValue, value: SSAValue) -> SSAValue:
    return emit_function(kernel, _COMBINE[kind], [acc, value])


def lower_cumsum(op: CumsumOp, kernel: Kernel) -> None:
    at = op.dim.value.data
    shape = kernel.shape(op.input)
    kernel.name, kernel.comment = "cumsum", f"running sums along dimension {at}"
    x, y = kernel.buffer("x", op.input), kernel.buffer("y", op.result)
    others = tuple(d for i, d in enumerate(shape) if i != at)

    def line(ivs: list[SSAValue]) -> None:
        def step(i: SSAValue, acc: SSAValue) -> SSAValue:
            where = [*ivs[:at], i, *ivs[at:]]
            total = _combine(kernel, Reduction.SUM, acc, kernel.load(x, *where))
            kernel.store(total, y, *where)
            return total

        start = kernel.constant(0, tensor_type(op.input).element_type)
        kernel.reduce(
            "scan", kernel.size("scan", shape[at]), [start], lambda i, acc: [step(i, acc[0])]
        )

    _loops(kernel, others, line)
