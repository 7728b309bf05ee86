"""`tabulate`: multiply by all codes ahead, where the schedule looks products up: `lookup(k)`.

    %y = kaoken.linear %x, %w weight_scale %s {format = #kaoken.format<1 bits, ...>,
         schedule = #kaoken.schedule<..., lookup(k), ...>} : tensor<1x1x514xi32>, ...
->
    %t = kaoken.lookup_tables %x {bits = 1 : i64} : tensor<1x1x514xi32> -> tensor<4096xi32>
    %y = kaoken.linear %x, %w weight_scale %s tables %t : ...

Layers that read the same input share its tables. Sums are exact either way. More rows than one are
multiplied as before.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from kaoken.dialect.attributes import Directive, ScheduleAttr, int_attr
from kaoken.dialect.canonicalization.rules import linear_like
from kaoken.dialect.lookup import LookupTablesOp
from kaoken.dialect.nn import LinearOp

_SCHEDULE = (Directive("vectorize", ("e",)), Directive("parallel", ("m",)))


@dataclass(frozen=True)
class TabulatePass(ModulePass):
    """Give linear layers that look products up the tables."""

    name = "tabulate"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        known: dict[tuple[SSAValue, int, Block | None], SSAValue] = {}
        for layer in [layer for layer in op.walk() if isinstance(layer, LinearOp)]:
            if layer.schedule is None or not layer.schedule.all("lookup"):
                continue
            if layer.tables is None and layer.format is not None:
                _tabulate(layer, layer.format.data.bits, known)


def _tabulate(
    layer: LinearOp, bits: int, known: dict[tuple[SSAValue, int, Block | None], SSAValue]
) -> None:
    key = (layer.input, bits, layer.parent)
    new: list[LookupTablesOp] = []
    if key not in known:
        tables = LookupTablesOp.make([layer.input], {"bits": int_attr(bits)})
        tables.result.name_hint = "tables"
        tables.attributes["schedule"] = ScheduleAttr(_SCHEDULE)
        known[key] = tables.result
        new.append(tables)
    changed = linear_like(layer, layer.result.type, {"tables": known[key]})
    Rewriter.replace_op(layer, [*new, changed], [changed.result])
