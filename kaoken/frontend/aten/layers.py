"""aten ops that are layers: products, norms, embeddings, softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xdsl.dialects.builtin import f32
from xdsl.ir import SSAValue

from kaoken.dialect.attributes import Function, Reduction, float_attr
from kaoken.dialect.canonicalization.rules import LINEAR_OPERANDS
from kaoken.dialect.dims import Dim, product
from kaoken.dialect.nn import EmbeddingOp, LayerNormOp, LinearOp, RmsNormOp, SoftmaxOp
from kaoken.errors import KaokenError
from kaoken.frontend.aten.arithmetic import add, mul, sigmoid, sub
from kaoken.frontend.aten.registry import Importer, Scalar, aten, is_float
from kaoken.frontend.graph import ONE

F, R = Function, Reduction


@aten("linear")
def linear(g: Importer, x: SSAValue, weight: SSAValue, bias: SSAValue | None = None) -> SSAValue:
    if g.rank(weight) == 1:
        row = g.reshape(weight, (ONE, *g.shape(weight)))
        return g.reshape(linear(g, x, row, bias), g.expected)
    return g.make(LinearOp, [x, weight, bias, *[None] * (len(LINEAR_OPERANDS) - 3)])


@aten("mm", "bmm")
def mm(g: Importer, a: SSAValue, b: SSAValue) -> SSAValue:
    return g.matmul(a, b)


@aten("addmm", "baddbmm")
def addmm(
    g: Importer, bias: SSAValue, a: SSAValue, b: SSAValue, beta: Scalar = 1, alpha: Scalar = 1
) -> SSAValue:
    product_ = g.matmul(a, b)
    scaled = product_ if alpha == 1 else mul(g, product_, alpha)
    return scaled if beta == 0 else add(g, scaled, bias, beta)


@aten("matmul")
def matmul(g: Importer, a: SSAValue, b: SSAValue) -> SSAValue:
    left = g.reshape(a, (ONE, *g.shape(a))) if g.rank(a) == 1 else a
    right = g.reshape(b, (*g.shape(b), ONE)) if g.rank(b) == 1 else b
    return g.reshape(g.matmul(left, right), g.expected)


@aten("mv", "dot")
def mv(g: Importer, a: SSAValue, b: SSAValue) -> SSAValue:
    return matmul(g, a, b)


@aten("outer")
def outer(g: Importer, a: SSAValue, b: SSAValue) -> SSAValue:
    return mul(g, g.reshape(a, (*g.shape(a), ONE)), b)


@aten("layer_norm")
def layer_norm(
    g: Importer,
    x: SSAValue,
    normalized_shape: Sequence[int],
    weight: SSAValue | None = None,
    bias: SSAValue | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> SSAValue:
    return _norm(g, LayerNormOp, x, len(normalized_shape), [weight, bias], eps)


@aten("native_layer_norm")
def native_layer_norm(
    g: Importer,
    x: SSAValue,
    normalized_shape: Sequence[int],
    weight: SSAValue | None,
    bias: SSAValue | None,
    eps: float,
) -> list[SSAValue | None]:
    result = _norm(g, LayerNormOp, x, len(normalized_shape), [weight, bias], eps)
    return [result, None, None]


@aten("rms_norm")
def rms_norm(
    g: Importer,
    x: SSAValue,
    normalized_shape: Sequence[int],
    weight: SSAValue | None = None,
    eps: float | None = None,
) -> SSAValue:
    return _norm(g, RmsNormOp, x, len(normalized_shape), [weight], 2.0**-23 if eps is None else eps)


def _norm(
    g: Importer,
    op: type[LayerNormOp] | type[RmsNormOp],
    x: SSAValue,
    dims: int,
    vectors: Sequence[SSAValue | None],
    eps: float,
) -> SSAValue:
    """A norm over the last `dims` dimensions, which kaoken sees as one."""
    shape = g.shape(x)
    size = product(shape[-dims:])
    flat = g.reshape(x, (*shape[:-dims], size))
    rows = [None if v is None else g.reshape(v, (size,)) for v in vectors]
    weight = g.full(1.0, g.dtype(x), (size,)) if rows[0] is None else rows[0]
    return g.reshape(g.make(op, [flat, weight, *rows[1:]], {"eps": float_attr(eps)}), shape)


@aten("group_norm")
def group_norm(
    g: Importer,
    x: SSAValue,
    num_groups: int,
    weight: SSAValue | None = None,
    bias: SSAValue | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> SSAValue:
    """A plain layer norm of each group of channels with all that lies behind them."""
    shape = g.shape(x)
    in_group = Dim.of((shape[1].constant or 0) // num_groups)
    grouped = g.reshape(x, (shape[0], Dim.of(num_groups), in_group, *shape[2:]))
    result = g.reshape(_norm(g, LayerNormOp, grouped, len(shape) - 1, [None, None], eps), shape)
    after = (ONE,) * (len(shape) - 2)
    if weight is not None:
        result = mul(g, result, g.reshape(weight, (*g.shape(weight), *after)))
    return result if bias is None else add(g, result, g.reshape(bias, (*g.shape(bias), *after)))


@aten("batch_norm")
def batch_norm(
    g: Importer,
    x: SSAValue,
    weight: SSAValue | None,
    bias: SSAValue | None,
    mean: SSAValue | None,
    variance: SSAValue | None,
    training: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> SSAValue:
    if training or mean is None or variance is None:
        raise KaokenError("batch_norm in training mode: call module.eval() first")
    after = (ONE,) * (g.rank(x) - 2)
    columns = [
        None if v is None else g.reshape(v, (*g.shape(v), *after))
        for v in (mean, variance, weight, bias)
    ]
    middle, spread, scale, shift = columns
    assert middle is not None
    assert spread is not None
    factor = g.elementwise(F.RSQRT, add(g, spread, eps))
    result = mul(g, sub(g, x, middle), factor if scale is None else mul(g, factor, scale))
    return result if shift is None else add(g, result, shift)


@aten("_native_batch_norm_legit_no_training")
def native_batch_norm(
    g: Importer,
    x: SSAValue,
    weight: SSAValue | None,
    bias: SSAValue | None,
    mean: SSAValue,
    variance: SSAValue,
    momentum: float,
    eps: float,
) -> list[SSAValue | None]:
    return [batch_norm(g, x, weight, bias, mean, variance, False, momentum, eps), None, None]


@aten("embedding")
def embedding(g: Importer, table: SSAValue, indices: SSAValue, *_: Any, **__: Any) -> SSAValue:
    return g.make(EmbeddingOp, [table, indices])


@aten("softmax.int", "_softmax")
def softmax(g: Importer, x: SSAValue, dim: int, dtype: Any = None) -> SSAValue:
    if dtype is not None and not isinstance(dtype, bool):
        x = g.cast(x, dtype)
    elif not is_float(g.dtype(x)):
        x = g.cast(x, f32)
    at = g.dim(dim, g.rank(x))
    if at == g.rank(x) - 1:
        return g.make(SoftmaxOp, [x])
    return g.swap(g.make(SoftmaxOp, [g.swap(x, at, -1)]), at, -1)


@aten("_safe_softmax")
def safe_softmax(g: Importer, x: SSAValue, dim: int, dtype: Any = None) -> SSAValue:
    """Softmax that gives zeros where every element is -inf."""
    at = g.dim(dim, g.rank(x))
    top = g.reduce(R.MAX, x, [at], True)
    hidden = g.elementwise(F.EQ, top, g.full(float("-inf"), g.dtype(x)))
    zero = g.full(0.0, g.dtype(x))
    return g.elementwise(F.SELECT, hidden, zero, softmax(g, x, dim, dtype))


@aten("log_softmax.int", "_log_softmax")
def log_softmax(g: Importer, x: SSAValue, dim: int, dtype: Any = None) -> SSAValue:
    if dtype is not None and not isinstance(dtype, bool):
        x = g.cast(x, dtype)
    at = g.dim(dim, g.rank(x))
    centred = sub(g, x, g.reduce(R.MAX, x, [at], True))
    total = g.reduce(R.SUM, g.elementwise(F.EXP, centred), [at], True)
    return sub(g, centred, g.elementwise(F.LOG, total))


@aten("glu")
def glu(g: Importer, x: SSAValue, dim: int = -1) -> SSAValue:
    at = g.dim(dim, g.rank(x))
    size, half = g.shape(x)[at], g.expected[at]
    gate = sigmoid(g, g.slice(x, at, half, size))
    return mul(g, g.slice(x, at, half - half, half), gate)


@aten("einsum")
def einsum(g: Importer, equation: str, operands: Sequence[SSAValue], **_: Any) -> SSAValue:
    sides = equation.replace(" ", "").split("->")
    terms = sides[0].split(",")
    letters = "".join(terms)
    if "." in equation or len(sides) != 2 or len(terms) != 2 or _repeats(terms):
        raise KaokenError(f"einsum {equation!r} is not supported: two operands, no ellipsis")
    (a, b), out = terms, sides[1]
    if not set(out) <= set(letters):
        raise KaokenError(f"einsum {equation!r} has unknown letters in its result")
    return _einsum_pair(g, (a, operands[0]), (b, operands[1]), out)


def _repeats(terms: Sequence[str]) -> bool:
    return any(len(set(term)) != len(term) for term in terms)


def _einsum_pair(
    g: Importer, left: tuple[str, SSAValue], right: tuple[str, SSAValue], out: str
) -> SSAValue:
    """A product of two tensors: one matmul between transposes."""
    (a, x), (b, y) = _drop_lonely(g, left, right[0] + out), _drop_lonely(g, right, left[0] + out)
    sizes = dict(zip(a + b, (*g.shape(x), *g.shape(y)), strict=True))
    batch = [c for c in a if c in b and c in out]
    inner = [c for c in a if c in b and c not in out]
    rows = [c for c in a if c not in b]
    columns = [c for c in b if c not in a]

    def arranged(term: str, value: SSAValue, free: list[str]) -> SSAValue:
        moved = g.transpose(value, [term.index(c) for c in (*batch, *free, *inner)])
        head = tuple(sizes[c] for c in batch)
        return g.reshape(moved, (*head, *(product(sizes[c] for c in s) for s in (free, inner))))

    result = g.matmul(arranged(a, x, rows), arranged(b, y, columns), transpose_rhs=True)
    order = [*batch, *rows, *columns]
    full = g.reshape(result, tuple(sizes[c] for c in order))
    return g.transpose(full, [order.index(c) for c in out])


def _drop_lonely(g: Importer, term: tuple[str, SSAValue], needed: str) -> tuple[str, SSAValue]:
    """Sum over the letters that occur nowhere else."""
    letters, value = term
    lonely = [i for i, c in enumerate(letters) if c not in needed]
    if not lonely:
        return term
    kept = "".join(c for i, c in enumerate(letters) if i not in lonely)
    return kept, g.reduce(R.SUM, value, lonely)
