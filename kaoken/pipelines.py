"""The named pipelines, as plain tuples of passes.

Every pass leaves alone what it has nothing to do with, and applied twice does nothing the second
time. So "run what remains" on a module of any level is to run the whole pipeline.
"""

from __future__ import annotations

from xdsl.passes import ModulePass
from xdsl.transforms.canonicalize import CanonicalizePass

from kaoken.options import CompileOptions
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
from kaoken.passes.observe_zeros import ObserveZerosPass
from kaoken.passes.outline import OutlinePass
from kaoken.passes.panel_inputs import PanelInputsPass
from kaoken.passes.parallelize import ParallelizePass
from kaoken.passes.plan_memory import PlanMemoryPass
from kaoken.passes.prefetch import PrefetchPass
from kaoken.passes.quantize import QuantizePass
from kaoken.passes.reorder import ReorderPass
from kaoken.passes.skip_zeros import SkipZerosPass
from kaoken.passes.softmax_base_two import SoftmaxBaseTwoPass
from kaoken.passes.tabulate import TabulatePass
from kaoken.passes.tensorize import TensorizePass
from kaoken.passes.tile import TilePass
from kaoken.passes.unroll import UnrollPass
from kaoken.passes.vectorize import VectorizePass


def tensor_pipeline(options: CompileOptions) -> tuple[ModulePass, ...]:
    """From L0 to L1: fused ops, packed weights, schedules, equal layers as one function."""
    machine, dtype, schedule = options.machine, options.dtype, options.schedule
    policy = None if options.policy is None else str(options.policy)
    calibration = (
        (CalibratePass(), MigrateScalesPass(target=machine.text)) if dtype == "int8" else ()
    )
    given = () if schedule is None else (ApplySchedulePass(str(schedule), machine.text),)
    return (
        CanonicalizePass(),
        FusePass(),
        *calibration,
        QuantizePass(
            dtype,
            options.group_size,
            options.activations,
            policy,
            target=machine.text,
            budget=options.budget,
        ),
        NarrowCachesPass(dtype=options.kv),
        ObserveZerosPass(density=options.density),
        SoftmaxBaseTwoPass(),
        *given,
        ChooseSchedulePass(target=machine.text),
        SkipZerosPass(),
        TabulatePass(),
        BakePass(),
        OutlinePass(),
        PanelInputsPass(),
    )


def loop_pipeline(options: CompileOptions) -> tuple[ModulePass, ...]:
    """From L1 to L3: loop nests that C has words for, and memory in one arena."""
    return (
        LowerToLoopsPass(),
        TilePass(),
        ReorderPass(),
        TensorizePass(),
        VectorizePass(),
        PrefetchPass(),
        UnrollPass(),
        LowerMathPass(precision=options.math),
        ParallelizePass(threads=options.threads),
        PlanMemoryPass(),
    )


def default_pipeline(options: CompileOptions) -> tuple[ModulePass, ...]:
    """From a frontend's module to one that the C printer prints."""
    tensors, loops = tensor_pipeline(options), loop_pipeline(options)
    if options.profile:
        return (*tensors, AnnotateCostPass(), *loops, InstrumentPass())
    return (*tensors, *loops)
