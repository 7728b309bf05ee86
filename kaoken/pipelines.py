"""The named pipelines, as plain tuples of passes.

Every pass leaves alone what it has nothing to do with, and applied twice does nothing the second
time. So "run what remains" on a module of any level is to run the whole pipeline.
"""

from __future__ import annotations

from pathlib import Path

from xdsl.passes import ModulePass
from xdsl.transforms.canonicalize import CanonicalizePass

from kaoken.backend.machine import TargetMachine
from kaoken.choices import GROUP_SIZE
from kaoken.passes.annotate_cost import AnnotateCostPass
from kaoken.passes.apply_schedule import ApplySchedulePass
from kaoken.passes.bake import BakePass
from kaoken.passes.calibrate import CalibratePass
from kaoken.passes.choose_schedule import ChooseSchedulePass
from kaoken.passes.fuse import FusePass
from kaoken.passes.instrument import InstrumentPass
from kaoken.passes.lower_math import LowerMathPass
from kaoken.passes.lower_to_loops import LowerToLoopsPass
from kaoken.passes.migrate_scales import MigrateScalesPass
from kaoken.passes.narrow_caches import NarrowCachesPass
from kaoken.passes.outline import OutlinePass
from kaoken.passes.parallelize import ParallelizePass
from kaoken.passes.plan_memory import PlanMemoryPass
from kaoken.passes.prefetch import PrefetchPass
from kaoken.passes.quantize import QuantizePass
from kaoken.passes.reorder import ReorderPass
from kaoken.passes.tensorize import TensorizePass
from kaoken.passes.tile import TilePass
from kaoken.passes.unroll import UnrollPass
from kaoken.passes.vectorize import VectorizePass


def tensor_pipeline(
    machine: TargetMachine,
    dtype: str,
    schedule: str | Path | None = None,
    activations: str = "dynamic",
    kv: str = "f32",
    group_size: int = GROUP_SIZE,
    policy: str | Path | None = None,
) -> tuple[ModulePass, ...]:
    """From L0 to L1: fused ops, packed weights, schedules, equal layers as one function."""
    calibration = (CalibratePass(), MigrateScalesPass()) if dtype == "int8" else ()
    given = () if schedule is None else (ApplySchedulePass(str(schedule), machine.text),)
    return (
        CanonicalizePass(),
        FusePass(),
        *calibration,
        QuantizePass(dtype, group_size, activations, None if policy is None else str(policy)),
        NarrowCachesPass(dtype=kv),
        *given,
        ChooseSchedulePass(target=machine.text),
        BakePass(),
        OutlinePass(),
    )


def loop_pipeline(threads: int, math: str = "exact") -> tuple[ModulePass, ...]:
    """From L1 to L3: loop nests that C has words for, and memory in one arena."""
    return (
        LowerToLoopsPass(),
        TilePass(),
        ReorderPass(),
        TensorizePass(),
        VectorizePass(),
        PrefetchPass(),
        UnrollPass(),
        LowerMathPass(precision=math),
        ParallelizePass(threads=threads),
        PlanMemoryPass(),
    )


def default_pipeline(
    machine: TargetMachine,
    threads: int = 1,
    dtype: str = "f32",
    schedule: str | Path | None = None,
    profile: bool = False,
    math: str = "exact",
    activations: str = "dynamic",
    kv: str = "f32",
    group_size: int = GROUP_SIZE,
    policy: str | Path | None = None,
) -> tuple[ModulePass, ...]:
    """From a frontend's module to one that the C printer prints.

    `schedule` is a schedule file, or the text of one, in place of what kaoken chooses; `profile`
    puts timers around all calls of kernels; `math` is the precision of `lower-math`; `activations`
    is how int8 scales them, `dynamic` or `static`; `kv` is what caches hold: f32, bf16 or int8;
    `group_size` is how many weights of few bits share a scale; `policy` is a file that says what
    single weights become.
    """
    tensors = tensor_pipeline(machine, dtype, schedule, activations, kv, group_size, policy)
    loops = loop_pipeline(threads, math)
    if profile:
        return (*tensors, AnnotateCostPass(), *loops, InstrumentPass())
    return (*tensors, *loops)
