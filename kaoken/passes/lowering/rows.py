"""Nests that work row by row: norms, softmax, pooling.

parallel m:                     # layer norm
  reduce h: sum += x[m, h]
  reduce h: squares += (x[m, h] - mean)^2
  parallel h: y[m, h] = (x[m, h] - mean) * inverse * weight[h] + bias[h]
"""

from __future__ import annotations

from xdsl.dialects import arith, math
from xdsl.dialects.builtin import IndexType, IntegerType, f32, i64
from xdsl.ir import SSAValue

from kaoken.dialect.attributes import Norm, Shape
from kaoken.dialect.dims import Dim, product
from kaoken.dialect.nn import (
    LayerNormOp,
    LinearOp,
    MeanPoolOp,
    NormalizeOp,
    RmsNormOp,
    SoftmaxOp,
)
from kaoken.passes.lowering.kernel import Kernel
from kaoken.passes.lowering.nest import Index, Nest

LOWEST = -3.4028234663852886e38
"""The least finite float32: a maximum that starts here never is minus infinity."""


def row_shape(shape: Shape) -> tuple[Dim, Dim]:
    """A shape as rows of its last dimension."""
    return product(shape[:-1]), shape[-1]


def lower_layer_norm(op: LayerNormOp | RmsNormOp, kernel: Kernel) -> None:
    rows, width = row_shape(kernel.shape(op.input))
    bias = op.bias if isinstance(op, LayerNormOp) else None
    kernel.name = f"{op.name.removeprefix('kaoken.')}_{width}"
    kernel.comment = f"{op.name.removeprefix('kaoken.')} of rows of {width}"
    x = kernel.buffer("x", op.input, (rows, width))
    weight = kernel.buffer("weight", op.weight)
    shift = None if bias is None else kernel.buffer("bias", bias)
    y = kernel.buffer("y", op.result, (rows, width))
    kernel.in_place(y, x)
    norm = Norm.LAYER_NORM if isinstance(op, LayerNormOp) else Norm.RMS_NORM
    _norm_nest(kernel, norm, (x, weight, shift, y), (rows, width), op.eps.value.data)


def lower_norm_epilogue(op: LinearOp, kernel: Kernel) -> None:
    """The norm of a linear layer's rows, in place."""
    rows, width = row_shape(kernel.shape(op.result))
    assert op.norm_weight is not None
    assert op.eps is not None
    kernel.name = f"{op.norm.data}_{width}_in_place"
    kernel.comment = f"{op.norm.data} of rows of {width}, in place"
    y = kernel.buffer("y", op.result, (rows, width))
    weight = kernel.buffer("weight", op.norm_weight)
    shift = None if op.norm_bias is None else kernel.buffer("bias", op.norm_bias)
    _norm_nest(kernel, op.norm.data, (y, weight, shift, y), (rows, width), op.eps.value.data)


def _norm_nest(
    kernel: Kernel,
    norm: Norm,
    buffers: tuple[SSAValue, SSAValue, SSAValue | None, SSAValue],
    shape: tuple[Dim, Dim],
    eps: float,
) -> None:
    x, weight, bias, y = buffers
    rows, width = kernel.size("m", shape[0]), shape[1].constant
    assert width is not None
    with kernel.parallel("m", rows) as m:
        mean = _row_mean(kernel, x, m, width) if norm is Norm.LAYER_NORM else None
        squares = _squares(kernel, x, m, width, mean)
        inverse = _inverse_root(kernel, squares, width, eps)
        with kernel.parallel("h", width) as h:
            centred = _centre(kernel, kernel.load(x, m, h), mean)
            value = kernel.insert(arith.MulfOp(centred, inverse))
            kernel.store(_scale_and_shift(kernel, value, weight, bias, h), y, m, h)


def inverse_rms(kernel: Kernel, x: SSAValue, m: SSAValue, width: int, eps: float) -> SSAValue:
    """`1 / sqrt(mean(x[m]^2) + eps)`."""
    squares = _squares(kernel, x, m, width, None)
    return _inverse_root(kernel, squares, width, eps)


def _squares(
    kernel: Kernel, x: SSAValue, m: SSAValue, width: int, mean: SSAValue | None
) -> SSAValue:
    """The sum of a row's squares, less their mean where it is given."""
    return kernel.fold(
        "h",
        width,
        kernel.constant(0.0, f32),
        lambda h, acc: _add_square(kernel, kernel.load(x, m, h), mean, acc),
    )


def _inverse_root(kernel: Kernel, squares: SSAValue, width: int, eps: float) -> SSAValue:
    variance = kernel.insert(arith.MulfOp(squares, kernel.constant(1.0 / width, f32)))
    shifted = kernel.insert(arith.AddfOp(variance, kernel.constant(eps, f32)))
    return kernel.insert(math.RsqrtOp(shifted))


def _row_mean(kernel: Kernel, x: SSAValue, m: SSAValue, width: int) -> SSAValue:
    total = kernel.fold(
        "h",
        width,
        kernel.constant(0.0, f32),
        lambda h, acc: kernel.insert(arith.AddfOp(acc, kernel.load(x, m, h))),
    )
    return kernel.insert(arith.MulfOp(total, kernel.constant(1.0 / width, f32)))


def _centre(n: Nest, value: SSAValue, mean: SSAValue | None) -> SSAValue:
    return value if mean is None else n.insert(arith.SubfOp(value, mean))


