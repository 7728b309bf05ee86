"""The `kaoken_loop` dialect: what loop nests need and upstream dialects do not say.

Pointers into the weights file and the arena, the thread team, timers, and comparisons, choices and
conversions of vectors. Loops, memory accesses and other arithmetic are upstream: affine, memref,
vector, arith, math, scf, func. On loops the attribute `kaoken_loop.name` names the loop for
schedules, and `kaoken_loop.kind` says whether its iterations are `parallel` or a `reduction`, whose
order the compiler may change; `kaoken_loop.unroll` how often the C compiler is to unroll it.
"""

from xdsl.ir import Dialect

from kaoken.dialect.kaoken_loop.loops import KIND, NAME, PARALLEL, REDUCTION, UNROLL
from kaoken.dialect.kaoken_loop.memory import PrefetchOp, StateOp, ViewOp, WeightOp
from kaoken.dialect.kaoken_loop.products import (
    BytePart,
    BytePartAttr,
    ContractOp,
    DotKind,
    DotKindAttr,
    DotOp,
    LookupOp,
)
from kaoken.dialect.kaoken_loop.team import (
    BarrierOp,
    NumThreadsOp,
    TeamQueryOp,
    TeamType,
    ThreadIdOp,
)
from kaoken.dialect.kaoken_loop.timers import LapOp, TimersType
from kaoken.dialect.kaoken_loop.vectors import CompareOp, ConvertOp, SelectOp, StepOp

KaokenLoop = Dialect(
    "kaoken_loop",
    [
        WeightOp,
        StateOp,
        ViewOp,
        ThreadIdOp,
        NumThreadsOp,
        BarrierOp,
        LapOp,
        PrefetchOp,
        ConvertOp,
        DotOp,
        LookupOp,
        CompareOp,
        SelectOp,
        StepOp,
        ContractOp,
    ],
    [TeamType, TimersType, BytePartAttr, DotKindAttr],
)
