"""Nests of linear layers and matrix products.

parallel m: parallel n0: parallel n1:            # panels of the packed weight
  acc = bias[n]
  reduce k: acc += x[m, k] * w[n0, k, n1]
  y[m, n] = activation(acc) + residual[m, n]
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects import arith, math
from xdsl.dialects.builtin import f32
from xdsl.ir import SSAValue

from kaoken.dialect.attributes import Activation
from kaoken.dialect.base import tensor_type
from kaoken.dialect.dims import Dim, product
from kaoken.dialect.nn import LinearOp, MatmulOp
from kaoken.passes.literal import is_literal, lower_literal_linear
from kaoken.passes.lowering.kernel import Kernel
from kaoken.passes.lowering.nest import Index
from kaoken.passes.lowering.scalars import emit_activation


@dataclass(frozen=True)
class _Buffers:
    x: SSAValue
    weight: SSAValue
    bias: SSAValue | None
    residual: SSAValue | None
    y: SSAValue
    k: int
    activation: Activation


def lower_linear(op: LinearOp, kernel: Kernel) -> None:
    """The product and its element-wise epilogue; a norm epilogue is a kernel of its own."""
    if is_literal(op):
        lower_literal_linear(op, kernel)
        return
    activation = op.activation.data
    suffix = "" if activation is Activation.NONE else f"_{activation}"
    suffix += "" if op.residual is None else "_add"
    kernel.name = f"linear_{op.k}x{op.n}{suffix}"
    kernel.comment = f"y[m][{op.n}] = x[m][{op.k}] * W^T{_describe(op)}"
    rows = product(kernel.shape(op.input)[:-1])
    buffers = _Buffers(
        kernel.buffer("x", op.input, (rows, Dim.of(op.k))),
        kernel.buffer("w", op.weight),
        None if op.bias is None else kernel.buffer("b", op.bias),
        None if op.residual is None else kernel.buffer("r", op.residual, (rows, Dim.of(op.n))),
        kernel.buffer("y", op.result, (rows, Dim.of(op.n))),
        op.k,
        activation,
    )
    if buffers.residual is not None:
        kernel.in_place(buffers.y, buffers.residual)
    m = kernel.size("m", rows)
    if not op.is_packed:
        _plain_nest(kernel, buffers, m, op.n)
        return
    width = tensor_type(op.weight).get_shape()[2]
    _panel_nest(kernel, buffers, m, op.n, width)


def _describe(op: LinearOp) -> str:
    parts = ["" if op.bias is None else " + b"]
    if op.activation.data is not Activation.NONE:
        parts.append(f", then {op.activation.data}")
    parts.append("" if op.residual is None else ", plus the residual r")
    return "".join(parts)


def _plain_nest(kernel: Kernel, b: _Buffers, m: Index, n: int) -> None:
    with kernel.parallel("m", m) as i, kernel.parallel("n1", n) as j:
        _output(kernel, b, i, j, lambda k: kernel.load(b.weight, j, k))


def _panel_nest(kernel: Kernel, b: _Buffers, m: Index, n: int, width: int) -> None:
    """All whole panels in one nest, the rest of the columns in a second one."""
    panels, rest = divmod(n, width)
    if panels:
        with (
            kernel.parallel("m", m) as i,
            kernel.parallel("n0", panels) as p,
            kernel.parallel("n1", width) as lane,
        ):
            j = kernel.affine(lambda p, lane: p * width + lane, p, lane)
            _output(kernel, b, i, j, lambda k: kernel.load(b.weight, p, k, lane))
    if rest:
        with kernel.parallel("m", m) as i, kernel.parallel("n1", rest) as lane:
            j = kernel.affine(lambda lane: lane + panels * width, lane)
            _output(kernel, b, i, j, lambda k: kernel.load(b.weight, panels, k, lane))


def _output(kernel: Kernel, b: _Buffers, i: SSAValue, j: SSAValue, weight) -> None:
    """One element of the result; `weight` gives the factor of input k."""
    start = kernel.constant(0.0, f32) if b.bias is None else kernel.load(b.bias, j)
    total = kernel.fold(
        "k",
        b.k,
        start,
        lambda k, acc: kernel.insert(math.FmaOp(kernel.load(b.x, i, k), weight(k), acc)),
    )
    value = emit_activation(kernel, b.activation, total)
    if b.residual is not None:
        value = kernel.insert(arith.AddfOp(value, kernel.load(b.residual, i, j)))
    kernel.store(value, b.y, i, j)


def lower_matmul(op: MatmulOp, kernel: Kernel) -> None:
    """A batched product; each leading dimension is a loop, broadcast ones read index 0."""
    transposed = bool(op.transpose_rhs.value.data)
    kernel.name, kernel.comment = "matmul", "matrix product"
    a, b = kernel.buffer("a", op.lhs), kernel.buffer("b", op.rhs)
    y = kernel.buffer("y", op.result)
    shape = kernel.shape(op.result)
    depth = kernel.size("k", kernel.shape(op.lhs)[-1])

    def nest(ivs: list[SSAValue]) -> None:
        if len(ivs) < len(shape):
            name = f"d{len(ivs)}" if len(ivs) < len(shape) - 1 else "n1"
            with kernel.parallel(name, kernel.size(f"n{len(ivs)}", shape[len(ivs)])) as iv:
                nest([*ivs, iv])
            return
        *batch, i, j = ivs
        lhs = _batch_indices(kernel, op.lhs, batch)
        rhs = _batch_indices(kernel, op.rhs, batch)

        def step(k: SSAValue, acc: SSAValue) -> SSAValue:
            at = (j, k) if transposed else (k, j)
            return kernel.insert(
                math.FmaOp(kernel.load(a, *lhs, i, k), kernel.load(b, *rhs, *at), acc)
            )

        kernel.store(kernel.fold("k", depth, kernel.constant(0.0, f32), step), y, *ivs)

    nest([])


def _batch_indices(kernel: Kernel, value: SSAValue, batch: list[SSAValue]) -> list[Index]:
    dims = kernel.shape(value)[:-2]
    aligned = batch[len(batch) - len(dims) :]
    return [0 if d == Dim.of(1) else iv for d, iv in zip(dims, aligned, strict=True)]
