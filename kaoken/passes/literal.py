"""Literal baking: small layers whose weights are numbers in straight-line code.

`make_literal` (for `bake`) turns the weights of layers with the schedule `literal()`, or with
`mode=literal` of all layers, into dense constants. `lower_literal_linear` (for `lower-to-loops`)
then writes, for weights [[0.25, 0, 1], [0, 0, -1]],

    %0 = memref.load %x[%i, 0];  %2 = memref.load %x[%i, 2]
    %a = arith.mulf %0, 0.25;    %b = arith.addf %a, %2;    memref.store %b, %y[%i, 0]
    %c = arith.negf %2;                                     memref.store %c, %y[%i, 1]

Terms with weight 0 are dropped, and so are multiplications by 1 and -1. Several rows are a loop
around that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from xdsl.dialects import arith
from xdsl.ir import Block, Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from kaoken.analysis.constants import is_stored
from kaoken.dialect.attributes import Activation, Directive, ScheduleAttr
from kaoken.dialect.base import tensor_type
from kaoken.dialect.dims import Dim, product
from kaoken.dialect.nn import LinearOp, WeightOp
from kaoken.dtypes import dense_array, dense_attribute
from kaoken.errors import KaokenError

if TYPE_CHECKING:
    import numpy as np

    from kaoken.passes.lowering.kernel import Kernel
    from kaoken.passes.lowering.nest import Index

_SHORT = (Activation.NONE, Activation.RELU)
"""Activations of one instruction; the others are a loop after the sums, to keep the code small."""
LITERAL = ScheduleAttr((Directive("literal", ()),))
Lookup = Callable[[str], "np.ndarray"]


def is_literal(op: Operation) -> bool:
    """Whether an op is a linear layer that becomes straight-line code."""
    return isinstance(op, LinearOp) and op.schedule is not None and bool(op.schedule.all("literal"))


def make_literal(block: Block, weights: Lookup, limit: int, only_asked: bool = False) -> None:
    """Inline the weights of all linear layers of a block, or of those whose schedules ask for it.

    Raises KaokenError when a layer has more of them than `limit`.
    """
    for op in list(block.ops):
        if not isinstance(op, LinearOp) or (only_asked and not is_literal(op)):
            continue
        if not op.is_packed and is_stored(op.weight):
            _check_size(op, limit)
            _inline(op, 1, op.weight, weights)
            if op.bias is not None and is_stored(op.bias):
                _inline(op, 2, op.bias, weights)
            op.schedule = LITERAL


def _check_size(op: LinearOp, limit: int) -> None:
    count = op.n * op.k + (op.n if op.bias is not None else 0)
    if count > limit:
        raise KaokenError(
            f"the layer {_name(op)} has {count} weights, but literal baking takes at most {limit}: "
            f"raise the limit with bake{{mode=literal literal-limit={count}}}"
        )


def _name(op: LinearOp) -> str:
    if isinstance(op.weight.owner, WeightOp):
        return f'"{op.weight.owner.key.data.removesuffix(".weight")}"'
    return f"%{op.result.name_hint or op.weight.name_hint or 'linear'}"


def _inline(op: LinearOp, index: int, value: SSAValue, weights: Lookup) -> None:
    if not isinstance(weight := value.owner, WeightOp):
        return
    constant = arith.ConstantOp(dense_attribute(weights(weight.key.data)))
    constant.result.name_hint = value.name_hint
    Rewriter.insert_op(constant, InsertPoint.before(op))
    op.operands[index] = constant.result


def lower_literal_linear(op: LinearOp, kernel: Kernel) -> None:
    """Straight-line code for each row; a norm epilogue is a kernel of its own."""
    activation = op.activation.data
    suffix = "" if activation is Activation.NONE else f"_{activation}"
    suffix += "" if op.residual is None else "_add"
    kernel.name = f"literal_{op.k}x{op.n}{suffix}"
    kernel.comment = f"y[m][{op.n}] = x[m][{op.k}] * W^T with the weights as numbers"
    rows = product(kernel.shape(op.input)[:-1])
    x = kernel.buffer("x", op.input, (rows, Dim.of(op.k)))
    shape = (rows, Dim.of(op.n))
    residual = None if op.residual is None else kernel.buffer("r", op.residual, shape)
    y = kernel.buffer("y", op.result, shape)
    m = kernel.size("m", rows)
    if m == 1:
        _row(op, kernel, x, residual, y, 0)
        return
    with kernel.parallel("m", m) as i:
        _row(op, kernel, x, residual, y, i)


def _row(
    op: LinearOp, kernel: Kernel, x: SSAValue, residual: SSAValue | None, y: SSAValue, i: Index
) -> None:
    from kaoken.passes.lowering.scalars import emit_activation

    def finish(total: SSAValue, j: Index) -> SSAValue:
        value = emit_activation(kernel, op.activation.data, total)
        if residual is None:
            return value
        return kernel.insert(arith.AddfOp(value, kernel.load(residual, i, j)))

    is_short = op.activation.data in _SHORT
    weight = _numbers(op.weight)
    bias = _numbers(op.bias) if op.bias is not None else [0.0] * op.n
    inputs = {
        k: kernel.load(x, i, k) for k in range(op.k) if any(row[k] != 0 for row in weight)
    }
    for j, (row, start) in enumerate(zip(weight, bias, strict=True)):
        total = _weighted_sum(kernel, row, start, inputs)
        if total is None:
            total = kernel.constant(start, tensor_type(op.result).element_type)
        if is_short:
            total = finish(total, j)
        kernel.store(total, y, i, j)
    if not is_short:
        with kernel.parallel("h", op.n) as j:
            kernel.store(finish(kernel.load(y, i, j), j), y, i, j)


def _weighted_sum(
    kernel: Kernel, row: list[float], start: float, inputs: dict[int, SSAValue]
) -> SSAValue | None:
    """start + sum of row[k] * x[k], without what does nothing; None where no input counts."""
    total = None
    for k, factor in enumerate(row):
        if factor == 0:
            continue
        if total is None and start != 0:
            total = kernel.constant(start, inputs[k].type)
        total = _add_term(kernel, total, factor, inputs[k])
    return total


def _add_term(kernel: Kernel, total: SSAValue | None, factor: float, x: SSAValue) -> SSAValue:
    if factor == -1:
        return kernel.insert(arith.NegfOp(x) if total is None else arith.SubfOp(total, x))
    term = x
    if factor != 1:
        term = kernel.insert(arith.MulfOp(x, kernel.constant(factor, x.type)))
    return term if total is None else kernel.insert(arith.AddfOp(total, term))


def _numbers(value: SSAValue) -> list:
    owner = value.owner
    if not isinstance(owner, arith.ConstantOp):
        raise KaokenError(
            "a layer with the schedule literal() needs its weights as dense constants: "
            "run bake{mode=literal}"
        )
    return dense_array(owner.value).astype("float64").tolist()
