"""A trial: several schedules of one op compiled into one library, and timed in turns.

The library's @main runs the op once with each schedule, so that each call is a round A B C ... on
the same inputs; a timer at each kernel (`instrument`) tells what each schedule took. One run of the
C compiler serves them all.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import DictionaryAttr, IntegerAttr, ModuleOp, StringAttr, i64
from xdsl.passes import ModulePass

from kaoken.analysis.shapes import MAX
from kaoken.backend.loader import Library
from kaoken.backend.machine import TargetMachine
from kaoken.dialect.attributes import ScheduleAttr
from kaoken.dialect.base import KaokenOp
from kaoken.dialect.dims import Dim
from kaoken.options import CompileOptions
from kaoken.passes.annotate_cost import COST, NORM_COST
from kaoken.passes.bake import BakePass
from kaoken.passes.choose_schedule import TARGET
from kaoken.passes.instrument import InstrumentPass
from kaoken.schedule.alone import module_of
from kaoken.tuning.shapes import OpShape

_TRIAL = "trial"
_FEWEST_RUNS = 7
_RTOL, _ATOL = 1e-2, 1e-3
"""bf16 sums may differ by the order of two roundings; a wrong loop differs by far more."""

Sizes = Mapping[str, int]
"""The value of each open size."""


class Clock(Protocol):
    """Says how long schedules of an op take."""

    def times(self, shape: OpShape, schedules: Sequence[ScheduleAttr]) -> np.ndarray:
        """Seconds, float64 [sizes, rounds, schedules]; NaN for a schedule that must not be used."""
        ...


class MachineClock:
    """Times schedules on this CPU, each op alone on random data, at several sizes."""

    def __init__(
        self,
        context: Context,
        options: CompileOptions,
        tokens: Sequence[int],
        seconds: float,
    ):
        self._context, self._options = context, replace(options, target=options.machine.text)
        self._tokens, self._seconds = tokens, seconds
        _ = options.compiler

    def times(self, shape: OpShape, schedules: Sequence[ScheduleAttr]) -> np.ndarray:
        sizes = [shape.sizes(tokens) for tokens in self._tokens]
        with tempfile.TemporaryDirectory(prefix="kaoken-tune-") as folder:
            # The first of a round meets cold caches: a copy takes its place, and does not count.
            placed = [schedules[0], *schedules]
            library = self._build(shape, placed, sizes, Path(folder) / "trial")
            found = [self._run(library, shape, len(placed), one) for one in sizes]
        rounds = min(len(one) for one in found)
        return np.stack([one[:rounds, 1:] for one in found])

    def _build(
        self,
        shape: OpShape,
        schedules: Sequence[ScheduleAttr],
        sizes: Sequence[Sizes],
        folder: Path,
    ) -> Library:
        from kaoken.compiler import write_lowered

        module = module_of(shape.part, schedules, shape.shapes, random_numbers)
        _prepare(module, sizes, self._options.machine)
        for one in _passes(self._options):
            one.apply(self._context, module)
        write_lowered(module, folder, self._options)
        return Library(folder)

    def _run(self, library: Library, shape: OpShape, count: int, sizes: Sizes) -> np.ndarray:
        """[rounds, schedules]."""
        inputs = [_array(spec, sizes) for spec in library.manifest["inputs"]]
        outputs = [np.empty(spec.sizes(sizes), spec.dtype) for spec in library.outputs]
        context = library.create_context(self._options.threads)
        addresses = [a.ctypes.data for a in (*inputs, *outputs)]
        ordered = [sizes[name] for name in library.symbols]
        context.run(addresses, ordered)
        owners = _owners(library.manifest["timers"], shape.part.is_norm)
        rounds: list[np.ndarray] = []
        end = time.perf_counter() + self._seconds
        while len(rounds) < _FEWEST_RUNS or time.perf_counter() < end:
            library.reset_timers(context.handle)
            context.run(addresses, ordered)
            taken = library.read_timers(context.handle, 0)[:, 1:].sum(axis=1)
            rounds.append(np.bincount(owners, taken, count + 1)[:count] * 1e-9)
        found = np.stack(rounds)
        for i, output in enumerate(outputs):
            if not _close(output, outputs[0]):
                found[:, i] = np.nan
        return found


def _passes(options: CompileOptions) -> tuple[ModulePass, ...]:
    """From the one op to C, without the passes that would join it with its likes."""
    from kaoken.pipelines import loop_pipeline

    return (BakePass(), *loop_pipeline(options), InstrumentPass())


def _prepare(module: ModuleOp, sizes: Sequence[Sizes], machine: TargetMachine) -> None:
    """Number the ops, which are in the order of the schedules, and bound the open sizes."""
    module.attributes[TARGET] = StringAttr(machine.text)
    (main,) = module.ops
    declared = main.attributes[MAX]
    assert isinstance(declared, DictionaryAttr)
    largest = {name: max(one[name] for one in sizes) for name in declared.data}
    main.attributes[MAX] = DictionaryAttr({k: IntegerAttr(v, i64) for k, v in largest.items()})
    returned = module.ops.first.body.block.last_op  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    for number, value in enumerate(returned.operands):
        op = value.owner
        assert isinstance(op, KaokenOp)
        op.attributes[COST] = _mark(number, False)
        op.attributes[NORM_COST] = _mark(number, True)


def _mark(number: int, is_norm: bool) -> DictionaryAttr:
    texts = {_TRIAL: str(number), "part": "norm" if is_norm else "op"}
    return DictionaryAttr({key: StringAttr(text) for key, text in texts.items()})


def _owners(timers: Sequence[Mapping[str, str]], is_norm: bool) -> list[int]:
    """Which schedule each timer belongs to; to none where it is of the op's other part."""
    count = 1 + max(int(timer.get(_TRIAL, -1)) for timer in timers)
    part = "norm" if is_norm else "op"
    return [int(t.get(_TRIAL, count)) if t.get("part") == part else count for t in timers]


def random_numbers(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Normal floats, bytes of all values, and ones where integers count or choose."""
    generator = np.random.default_rng(0)
    if dtype.kind in "fV" or dtype.name == "bfloat16":
        return generator.standard_normal(shape, np.float32).astype(dtype)
    if dtype.itemsize == 1 and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return generator.integers(limits.min + 1, limits.max, shape).astype(dtype)
    return np.ones(shape, dtype)


def _array(spec: Mapping[str, Any], sizes: Sizes) -> np.ndarray:
    from kaoken.backend.loader import numpy_type

    shape = [Dim.of(size).evaluate(sizes) for size in spec["shape"]]
    return random_numbers(shape, numpy_type(spec["dtype"]))


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    if a.dtype.kind not in "fV":
        return bool((a == b).all())
    a, b = (x.astype(np.float32) for x in (a, b))
    scale = float(np.abs(b[np.isfinite(b)]).max(initial=1.0))
    return np.allclose(a, b, _RTOL, _ATOL * scale, equal_nan=True)
