"""The output format `c` of kaoken-opt: `kaoken-opt model.mlir -t 'c{target=x86-64-v4}'`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.target import Target


@dataclass(frozen=True)
class CTarget(Target):
    """C for a module of any level.

    `kaoken-opt layer.mlir -p lower-to-loops,tile -t 'c{lower=false}'` shows a stage as it is.
    """

    name = "c"

    target: str = "native"
    """The machine: generic, x86-64-v3, x86-64-v4+vnni ... or native."""

    lower: bool = True
    """Whether to run what remains of the default pipeline before printing."""

    threads: int = 1
    """The most threads of one call."""

    def emit(self, ctx: Context, module: ModuleOp, output: IO[str]) -> None:
        from kaoken.backend.c_printer import print_module
        from kaoken.backend.machine import TargetMachine

        machine = TargetMachine.parse(self.target)
        if self.lower:
            from kaoken.options import CompileOptions
            from kaoken.pipelines import default_pipeline

            options = CompileOptions(self.target, "f32", self.threads)
            for step in default_pipeline(options):
                step.apply(ctx, module)
        output.write(print_module(module, machine).code)
