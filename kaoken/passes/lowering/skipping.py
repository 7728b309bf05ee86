"""Nests that pass over the zeros of a row: a list of what is left, and sums along the list.

list:
  for b: starts[b] = count
    for s: list[count] = s; count += x[0, b, s] != 0        # no branch
products:
  reduce k_nonzero: starts[b] .. starts[b + 1]
    k = list[k_nonzero]
    acc += x[0, b, k] * w[n0, b, k, n1]

Terms keep their order, and one of zero changes no sum: results are equal, bit for bit, as long as
weights are finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xdsl.dialects import arith
from xdsl.dialects.builtin import IndexType, i32
from xdsl.ir import SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap

from kaoken.dialect.dims import Dim, product
from kaoken.dialect.sparsity import LIST_PADDING, NonzerosOp
from kaoken.passes.lowering.kernel import Kernel
from kaoken.passes.lowering.nest import Extent, Index, Span

LISTED = "k_nonzero"
"""The name of a loop along a list."""


def single_row(kernel: Kernel, m: Index) -> Extent:
    """How often a nest for one row alone runs: once if there is one row."""
    return Extent.of(_if_single(kernel, m, 1, 0))


def unless_single(kernel: Kernel, rows: Extent, m: Index) -> Extent:
    """`rows`, which counts m or fewer, or none where m is 1."""
    most = _if_single(kernel, m, 0, m)
    if isinstance(m, int) or isinstance(most, int):
        return Extent.of(0) if most == 0 else rows
    results = (*rows.map.results, AffineExpr.symbol(1))
    return Extent(AffineMap(0, 2, results), (m, most))


def _if_single(kernel: Kernel, m: Index, then: Index, otherwise: Index) -> Index:
    if isinstance(m, int):
        return then if m == 1 else otherwise
    is_one = kernel.insert(arith.CmpiOp(m, kernel.index(1), "eq"))
    return kernel.insert(arith.SelectOp(is_one, kernel.index(then), kernel.index(otherwise)))


@dataclass(frozen=True)
class NonzeroSteps:
    """What `kaoken.nonzeros` gives, as a kernel reads it."""

    buffer: SSAValue
    blocks: int

    def fold(
        self,
        kernel: Kernel,
        block: Index,
        inits: list[SSAValue],
        body: Callable[[SSAValue, list[SSAValue]], list[SSAValue]],
    ) -> list[SSAValue]:
        """`kernel.reduce` over the listed steps of a block."""
        after = block + 1 if isinstance(block, int) else kernel.affine(lambda b: b + 1, block)
        span = Span(self._number(kernel, block), self._number(kernel, after))

        def at(place: SSAValue, sums: list[SSAValue]) -> list[SSAValue]:
            behind = kernel.affine(lambda j: j + self.blocks + 1, place)
            return body(self._number(kernel, behind), sums)

        return kernel.reduce(LISTED, span, inits, at)

    def _number(self, kernel: Kernel, at: Index) -> SSAValue:
        return kernel.insert(arith.IndexCastOp(kernel.load(self.buffer, at), IndexType()))


def lower_nonzeros(op: NonzerosOp, kernel: Kernel) -> None:
    kernel.name, kernel.comment = f"nonzeros_{op.steps}", "which steps of a row are not zero"
    leading = kernel.shape(op.input)[: -2 if op.is_blocked else -1]
    rows, block, words = product(leading), op.block.value.data, op.words.value.data
    x = kernel.buffer("x", op.input, (rows, Dim.of(op.row_words)))
    y = kernel.buffer("y", op.result)
    whole, rest = divmod(op.row_words, op.block_words)
    first = op.blocks + 1

    def put(value: SSAValue, at: Index) -> None:
        kernel.store(kernel.insert(arith.IndexCastOp(value, i32)), y, at)

    with kernel.parallel("m", single_row(kernel, kernel.size("m", rows))) as m:

        def one(b: Index, s: SSAValue, count: SSAValue) -> SSAValue:
            put(s, kernel.add_index(count, first))
            size = op.block_words
            places = [
                kernel.affine(lambda b, s, p=p: b * size + s * words + p, b, s)
                for p in range(words)
            ]
            found = _is_nonzero(kernel, [kernel.load(x, m, at) for at in places])
            step = kernel.insert(arith.SelectOp(found, kernel.index(1), kernel.index(0)))
            return kernel.insert(arith.AddiOp(count, step))

        def some(b: Index, steps: int, count: SSAValue) -> SSAValue:
            put(count, b)
            return kernel.fold("s", steps, count, lambda s, count: one(b, s, count))

        total = kernel.fold("b", whole, kernel.index(0), lambda b, n: some(b, block, n))
        if rest:
            total = some(whole, rest // words, total)
        put(total, op.blocks)
        with kernel.parallel("p", LIST_PADDING) as p:
            at = kernel.add_index(total, kernel.affine(lambda p: p + first, p))
            kernel.store(kernel.constant(0, i32), y, at)


def _is_nonzero(kernel: Kernel, numbers: list[SSAValue]) -> SSAValue:
    """Whether one of the numbers of a step is not zero, or NaN."""
    first, *rest = numbers
    if first.type != i32:
        zero = kernel.constant(0.0, first.type)
        found = kernel.insert(arith.CmpfOp(first, zero, "une"))
        for one in rest:
            more = kernel.insert(arith.CmpfOp(one, zero, "une"))
            found = kernel.insert(arith.OrIOp(found, more))
        return found
    for one in rest:
        first = kernel.insert(arith.OrIOp(first, one))
    return kernel.insert(arith.CmpiOp(first, kernel.constant(0, i32), "ne"))
