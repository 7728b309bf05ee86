"""Reduction loops become partial results in lanes, combined in a fixed order at the end."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects import affine, arith, math, scf, vector
from xdsl.dialects.builtin import (
    DenseIntOrFPElementsAttr,
    Float32Type,
    IndexType,
    VectorType,
)
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.rewriter import Rewriter

from kaoken.passes.loops import constant_trip_count, induction_variable, is_reduction
from kaoken.passes.widening.parallel import splice_before
from kaoken.passes.widening.values import CannotWiden, Widener, erase_block, inits_of


@dataclass(frozen=True)
class Combiner:
    """How two partial results become one: the vector reduction, the op, its neutral element."""

    kind: str
    op: type[Operation]
    identity: float


_ADD = Combiner("add", arith.AddfOp, 0.0)
_COMBINERS: dict[type[Operation], Combiner] = {
    arith.AddfOp: _ADD,
    math.FmaOp: _ADD,
    arith.MaximumfOp: Combiner("maximumf", arith.MaximumfOp, float("-inf")),
    arith.MinimumfOp: Combiner("minimumf", arith.MinimumfOp, float("inf")),
    arith.MulfOp: Combiner("mul", arith.MulfOp, 1.0),
}


def widen_reduction(loop: affine.ForOp) -> None:
    """Replace a reduction loop of known extent, with the one around it that only passes on its
    results, by one that carries a vector of partial results.

    Raises CannotWiden, and changes nothing, when the body has no vector form.
    """
    extent = constant_trip_count(loop)
    if extent is None:
        raise CannotWiden("a reduction of open extent")
    combiners = [_combiner(loop, i) for i in range(len(loop.inits))]
    outer = _passing_on(loop)
    block = Block()
    try:
        results = _Reduction(loop, outer, extent, combiners).build(block)
    except CannotWiden:
        erase_block(block)
        raise
    top = outer or loop
    splice_before(block, top)
    Rewriter.replace_op(top, [], results)


def _combiner(loop: affine.ForOp, position: int) -> Combiner:
    """What the loop does to its carried value. Raises CannotWiden when it is no plain reduction."""
    acc = loop.body.block.args[1 + position]
    last = loop.body.block.last_op
    assert last is not None
    value = last.operands[position]
    op = value.owner
    uses = list(acc.uses)
    if not isinstance(op, Operation) or type(op) not in _COMBINERS:
        raise CannotWiden("a reduction that is no sum, product, maximum or minimum")
    if len(uses) != 1 or uses[0].operation is not op or not isinstance(acc.type, Float32Type):
        raise CannotWiden("a running value that is used on the way")
    if isinstance(op, math.FmaOp) and uses[0].index != 2:
        raise CannotWiden("a running value that is multiplied")
    return _COMBINERS[type(op)]


def _passing_on(loop: affine.ForOp) -> affine.ForOp | scf.ForOp | None:
    """The reduction loop around, when all it does is to carry this one's values."""
    outer = loop.parent_op()
    if not isinstance(outer, affine.ForOp | scf.ForOp) or not is_reduction(outer):
        return None
    last = outer.body.block.last_op
    assert last is not None
    carries = list(outer.body.block.args[1:]) == list(loop.inits)
    yields = list(last.operands) == list(loop.results)
    alone = all(
        op in (loop, last) or isinstance(op, affine.ApplyOp | arith.ConstantOp)
        for op in outer.body.block.ops
    )
    return outer if carries and yields and alone else None


@dataclass
class _Reduction:
    loop: affine.ForOp
    outer: affine.ForOp | scf.ForOp | None
    extent: int
    combiners: list[Combiner]

    def build(self, block: Block) -> list[SSAValue]:
        """Fill `block`; gives the scalar results."""
        top = self.outer or self.loop
        widener = Widener((self.extent,), {}, block)
        partial = [widener.insert(_splat(c.identity, self.extent)) for c in self.combiners]
        if self.outer is None:
            partial = self._lanes(block, {}, partial)
        else:
            partial = self._around(self.outer, widener, partial)
        return [
            self._combine(widener, c, init, value)
            for c, init, value in zip(self.combiners, inits_of(top), partial, strict=True)
        ]

    def _around(
        self, outer: affine.ForOp | scf.ForOp, widener: Widener, partial: list[SSAValue]
    ) -> list[SSAValue]:
        """The outer loop, carrying vectors."""
        body = Block(arg_types=[IndexType(), *(v.type for v in partial)])
        for new, old in zip(body.args, outer.body.block.args, strict=True):
            new.name_hint = old.name_hint
        values: dict[SSAValue, SSAValue] = {outer.body.block.args[0]: body.args[0]}
        own = Widener((self.extent,), {}, body, values)
        inner = (self.loop, outer.body.block.last_op)
        try:
            own.body([op for op in outer.body.block.ops if op not in inner])
            results = self._lanes(body, own.values, list(body.args[1:]))
        except CannotWiden:
            erase_block(body)
            raise
        loop = widener.loop_like(outer, partial, body, results)
        return list(loop.results)

    def _lanes(
        self, block: Block, values: dict[SSAValue, SSAValue], partial: list[SSAValue]
    ) -> list[SSAValue]:
        """The inner loop's body in all lanes."""
        lanes = {induction_variable(self.loop): 0}
        inner = Widener((self.extent,), lanes, block, dict(values))
        inner.values.update(zip(self.loop.body.block.args[1:], partial, strict=True))
        *ops, last = self.loop.body.block.ops
        inner.body(ops)
        return [inner.vector(v) for v in last.operands]

    def _combine(
        self, widener: Widener, combiner: Combiner, init: SSAValue, partial: SSAValue
    ) -> SSAValue:
        kind = vector.CombiningKindAttr(vector.CombiningKindFlag(combiner.kind))
        total = widener.insert(
            vector.ReductionOp.build(
                operands=[partial, None], properties={"kind": kind}, result_types=[init.type]
            )
        )
        return widener.insert(combiner.op.create(operands=[init, total], result_types=[init.type]))


def _splat(value: float, extent: int) -> arith.ConstantOp:
    type_: VectorType[Attribute] = VectorType(Float32Type(), [extent])
    return arith.ConstantOp(DenseIntOrFPElementsAttr.from_list(type_, [value]))  # pyright: ignore
