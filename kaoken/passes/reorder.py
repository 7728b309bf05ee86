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
from xdsl.ir import Block
from xdsl.passes import ModulePass

from kaoken.errors import KaokenError
from kaoken.passes.loops import is_parallel, loop_name, scheduled_functions, sole_inner_loop
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
    headers = [_header(loop) for loop in sources]
    old_ivs = [nest[i].body.block.args[0] for i in places]
    _permute_values([nest[i] for i in places], sources, old_ivs)
    for place, header in zip(places, headers, strict=True):
        _set_header(nest[place], header)


def _header(loop: affine.ForOp):
    return (
        list(loop.lowerBoundOperands),
        list(loop.upperBoundOperands),
        dict(loop.properties),
        dict(loop.attributes),
        loop.body.block.args[0].name_hint,
    )


def _set_header(loop: affine.ForOp, header) -> None:
    lower, upper, properties, attributes, hint = header
    loop.operands = [*lower, *upper]
    loop.properties = properties
    loop.attributes = attributes
    loop.body.block.args[0].name_hint = hint


def _permute_values(places, sources, ivs) -> None:
    """Uses of a loop's index become uses of the index of the place that the loop moves to."""
    uses = [[(use.operation, use.index) for use in iv.uses] for iv in ivs]
    for place, source in zip(places, sources, strict=True):
        for operation, index in uses[places.index(source)]:
            operation.operands[index] = place.body.block.args[0]


