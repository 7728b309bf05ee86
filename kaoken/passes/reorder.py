"""`reorder`: interchange perfectly nested parallel loops as the schedule's `order` says.

    affine.for %m = 0 to %M {                      affine.for %n0 = 0 to 24 {
      affine.for %n0 = 0 to 24 {           ->        affine.for %m = 0 to %M {
        affine.for %n1 = 0 to 48 {                     affine.for %n1 = 0 to 48 {

Names that a nest does not have are passed over, so one directive serves a kernel of several nests.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import affine
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Attribute, Block, SSAValue
from xdsl.passes import ModulePass

from kaoken.errors import KaokenError
from kaoken.passes.loops import (
    induction_variable,
    is_parallel,
    loop_name,
    scheduled_functions,
    sole_inner_loop,
)
from kaoken.passes.lower_to_loops import LowerToLoopsPass


@dataclass(frozen=True)
class ReorderPass(ModulePass):
    """Interchange loops by the `order` directives of each kernel."""

    name = "reorder"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        LowerToLoopsPass().apply(ctx, op)
        for function, schedule in scheduled_functions(op):
            for directive in schedule.all("order"):
                order = [str(name) for name in directive.args]
                for loop in _outermost(function.body.block):
                    _interchange(_perfect_nest(loop), order)


def _outermost(block: Block) -> list[affine.ForOp]:
    return [op for op in block.ops if isinstance(op, affine.ForOp)]


def _perfect_nest(loop: affine.ForOp) -> list[affine.ForOp]:
    """The loop and those that it alone contains, from the outside in."""
    nest = [loop]
    while (inner := sole_inner_loop(nest[-1])) is not None and is_parallel(inner):
        nest.append(inner)
    return nest


def _interchange(nest: list[affine.ForOp], order: list[str]) -> None:
    """Permute the loops that `order` names among the places that they hold."""
    names = [loop_name(loop) for loop in nest]
    places = [i for i, name in enumerate(names) if name in order]
    wanted = sorted((names[i] for i in places), key=order.index)
    if [names[i] for i in places] == wanted:
        return
    if not all(is_parallel(nest[i]) for i in places):
        raise KaokenError(f"order({', '.join(order)}) would move a reduction: it must stay inside")
    sources = [nest[names.index(name)] for name in wanted]
    headers = [_Header.of(loop) for loop in sources]
    uses = [list(induction_variable(loop).uses) for loop in sources]
    for place, header, used in zip(places, headers, uses, strict=True):
        header.put_on(nest[place])
        for use in used:
            use.operation.operands[use.index] = induction_variable(nest[place])


@dataclass(frozen=True)
class _Header:
    """All of a loop but its body."""

    bounds: tuple[SSAValue, ...]
    properties: dict[str, Attribute]
    attributes: dict[str, Attribute]
    name_hint: str | None

    @staticmethod
    def of(loop: affine.ForOp) -> _Header:
        index = induction_variable(loop)
        return _Header(
            tuple(loop.operands), dict(loop.properties), dict(loop.attributes), index.name_hint
        )

    def put_on(self, loop: affine.ForOp) -> None:
        loop.operands = self.bounds
        loop.properties = self.properties
        loop.attributes = self.attributes
        induction_variable(loop).name_hint = self.name_hint
