"""The threads that run a call together: which one this is, and waiting for each other."""

from __future__ import annotations

from xdsl.dialects.builtin import IndexType
from xdsl.ir import ParametrizedAttribute, SSAValue, TypeAttribute
from xdsl.irdl import (
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    result_def,
    traits_def,
)
from xdsl.traits import Pure


@irdl_attr_definition
class TeamType(ParametrizedAttribute, TypeAttribute):
    """The threads that run a call together; each of them executes the whole program (SPMD)."""

    name = "kaoken_loop.team"


class TeamQueryOp(IRDLOperation):
    """A number that the team knows."""

    team = operand_def(TeamType())
    result = result_def(IndexType())

    traits = traits_def(Pure())
    assembly_format = "$team attr-dict"

    def __init__(self, team: SSAValue):
        super().__init__(operands=[team], result_types=[IndexType()])


@irdl_op_definition
class ThreadIdOp(TeamQueryOp):
    """Which member of the team runs this: 0 .. num_threads - 1."""

    name = "kaoken_loop.thread_id"


@irdl_op_definition
class NumThreadsOp(TeamQueryOp):
    """How many members the team has."""

    name = "kaoken_loop.num_threads"


@irdl_op_definition
class BarrierOp(IRDLOperation):
    """No member goes on before all have come here; what they wrote is then seen by all."""

    name = "kaoken_loop.barrier"

    team = operand_def(TeamType())

    assembly_format = "$team attr-dict"

    def __init__(self, team: SSAValue):
        super().__init__(operands=[team])
