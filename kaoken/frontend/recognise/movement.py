"""Chains of reshapes and transposes in their shortest form, and transposes moved to where they end.

    reshape [T, B*H, D] -> transpose -> reshape [B, H, T, D] -> transpose -> reshape [B, T, H*D]
                                                              -> one transpose, or nothing at all
    linear(transpose(x)), gelu(transpose(x)), transpose(x) + transpose(y)    -> transpose(...)
    slice [i, i+1] of a transpose or of a split dimension                     -> slice of its source

A chain is read as a permutation of *atoms*, the factors into which it ever splits its source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import get_args

from xdsl.ir import SSAValue

from kaoken.dialect.attributes import Shape
from kaoken.dialect.base import shaped
from kaoken.dialect.canonicalization.movement import dimension_groups
from kaoken.dialect.canonicalization.rules import linear_like, owner, splat
from kaoken.dialect.dims import Dim, product
from kaoken.dialect.nn import ActivationOp, LayerNormOp, LinearOp, NormalizeOp, RmsNormOp
from kaoken.dialect.tensor import CastOp, ElementwiseOp, ReshapeOp, SliceOp, TransposeOp
from kaoken.frontend.graph import ONE, Graph
from kaoken.frontend.recognise.matching import Recogniser

Movement = ReshapeOp | TransposeOp
RowOp = LayerNormOp | RmsNormOp | NormalizeOp | ActivationOp | CastOp


@dataclass(eq=False)
class _Atom:
    """A factor of a dimension, which may turn out to consist of two."""

    size: Dim
    parts: tuple[_Atom, _Atom] | None = None

    def split(self, outer: Dim, inner: Dim) -> tuple[_Atom, _Atom]:
        self.parts = (_Atom(outer), _Atom(inner))
        return self.parts

    def leaves(self) -> list[_Atom]:
        if self.parts is None:
            return [self]
        return [leaf for part in self.parts for leaf in part.leaves()]


def shorten(g: Graph, op: Movement) -> SSAValue | None:
    """The end of a chain of movements by fewer of them."""
    chain = _chain(op)
    for first in range(len(chain) - 1):
        steps = chain[first:]
        plan = _plan(g, steps)
        if plan is not None and plan.cost < len(steps):
            return plan.emit(g)
    return None


def _chain(op: Movement) -> list[Movement]:
    """The movements that end in `op`, first to last."""
    chain = [op]
    while isinstance(before := chain[0].input.owner, ReshapeOp | TransposeOp):
        chain.insert(0, before)
    return chain


@dataclass
class _Plan:
    """Reshape to `blocks`, transpose by `order`, reshape to `shape`, where each does anything."""

    source: SSAValue
    before: Shape
    blocks: Shape
    order: tuple[int, ...]
    shape: Shape

    @property
    def moved(self) -> Shape:
        return tuple(self.blocks[i] for i in self.order)

    @property
    def cost(self) -> int:
        if self.order == tuple(sorted(self.order)):
            return int(self.before != self.shape)
        return int(self.before != self.blocks) + 1 + int(self.moved != self.shape)

    def emit(self, g: Graph) -> SSAValue:
        if self.order == tuple(sorted(self.order)):
            return g.reshape(self.source, self.shape)
        moved = g.transpose(g.reshape(self.source, self.blocks), self.order)
        return g.reshape(moved, self.shape)


def _plan(g: Graph, steps: Sequence[Movement]) -> _Plan | None:
    source = steps[0].input
    before, after = g.shape(source), g.shape(steps[-1].result)
    atoms = [_Atom(size) for size in before if size != ONE]
    rest = iter(atoms)
    groups: list[list[_Atom]] | None = [[] if size == ONE else [next(rest)] for size in before]
    for op in steps:
        if isinstance(op, TransposeOp):
            groups = [groups[i] for i in op.permutation.get_values()]
        elif (groups := _regrouped(groups, g.shape(op.result))) is None:
            return None
    ordered = [leaf for atom in atoms for leaf in atom.leaves()]
    final = [leaf for group in groups for atom in group for leaf in atom.leaves()]
    blocks = _blocks(ordered, final)
    place = {id(block[0]): i for i, block in enumerate(blocks)}
    order = tuple(place[id(atom)] for atom in final if id(atom) in place)
    sizes = tuple(product(atom.size for atom in block) for block in blocks)
    plan = _Plan(source, before, sizes, order, after)
    return _with_ones(plan) if len(sizes) < len(before) else plan


def _with_ones(plan: _Plan) -> _Plan:
    """The plan on the source's own dimensions, where its blocks are these but for sizes of 1."""
    kept = [i for i, size in enumerate(plan.before) if size != ONE]
    if tuple(plan.before[i] for i in kept) != plan.blocks:
        return plan
    moved = [kept[i] for i in plan.order]
    ones = [i for i in range(len(plan.before)) if i not in kept]
    for at, size in enumerate(plan.shape):
        if size == ONE and ones:
            moved.insert(at, ones.pop(0))
    return _Plan(plan.source, plan.before, plan.before, (*moved, *ones), plan.shape)


