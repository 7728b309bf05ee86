"""`apply-schedule`: write the schedules of a file on the ops that its rules fit.

With the file

    linear k=768 n=3072 when avx512 {
        panel(64) tile(m, 6) order(n0, m, m_in, n1) vectorize(m_in, n1)
    }

    %y = kaoken.linear %x, %w : tensor<?x768xf32>, tensor<3072x768xf32> -> tensor<?x3072xf32>
->
    %y = kaoken.linear %x, %w {schedule = #kaoken.schedule<panel(64), tile(m, 6),
           order(n0, m, m_in, n1), vectorize(m_in, n1)>} : ...

It comes before choose-schedule, which leaves ops alone that have a schedule, and after fuse. What
the loops of an op cannot do is refused, with the place in the file and the reason. Modules of
loops are left as they are. docs/schedules.md describes the language.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from kaoken.passes.choose_schedule import target_of


@dataclass(frozen=True)
class ApplySchedulePass(ModulePass):
    """Write the schedules of a file on ops."""

    name = "apply-schedule"

    file: str
    """The schedule file, or the text of a schedule: a string with a brace in it."""

    target: str | None = None
    """The target that `when` asks about; by default the module's `kaoken.target`, else this
    machine."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        from kaoken.schedule.apply import apply_schedule
        from kaoken.schedule.parser import read_schedule

        apply_schedule(op, read_schedule(self.file), target_of(op, self.target), ctx)
