"""`kaoken.tune`: a schedule file for a model, tuned on this CPU."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.transforms.canonicalize import CanonicalizePass

from kaoken.backend.machine import TargetMachine
from kaoken.errors import KaokenError
from kaoken.modules import write_text
from kaoken.options import CompileOptions
from kaoken.passes.choose_schedule import ChooseSchedulePass
from kaoken.passes.fuse import FusePass
from kaoken.passes.quantize import QuantizePass
from kaoken.pinning import pinned
from kaoken.schedule.legality import Judge
from kaoken.tuning.search import Found, Search
from kaoken.tuning.shapes import OpShape, op_shapes
from kaoken.tuning.trial import Clock, MachineClock
from kaoken.universe import make_context

if TYPE_CHECKING:
    pass

TOKENS = (16, 128)
TRIALS = 48
SECONDS = 600.0
_TRIAL_SECONDS = 0.2
_SMALL_SHARE = 0.02
"""Ops besides matrix products are tuned where they take at least this share of the time."""


@dataclass(frozen=True)
class TuneOptions:
    """What to tune for, and how long."""

    compiling: CompileOptions = field(default_factory=lambda: CompileOptions(dtype="f32"))
    tokens: Sequence[int] = TOKENS
    """Each schedule is timed for one text of each of these lengths."""
    trials: int = TRIALS
    """The most schedules of one op shape."""
    seconds: float = SECONDS
    """The most that it may take; what is begun is ended."""

    def __post_init__(self) -> None:
        if not self.tokens or min(self.tokens) < 1:
            raise KaokenError("tokens must be one number or more, each at least 1")
        if self.trials < 1 or self.seconds <= 0:
            raise KaokenError("trials and seconds must be more than 0")


class Watcher:
    """Is told how the search goes on; this one keeps silent."""

    def begin(self, shapes: Sequence[OpShape], trials: int) -> None:
        """Before the first shape."""

    def shape(self, shape: OpShape) -> None:
        """A shape's search begins."""

    def tried(self, count: int) -> None:
        """So many more schedules of it were timed."""

    def found(self, found: Found) -> None:
        """A shape's search ended."""


def tune(
    module: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    target: str = "native",
    dtype: str = "f32",
    threads: int = 1,
    tokens: Sequence[int] = TOKENS,
    trials: int = TRIALS,
    seconds: float = SECONDS,
    out: str | Path | None = None,
    cc: str | None = None,
) -> str:
    """Search for schedules that are faster than kaoken's own; the text of a schedule file.

    The model is given as to `kaoken.compile`, whose `schedule` takes the result, as text or as the
    file `out`. Options are those of `TuneOptions`. Raises KaokenError.
    """
    from kaoken.compiler import import_model

    compiling = CompileOptions(target, dtype, threads, cc=cc)
    options = TuneOptions(compiling, tokens, trials, seconds)
    model = import_model(module, args, kwargs, dynamic_shapes=dynamic_shapes)
    text = tuned_schedule(model, options)
    if out is not None:
        write_text(out, text)
    return text


def tuned_schedule(
    module: ModuleOp,
    options: TuneOptions,
    watcher: Watcher | None = None,
    clock: Clock | None = None,
) -> str:
    """The schedule file for an imported module, which this changes. `clock` is for tests."""
    compiling, context = options.compiling, make_context()
    machine = compiling.machine
    for one in _scheduled(machine, compiling.dtype):
        one.apply(context, module)
    judge = Judge(context, machine)
    clock = clock or MachineClock(context, compiling, options.tokens, _TRIAL_SECONDS)
    with pinned(compiling.threads):
        found = _search(op_shapes(module, judge), clock, judge, machine, options, watcher)
    return schedule_text(found, machine, options)


def _scheduled(machine: TargetMachine, dtype: str) -> tuple[ModulePass, ...]:
    """The passes up to where schedules are applied."""
    return (
        CanonicalizePass(),
        FusePass(),
        QuantizePass(dtype=dtype, target=machine.text),
        ChooseSchedulePass(target=machine.text),
    )


def _search(
    shapes: Sequence[OpShape],
    clock: Clock,
    judge: Judge,
    machine: TargetMachine,
    options: TuneOptions,
    watcher: Watcher | None,
) -> list[Found]:
    """One shape after the other, each with its part of the time that is left."""
    watcher = watcher or Watcher()
    watcher.begin(shapes, options.trials)
    end, total = time.monotonic() + options.seconds, 0.0
    results: list[Found] = []
    for i, shape in enumerate(shapes):
        now = time.monotonic()
        if now >= end:
            break
        watcher.shape(shape)
        until = now + (end - now) / _shapes_left(shapes[i:])
        least = 0.0 if shape.is_product else _SMALL_SHARE * total / len(shape.parts)
        search = Search(
            shape, clock, judge, machine, options.trials, least, _passed(until), watcher.tried
        )
        results.append(search.run())
        total += results[-1].seconds * len(shape.parts)
        watcher.found(results[-1])
        if results[-1].interrupted:
            break
    return results


def _shapes_left(shapes: Sequence[OpShape]) -> int:
    """Those that are worth their time: row ops share that of one."""
    products = sum(shape.is_product for shape in shapes)
    return products + (products < len(shapes))


def _passed(until: float) -> Callable[[], bool]:
    return lambda: time.monotonic() >= until


# ---- the file ----


def schedule_text(found: Sequence[Found], machine: TargetMachine, options: TuneOptions) -> str:
    """A rule for each shape that gained, with what it gained as a comment."""
    tokens = " and ".join(map(str, options.tokens))
    compiling = options.compiling
    plural = "s" if compiling.threads > 1 else ""
    head = [
        f"# Tuned by `kaoken tune` on {_cpu_name()}: {machine.name}, {compiling.dtype}, "
        f"{compiling.threads} thread{plural}, texts of {tokens} tokens.",
        "# Each rule says how many times as fast as kaoken's own schedule it was.",
    ]
    rules = [_rule(one, machine, options) for one in found if one.improved]
    if not rules:
        head[1] = "# Nothing was faster than kaoken's own schedules."
    return "\n".join([*head, "", *rules])


def _rule(found: Found, machine: TargetMachine, options: TuneOptions) -> str:
    gains = ", ".join(
        f"{speedup:.2f} at {tokens}"
        for speedup, tokens in zip(found.speedups, options.tokens, strict=True)
    )
    condition = " and ".join(machine.name.split("+"))
    lines = [f"# {gains} tokens; {found.tried} tried", f"{found.shape.head} when {condition} {{"]
    for directive in found.schedule.data:
        wish = "try " if directive in found.shape.wishes else ""
        lines.append(f"    {wish}{directive}")
    return "\n".join([*lines, "}", ""])


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
