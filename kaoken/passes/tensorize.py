"""`tensorize`: leave products of matrices to a matrix unit, as `tensorize(rows, columns, k)` says.

    affine.for %m_in_in = 0 to min(32, ...) {      %rows = affine.min ...
      affine.for %n1 = 0 to 32 {                   kaoken_loop.contract bf16 %x[%m, %c0],
        %acc = affine.for %k = 0 to 384                %w[%n0, %c0, %c0] into %sums[%c0, %c0]
            iter_args(%a = %bias) {                    rows %rows depth %c384 {columns = 32}
          ... kaoken_loop.dot bf16 %xv, %wv, %a ->  affine.for %m_in_in = 0 to min(32, ...) {
        }                                            affine.for %n1 = 0 to 32 {
        ... %acc ...                                   %s = memref.load %sums[%m_in_in, %n1]
      }                                                %acc = arith.addf %s, %bias
    }                                                  ... %acc ...

Where the sum was tiled, `tile(k, 96)`, all rows pass a block of k before the next one is read.
The sums go through a small scratch memory, whose rows the rest of the nest then reads: it stays a
nest of its own, for `vectorize`. Row counts stay open: a matrix unit takes its sizes at run time.
A sum over a span, an `scf.for`, begins at its first step. What a sum starts at is added to it. A
target without a matrix unit computes the same in loops.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import affine, arith, memref, scf
from xdsl.dialects.builtin import AffineMapAttr, IndexType, IntegerAttr, MemRefType, ModuleOp, f32
from xdsl.ir import Block, Operation, SSAValue
from xdsl.ir.affine import (
    AffineBinaryOpExpr,
    AffineBinaryOpKind,
    AffineConstantExpr,
    AffineDimExpr,
    AffineExpr,
    AffineMap,
)
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from kaoken.dialect.kaoken_loop import NAME, ContractOp, DotKind, DotOp
from kaoken.passes.loops import (
    constant_trip_count,
    induction_variable,
    is_parallel,
    is_reduction,
    largest_extent,
    loop_name,
    loops_named,
    scheduled_functions,
    sole_inner_loop,
)
from kaoken.passes.reorder import ReorderPass
from kaoken.passes.strict import no_loop, settle
from kaoken.passes.widening.parallel import splice_before
from kaoken.passes.widening.values import CannotWiden, IndexForm, Widener, erase_block

_EITHER_WAY = (DotKind.BF16, DotKind.I8_I8)
"""Products whose factors may change places."""
_ROW, _COLUMN, _DEPTH = range(3)
_SUM_OF_TWO = AffineMap(2, 0, (AffineExpr.dimension(0) + AffineExpr.dimension(1),))


@dataclass(frozen=True)
class TensorizePass(ModulePass):
    """Replace nests of products by contractions, by the `tensorize` directives of each kernel."""

    name = "tensorize"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        ReorderPass().apply(ctx, op)
        for function, schedule in scheduled_functions(op):
            for directive in schedule.all("tensorize"):
                rows, columns, k = map(str, directive.args)
                loops = loops_named(function, rows)
                outcomes = [_tensorize(loop, columns, k) for loop in loops]
                settle(function, directive, outcomes or [no_loop(function, rows)])


_Matrix = tuple[SSAValue, list[SSAValue]]
"""A memory, and where in it a matrix along its last two dimensions begins."""


class _Refused(Exception):
    """Why a nest is no product of matrices."""


def _tensorize(loop: affine.ForOp, columns: str, k: str) -> str | None:
    """Replace one nest, or say why not."""
    try:
        product = _Product.of(loop, columns, k)
        product.replace()
    except _Refused as error:
        return str(error)
    return None


@dataclass
class _Product:
    """A nest of rows and columns around a sum of dots."""

    rows: affine.ForOp
    columns: affine.ForOp
    sum: affine.ForOp | scf.ForOp
    """Over words; over blocks of them where it was tiled."""
    words: affine.ForOp | scf.ForOp
    """Over words, in a block."""
    dot: DotOp
    most_rows: int
    width: int

    @staticmethod
    def of(rows: affine.ForOp, columns_name: str, k: str) -> _Product:
        """Raises _Refused where a loop is missing or does something else."""
        columns = sole_inner_loop(rows)
        if columns is None or loop_name(columns) != columns_name:
            raise _Refused(f"{columns_name} is not alone in, and right inside, {loop_name(rows)}")
        if not (is_parallel(rows) and is_parallel(columns)):
            raise _Refused(f"{loop_name(rows)} and {columns_name} are not both parallel")
        width = constant_trip_count(columns)
        most = constant_trip_count(rows) or largest_extent(rows)
        steps = {rows.step.value.data, columns.step.value.data}
        if width is None or most is None or steps != {1}:
            names = f"{loop_name(rows)} or {columns_name}"
            raise _Refused(f"{names} has no known extent: tile it first")
        inner = [o for o in columns.body.block.ops if isinstance(o, affine.ForOp | scf.ForOp)]
        if len(inner) != 1 or loop_name(inner[0]) != k or not is_reduction(inner[0]):
            raise _Refused(f"{columns_name} has not one sum over {k}, and no other loop, inside")
        words = _words_of(inner[0])
        return _Product(rows, columns, inner[0], words, _dot_of(words), most, width)

    def replace(self) -> None:
        """Compute the sums before the nest. Raises _Refused, and changes nothing, where the
        factors are no matrices along the loops."""
        block = Block()
        try:
            sums = self._contract(block)
        except CannotWiden as error:
            erase_block(block)
            raise _Refused(f"the factors are no matrices along the loops: {error}") from None
        splice_before(block, self.rows)
        self._read_from(sums)

    def _contract(self, into: Block) -> SSAValue:
        lanes = {
            induction_variable(self.rows): _ROW,
            induction_variable(self.columns): _COLUMN,
            self.words.body.block.args[0]: _DEPTH,
        }
        at = Widener((self.most_rows, self.width, 1), lanes, into)
        assert at.zero is not None
        _widen_indices(at, self.rows)
        _widen_indices(at, self.columns)
        if isinstance(self.sum, scf.ForOp):
            first = IndexForm(at.scalar(self.sum.lb), (0, 0, 1))
            at.forms[self.sum.body.block.args[0]] = first
        if self.words is not self.sum:
            at.forms[self.sum.body.block.args[0]] = IndexForm(at.zero, (0, 0, 0))
        _widen_indices(at, self.words)
        kind, lhs, rhs, in_panels = self._factors(at)
        rows, depth = _extent(at, self.rows, "rows"), _extent(at, self.sum, "depth")
        memory = memref.AllocOp(
            [], [], MemRefType(self.dot.result.type, [self.most_rows, self.width])
        )
        memory.memref.name_hint = "sums"
        sums = at.insert(memory)
        target = (sums, [at.zero, at.zero])
        sizes = (rows, self.width, depth)
        contract = ContractOp(kind, lhs, rhs, target, sizes, self._block, in_panels)
        contract.attributes[NAME] = self.sum.attributes[NAME]
        at.builder.insert(contract)
        return sums

    def _factors(self, at: Widener) -> tuple[DotKind, _Matrix, _Matrix, bool]:
        """What is multiplied: rows by columns, in whichever order the dot names them; and whether
        the rows lie in panels."""
        kind, lhs, rhs = self.dot.kind.data, self.dot.lhs, self.dot.rhs
        if (panels := self._panels(at, lhs)) is not None:
            return kind, panels, _factor(at, rhs, (_DEPTH, _COLUMN)), True
        try:
            rows, columns = _factor(at, lhs, (_ROW, _DEPTH)), _factor(at, rhs, (_DEPTH, _COLUMN))
        except CannotWiden:
            if kind not in _EITHER_WAY:
                raise
            rows, columns = _factor(at, rhs, (_ROW, _DEPTH)), _factor(at, lhs, (_DEPTH, _COLUMN))
        return kind, rows, columns, False

    def _panels(self, at: Widener, value: SSAValue) -> _Matrix | None:
        """Where rows begin that lie in panels: a load of [k / c, row, k % c], for a k from 0."""
        load = value.owner
        if not isinstance(load, memref.LoadOp) or isinstance(self.words, scf.ForOp):
            return None
        if len(load.indices) != 3 or at.zero is None:
            return None
        panel, row, column = load.indices
        assert isinstance(load.memref.type, MemRefType)
        width = load.memref.type.get_shape()[-1]
        if _divided(panel) != (self._word, width, AffineBinaryOpKind.FloorDiv):
            return None
        if _divided(column) != (self._word, width, AffineBinaryOpKind.Mod):
            return None
        form = at.form(row)
        if form.strides != (1, 0, 0):
            return None
        return at.scalar(load.memref), [at.zero, form.base, at.zero]

    @property
    def _word(self) -> SSAValue:
        """Which word of the whole sum a step multiplies."""
        index = induction_variable(self.words)
        return index if self.words is self.sum else _sole_use(index).results[0]

    @property
    def _block(self) -> int | None:
        """The words of a block of the sum."""
        if self.words is self.sum or isinstance(self.words, scf.ForOp):
            return None
        return constant_trip_count(self.words)

    def _read_from(self, sums: SSAValue) -> None:
        """Let the nest load what it summed before."""
        start = _init_of(self.sum)
        indices = [induction_variable(self.rows), induction_variable(self.columns)]
        load = memref.LoadOp.get(sums, indices)
        new: list[Operation] = [load]
        if not _is_zero(start):
            add = arith.AddfOp if load.res.type == f32 else arith.AddiOp
            new.append(add(load.res, start))
        Rewriter.replace_op(self.sum, new)


def _words_of(sum_: affine.ForOp | scf.ForOp) -> affine.ForOp | scf.ForOp:
    """The loop over words: the sum itself, or the one inside where it goes in blocks."""
    if isinstance(sum_, scf.ForOp) or sum_.step.value.data == 1:
        return sum_
    name, first = loop_name(sum_), induction_variable(sum_)
    inner = [op for op in sum_.body.block.ops if not isinstance(op, affine.YieldOp)]
    if len(inner) != 1 or not isinstance(words := inner[0], affine.ForOp):
        raise _Refused(f"the blocks of {name} hold more than a loop over their words")
    uses = {use.operation for v in (first, induction_variable(words)) for use in v.uses}
    places = [op for op in uses if isinstance(op, affine.ApplyOp) and op.map.data == _SUM_OF_TWO]
    is_sum = len(places) == len(uses) == 1
    carried = words.inits == sum_.body.block.args[1:]
    if not is_sum or not carried or constant_trip_count(words) != sum_.step.value.data:
        raise _Refused(f"the blocks of {name} are not all as long as their step")
    return words


def _sole_use(value: SSAValue) -> Operation:
    (use,) = value.uses
    return use.operation


def _divided(index: SSAValue) -> tuple[SSAValue, int, AffineBinaryOpKind] | None:
    """Of an index that is another divided by a number, or the rest of that: all three."""
    op = index.owner
    if not isinstance(op, affine.ApplyOp):
        return None
    match op.map.data.results[0]:
        case AffineBinaryOpExpr(
            kind=AffineBinaryOpKind.FloorDiv | AffineBinaryOpKind.Mod as kind,
            lhs=AffineDimExpr() as dividend,
            rhs=AffineConstantExpr() as divisor,
        ):
            return op.mapOperands[dividend.position], divisor.value, kind
    return None


def _widen_indices(at: Widener, loop: affine.ForOp | scf.ForOp) -> None:
    """The index arithmetic of a loop's body, but for places in panels."""
    for op in loop.body.block.ops:
        are_indices = op.results and all(isinstance(r.type, IndexType) for r in op.results)
        if are_indices and _divided(op.results[0]) is None:
            at.widen(op)


