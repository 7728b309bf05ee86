"""`reorder`: interchange perfectly nested parallel loops as the schedule's `order` says.

    affine.for %m = 0 to %M {                      affine.for %n0 = 0 to 24 {
      affine.for %n0 = 0 to 24 {           ->        affine.for %m = 0 to %M {
        affine.for %n1 = 0 to 48 {                     affine.for %n1 = 0 to 48 {

Index arithmetic between the loops moves into the innermost one. Names that a nest does not have are
passed over, so one directive serves a kernel of several nests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from xdsl.context import Context
from xdsl.dialects import affine, func
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.passes import ModulePass

from kaoken.passes.loops import (
    induction_variable,
    is_parallel,
    loop_name,
    loops_named,
    scheduled_functions,
    sole_inner_loop,
)
from kaoken.passes.strict import DirectiveRefused, kind_of, no_loop, settle
from kaoken.passes.tile import TilePass


@dataclass(frozen=True)
class ReorderPass(ModulePass):
    """Interchange loops by the `order` directives of each kernel."""

    name = "reorder"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        TilePass().apply(ctx, op)
        for function, schedule in scheduled_functions(op):
            for directive in schedule.all("order"):
                order = [str(name) for name in directive.args]
                for loop in _outermost(function.body.block):
                    try:
                        _interchange(_perfect_nest(loop), order)
                    except _Dependent as error:
                        raise DirectiveRefused(function, directive, str(error)) from None
                settle(function, directive, [_disorder(function, order)])


class _Dependent(Exception):
    """A loop would come to stand outside one that its bounds depend on."""


def _disorder(function: func.FuncOp, order: list[str]) -> str | None:
    """Where the loops do not stand as they should, and why."""
    for at, name in enumerate(order):
        loops = loops_named(function, name)
        if not loops:
            return no_loop(function, name)
        later = set(order[at + 1 :])
        for outer in (o for loop in loops for o in _enclosing(loop) if loop_name(o) in later):
            return _cause(function, name, loop_name(outer))
    return None


def _enclosing(loop: affine.ForOp) -> Iterator[affine.ForOp]:
    parent = loop.parent_op()
    while parent is not None:
        if isinstance(parent, affine.ForOp):
            yield parent
        parent = parent.parent_op()


def _cause(function: func.FuncOp, name: str, outer: str) -> str:
    subject = kind_of(function, name)
    if "reduction" in subject:
        return f"{subject} cannot stand outside {outer}: its sum belongs to one result"
    return f"{subject} cannot stand outside {outer}: there is more than that loop in {outer}"


def _outermost(block: Block) -> list[affine.ForOp]:
    return [op for op in block.ops if isinstance(op, affine.ForOp)]


def _perfect_nest(loop: affine.ForOp) -> list[affine.ForOp]:
    """The parallel loops from this one on, each alone in the one before."""
    nest = [loop] if is_parallel(loop) else []
    while nest and (inner := sole_inner_loop(nest[-1])) is not None and is_parallel(inner):
        nest.append(inner)
    return nest


def _interchange(nest: list[affine.ForOp], order: list[str]) -> None:
    """Permute the loops that `order` names among the places that they hold.

    Raises _Dependent when a loop would come to stand outside one that its bounds depend on.
    """
    names = [loop_name(loop) for loop in nest]
    places = [i for i, name in enumerate(names) if name in order]
    wanted = sorted(places, key=lambda i: order.index(names[i]))
    if wanted == places:
        return
    _sink(nest)
    sources = list(range(len(nest)))
    for place, source in zip(places, wanted, strict=True):
        sources[place] = source
    _check_bounds([nest[i] for i in sources])
    headers = [_Header.of(nest[i]) for i in sources]
    indices: list[SSAValue] = [induction_variable(loop) for loop in nest]
    users = [_users_in_body(indices[i], nest) for i in sources]
    moved = {indices[source]: indices[place] for place, source in enumerate(sources)}
    for loop, header in zip(nest, headers, strict=True):
        header.put_on(loop, moved)
    for index, used in zip(indices, users, strict=True):
        for operation, position in used:
            operation.operands[position] = index


def _sink(nest: list[affine.ForOp]) -> None:
    """Move the index arithmetic between the loops to the start of the innermost body."""
    target = nest[-1].body.block
    first = target.first_op
    assert first is not None
    for loop, inner in pairwise(nest):
        for op in list(loop.body.block.ops):
            if op is not inner and not isinstance(op, affine.YieldOp):
                op.detach()
                target.insert_op_before(op, first)


def _check_bounds(order: list[affine.ForOp]) -> None:
    inner = {induction_variable(loop): loop_name(loop) for loop in order}
    for loop in order:
        for operand in loop.operands:
            if operand in inner:
                raise _Dependent(
                    f"loop {loop_name(loop)} cannot stand outside {inner[operand]}: "
                    "its bounds depend on it"
                )
        del inner[induction_variable(loop)]


def _users_in_body(index: SSAValue, nest: list[affine.ForOp]) -> list[tuple[Operation, int]]:
    """What uses a loop's index, other than bounds of the nest's own loops."""
    return [(use.operation, use.index) for use in index.uses if use.operation not in nest]


@dataclass(frozen=True)
class _Header:
    """All of a loop but its body."""

    bounds: tuple[SSAValue, ...]
    properties: dict[str, Attribute]
    attributes: dict[str, Attribute]
    name_hint: str | None

    @staticmethod
    def of(loop: affine.ForOp) -> _Header:
        hint = induction_variable(loop).name_hint
        return _Header(tuple(loop.operands), dict(loop.properties), dict(loop.attributes), hint)

    def put_on(self, loop: affine.ForOp, moved: dict[SSAValue, SSAValue]) -> None:
        loop.operands = [moved.get(v, v) for v in self.bounds]
        loop.properties = self.properties
        loop.attributes = self.attributes
        induction_variable(loop).name_hint = self.name_hint
