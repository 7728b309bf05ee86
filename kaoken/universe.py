"""The one registry: kaoken's dialects, passes and targets by name, with late-importing factories.

The entry point `xdsl.universe` shows it to plain `xdsl-opt` and `xdsl-gui`. kaoken's own tools
build their context from it and xDSL's, so they work from a source checkout as well.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from xdsl.context import Context
from xdsl.ir import Dialect
from xdsl.passes import ModulePass
from xdsl.universe import XDSL_UNIVERSE, Universe
from xdsl.utils.target import Target


def _kaoken() -> Dialect:
    from kaoken.dialect.kaoken import Kaoken

    return Kaoken


def _kaoken_loop() -> Dialect:
    from kaoken.dialect.kaoken_loop import KaokenLoop

    return KaokenLoop


def _c_target() -> type[Target]:
    from kaoken.backend.c_target import CTarget

    return CTarget


def _schedule_target() -> type[Target]:
    from kaoken.schedule.target import ScheduleTarget

    return ScheduleTarget


def _pass(name: str) -> tuple[str, Callable[[], type[ModulePass]]]:
    """Pass `a-b` is class `ABPass` of kaoken/passes/a_b.py."""

    def load() -> type[ModulePass]:
        module = import_module(f"kaoken.passes.{name.replace('-', '_')}")
        return getattr(module, name.title().replace("-", "") + "Pass")

    return name, load


KAOKEN_UNIVERSE = Universe(
    all_dialects={"kaoken": _kaoken, "kaoken_loop": _kaoken_loop},
    all_passes=dict(
        [
            _pass("add-caches"),
            _pass("assume-unpadded"),
            _pass("split-encoder"),
            _pass("batch-sequences"),
            _pass("fuse"),
            _pass("apply-schedule"),
            _pass("calibrate"),
            _pass("migrate-scales"),
            _pass("quantize"),
            _pass("narrow-caches"),
            _pass("observe-zeros"),
            _pass("skip-zeros"),
            _pass("tabulate"),
            _pass("softmax-base-two"),
            _pass("choose-schedule"),
            _pass("bake"),
            _pass("outline"),
            _pass("panel-inputs"),
            _pass("annotate-cost"),
            _pass("lower-to-loops"),
            _pass("reorder"),
            _pass("tile"),
            _pass("tensorize"),
            _pass("vectorize"),
            _pass("prefetch"),
            _pass("unroll"),
            _pass("lower-math"),
            _pass("parallelize"),
            _pass("plan-memory"),
            _pass("instrument"),
        ]
    ),
    all_targets={"c": _c_target, "schedule": _schedule_target},
)

UNIVERSES = (XDSL_UNIVERSE, KAOKEN_UNIVERSE)


def make_context() -> Context:
    """A context that knows all dialects of xDSL and kaoken and loads each when it is met."""
    context = Context()
    for universe in UNIVERSES:
        for name, factory in universe.all_dialects.items():
            context.register_dialect(name, factory)
    return context


def all_passes() -> dict[str, Callable[[], type[ModulePass]]]:
    """Every pass by its name on the command line."""
    return {name: load for universe in UNIVERSES for name, load in universe.all_passes.items()}


def all_targets() -> dict[str, Callable[[], type[Target]]]:
    """Every output format by its name on the command line."""
    return {name: load for universe in UNIVERSES for name, load in universe.all_targets.items()}
