"""The output format `schedule` of kaoken-opt: `kaoken-opt model.mlir -t schedule`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.target import Target


@dataclass(frozen=True)
class ScheduleTarget(Target):
    """The schedules of a module's ops, as a file for `apply-schedule`."""

    name = "schedule"

    target: str | None = None
    """The machine; by default the module's `kaoken.target`, else this one."""

    choose: bool = True
    """Whether to run canonicalize, fuse and choose-schedule first, for ops without a schedule."""

    def emit(self, ctx: Context, module: ModuleOp, output: IO[str]) -> None:
        from xdsl.transforms.canonicalize import CanonicalizePass

        from kaoken.passes.choose_schedule import ChooseSchedulePass, target_of
        from kaoken.passes.fuse import FusePass
        from kaoken.schedule.printing import print_schedules

        if self.choose:
            for step in (CanonicalizePass(), FusePass(), ChooseSchedulePass(self.target)):
                step.apply(ctx, module)
        output.write(print_schedules(module, target_of(module, self.target), ctx))
