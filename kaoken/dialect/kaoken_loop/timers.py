"""Timers, in a model that notes how long its kernels take."""

from __future__ import annotations

from xdsl.dialects.builtin import IntegerAttr, UnitAttr, i64
from xdsl.ir import ParametrizedAttribute, SSAValue, TypeAttribute
from xdsl.irdl import (
    IRDLOperation,
    ParsePropInAttrDict,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
)


@irdl_attr_definition
class TimersType(ParametrizedAttribute, TypeAttribute):
    """The clock and timers of one thread, in a model that notes how long its kernels take."""

    name = "kaoken_loop.timers"


@irdl_op_definition
class LapOp(IRDLOperation):
    """Add the time since this thread's last lap to a timer: as work, or as time `waited`."""

    name = "kaoken_loop.lap"

    timers = operand_def(TimersType())
    timer = prop_def(IntegerAttr)
    waited = opt_prop_def(UnitAttr)

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$timers attr-dict"

    def __init__(self, timers: SSAValue, timer: int, waited: bool = False):
        super().__init__(
            operands=[timers],
            properties={
                "timer": IntegerAttr(timer, i64),
                "waited": UnitAttr() if waited else None,
            },
        )