def _add_square(n: Nest, value: SSAValue, mean: SSAValue | None, acc: SSAValue) -> SSAValue:
    centred = _centre(n, value, mean)
    return n.insert(math.FmaOp(centred, centred, acc))


def _scale_and_shift(
    n: Nest, value: SSAValue, weight: SSAValue, bias: SSAValue | None, h: SSAValue
) -> SSAValue:
    if bias is None:
        return n.insert(arith.MulfOp(value, n.load(weight, h)))
    return n.insert(math.FmaOp(value, n.load(weight, h), n.load(bias, h)))


def lower_softmax(op: SoftmaxOp, kernel: Kernel) -> None:
    rows, width = row_shape(kernel.shape(op.input))
    kernel.name, kernel.comment = "softmax", f"softmax of rows of {width}"
    x = kernel.buffer("x", op.input, (rows, width))
    y = kernel.buffer("y", op.result, (rows, width))
    kernel.in_place(y, x)
    count = kernel.size("n", width)
    with kernel.parallel("m", kernel.size("m", rows)) as m:
        largest = kernel.fold(
            "h",
            count,
            kernel.constant(LOWEST, f32),
            lambda h, acc: kernel.insert(arith.MaximumfOp(acc, kernel.load(x, m, h))),
        )

        def exponential(h: SSAValue, acc: SSAValue) -> SSAValue:
            shifted = kernel.insert(arith.SubfOp(kernel.load(x, m, h), largest))
            value = kernel.insert(math.ExpOp(shifted))
            kernel.store(value, y, m, h)
            return kernel.insert(arith.AddfOp(acc, value))

        total = kernel.fold("h", count, kernel.constant(0.0, f32), exponential)
        inverse = kernel.insert(arith.DivfOp(kernel.constant(1.0, f32), total))
        with kernel.parallel("h", count) as h:
            kernel.store(kernel.insert(arith.MulfOp(kernel.load(y, m, h), inverse)), y, m, h)


def checked_index(n: Nest, value: SSAValue, limit: Index, status: SSAValue, code: int) -> SSAValue:
    """`value` as an index below `limit`; any other is told in `status` and read as 0."""
    index = n.insert(arith.IndexCastOp(value, IndexType()))
    inside = n.insert(arith.CmpiOp(index, n.index(limit), "ult"))
    wrong = n.insert(arith.CmpiOp(index, n.index(limit), "uge"))
    with n.when(wrong):
        n.store(n.constant(code, i64), status, 0)
        n.store(n.insert(arith.IndexCastOp(index, i64)), status, 1)
    return n.insert(arith.SelectOp(inside, index, n.index(0)))


def lower_mean_pool(op: MeanPoolOp, kernel: Kernel) -> None:
    batch, tokens, width = kernel.shape(op.input)
    kernel.name, kernel.comment = f"mean_pool_{width}", "mean of the rows that the mask keeps"
    x = kernel.buffer("x", op.input, (batch * tokens, width))
    mask = kernel.buffer("mask", op.mask, (batch * tokens,))
    y = kernel.buffer("y", op.result)
    count = kernel.size("tokens", tokens)
    features = width.constant
    assert features is not None
    with kernel.parallel("m", kernel.size("batch", batch)) as m:
        start = kernel.multiply_index(m, count)

        def kept(t: SSAValue) -> SSAValue:
            return _as_float(kernel, kernel.load(mask, kernel.add_index(start, t)))

        total = kernel.fold(
            "t",
            count,
            kernel.constant(0.0, f32),
            lambda t, acc: kernel.insert(arith.AddfOp(acc, kept(t))),
        )
        least = kernel.insert(arith.MaximumfOp(total, kernel.constant(1e-9, f32)))
        inverse = kernel.insert(arith.DivfOp(kernel.constant(1.0, f32), least))
        with kernel.parallel("h", features) as h:
            value = kernel.fold(
                "t",
                count,
                kernel.constant(0.0, f32),
                lambda t, acc: kernel.insert(
                    math.FmaOp(kernel.load(x, kernel.add_index(start, t), h), kept(t), acc)
                ),
            )
            kernel.store(kernel.insert(arith.MulfOp(value, inverse)), y, m, h)


def _as_float(n: Nest, value: SSAValue) -> SSAValue:
    if not isinstance(value.type, IntegerType):
        return value
    to_float = arith.UIToFPOp if value.type.width.data == 1 else arith.SIToFPOp
    return n.insert(to_float(value, f32))


def lower_normalize(op: NormalizeOp, kernel: Kernel) -> None:
    rows, width = row_shape(kernel.shape(op.input))
    kernel.name, kernel.comment = f"normalize_{width}", f"rows of {width} at unit length"
    x = kernel.buffer("x", op.input, (rows, width))
    y = kernel.buffer("y", op.result, (rows, width))
    kernel.in_place(y, x)
    count = kernel.size("n", width)
    least = op.eps.value.data
    with kernel.parallel("m", kernel.size("m", rows)) as m:
        squares = kernel.fold(
            "h",
            count,
            kernel.constant(0.0, f32),
            lambda h, acc: _add_square(kernel, kernel.load(x, m, h), None, acc),
        )
        length = kernel.insert(math.SqrtOp(squares))
        bounded = kernel.insert(arith.MaximumfOp(length, kernel.constant(least, f32)))
        inverse = kernel.insert(arith.DivfOp(kernel.constant(1.0, f32), bounded))
        with kernel.parallel("h", count) as h:
            kernel.store(kernel.insert(arith.MulfOp(kernel.load(x, m, h), inverse)), y, m, h)