def _regrouped(groups: list[list[_Atom]], shape: Shape) -> list[list[_Atom]] | None:
    """The atoms of all groups dealt out to the dimensions of another shape, split where needed."""
    flat = [leaf for group in groups for atom in group for leaf in atom.leaves()]
    result: list[list[_Atom]] = []
    for size in shape:
        group: list[_Atom] = []
        while size != ONE:
            if not flat:
                return None
            atom = flat.pop(0)
            if (outer := size.divide(atom.size)) is not None:
                group.append(atom)
                size = outer
            elif (inner := atom.size.divide(size)) is not None:
                first, second = atom.split(size, inner)
                group.append(first)
                flat.insert(0, second)
                size = ONE
            else:
                return None
        result.append(group)
    return None if flat else result


def _blocks(ordered: Sequence[_Atom], final: Sequence[_Atom]) -> list[list[_Atom]]:
    """Runs of atoms that lie side by side before as after."""
    following = {id(a): b for a, b in pairwise(final)}
    blocks: list[list[_Atom]] = []
    for atom in ordered:
        if blocks and following.get(id(blocks[-1][-1])) is atom:
            blocks[-1].append(atom)
        else:
            blocks.append([atom])
    return blocks


def _order(op: TransposeOp) -> list[int]:
    return list(op.permutation.get_values())


def _keeps_last(op: TransposeOp) -> bool:
    order = _order(op)
    return order[-1] == len(order) - 1


def below_linear(g: Graph, op: LinearOp) -> SSAValue | None:
    """A linear layer of transposed rows."""
    transpose = owner(op.input, TransposeOp)
    if transpose is None or op.residual is not None or not _keeps_last(transpose):
        return None
    shape = (*g.shape(transpose.input)[:-1], g.shape(op.result)[-1])
    type_ = shaped(shape, g.dtype(op.result))
    linear = g.add(linear_like(op, type_, {"input": transpose.input}))
    return g.transpose(linear, _order(transpose))


def below_row_op(g: Graph, op: RowOp) -> SSAValue | None:
    """A norm or activation of transposed rows."""
    transpose = owner(op.input, TransposeOp)
    if transpose is None or not _keeps_last(transpose):
        return None
    type_ = shaped(g.shape(transpose.input), g.dtype(op.result))
    inner = type(op).create(
        operands=[transpose.input, *op.operands[1:]],
        properties=op.properties,
        result_types=[type_],
    )
    return g.transpose(g.add(inner), _order(transpose))


def below_elementwise(g: Graph, op: ElementwiseOp) -> SSAValue | None:
    """A function of equally transposed tensors, vectors along the last dimension and numbers."""
    moves = [owner(v, TransposeOp) for v in op.inputs if g.rank(v) > 1]
    found = [m for m in moves if m is not None]
    if not found or len(found) != len(moves) or len({m.permutation for m in found}) != 1:
        return None
    if any(g.rank(v) == 1 and splat(v) is None for v in op.inputs) and not _keeps_last(found[0]):
        return None
    values = [m.input if (m := owner(v, TransposeOp)) is not None else v for v in op.inputs]
    return g.transpose(g.elementwise(op.function.data, *values), _order(found[0]))


def slice_above(g: Graph, op: SliceOp) -> SSAValue | None:
    """One index of a moved dimension, or a part that is moved again, taken before the movement."""
    start, stop = op.range.data
    one, step, at = stop - start == ONE, op.step.value.data, op.dim.value.data
    moved_again = all(isinstance(use.operation, Movement) for use in op.result.uses)
    transpose = owner(op.input, TransposeOp)
    if transpose is not None and (one or moved_again):
        order = _order(transpose)
        return g.transpose(g.slice(transpose.input, order[at], start, stop, step), order)
    reshape = owner(op.input, ReshapeOp)
    return _slice_above_reshape(g, op, reshape, at) if one and reshape is not None else None


def _slice_above_reshape(g: Graph, op: SliceOp, reshape: ReshapeOp, at: int) -> SSAValue | None:
    groups = dimension_groups(g.shape(reshape.input), g.shape(reshape.result))
    for before, after in groups or []:
        sizes = {i: g.shape(reshape.result)[i] for i in after}
        outer = [i for i in after if i < at and sizes[i] != ONE]
        if at not in after or outer or len(before) != 1:
            continue
        inner = product(size for i, size in sizes.items() if i > at)
        start = op.range.data[0] * inner
        part = g.slice(reshape.input, before[0], start, start + inner)
        return g.reshape(part, g.shape(op.result))
    return None


RULES = [
    Recogniser(ReshapeOp, shorten),
    Recogniser(TransposeOp, shorten),
    Recogniser(LinearOp, below_linear),
    *[Recogniser(kind, below_row_op) for kind in get_args(RowOp)],
    Recogniser(ElementwiseOp, below_elementwise),
    Recogniser(SliceOp, slice_above),
]