def _init_of(loop: affine.ForOp | scf.ForOp) -> SSAValue:
    (start,) = loop.inits if isinstance(loop, affine.ForOp) else loop.iter_args
    return start


def _dot_of(loop: affine.ForOp | scf.ForOp) -> DotOp:
    """The dot that is all a sum adds up."""
    last = loop.body.block.last_op
    assert last is not None
    name = loop_name(loop)
    if len(loop.results) != 1 or not isinstance(last.operands[0].owner, DotOp):
        raise _Refused(f"{name} is no sum of products of narrow numbers")
    dot = last.operands[0].owner
    acc = loop.body.block.args[1]
    if dot.acc is not acc or not acc.has_one_use():
        raise _Refused(f"{name} uses its running sum on the way")
    return dot


def _factor(at: Widener, value: SSAValue, along: tuple[int, int]) -> _Matrix:
    """Where a factor's matrix begins, whose last two dimensions go along two of the loops.

    Raises CannotWiden where they do not.
    """
    load = value.owner
    if not isinstance(load, memref.LoadOp):
        raise CannotWiden("one of them is not read from memory")
    source = at.scalar(load.memref)
    base, map_ = at.access(source, list(load.indices))
    rank = len(base)
    walked = {
        lane: expr.position
        for lane, expr in enumerate(map_.results)
        if isinstance(expr, AffineDimExpr)
    }
    if walked != {along[0]: rank - 2, along[1]: rank - 1}:
        raise CannotWiden("one of them does not lie along its memory's last two dimensions")
    return source, base


def _extent(at: Widener, loop: affine.ForOp | scf.ForOp, hint: str) -> SSAValue:
    """How often a loop from 0, or over a span, runs."""
    if isinstance(loop, scf.ForOp):
        count = arith.SubiOp(at.scalar(loop.ub), at.scalar(loop.lb))
        count.result.name_hint = hint
        return at.insert(count)
    if loop.lowerBoundMap.data != AffineMap.constant_map(0):
        raise CannotWiden(f"{loop_name(loop)} does not begin at 0")
    if (count := constant_trip_count(loop)) is not None:
        number = IntegerAttr.from_index_int_value(count * loop.step.value.data)
        return at.insert(arith.ConstantOp(number))
    bound = loop.upperBoundMap.data
    operands = [at.scalar(v) for v in loop.upperBoundOperands]
    least: Operation = affine.MinOp(operands, AffineMapAttr(bound))
    if len(bound.results) == 1:
        least = affine.ApplyOp(operands, AffineMapAttr(bound))
    least.results[0].name_hint = hint
    return at.insert(least)


def _is_zero(value: SSAValue) -> bool:
    op = value.owner
    if not isinstance(op, arith.ConstantOp):
        return False
    return getattr(getattr(op.value, "value", None), "data", None) == 0
