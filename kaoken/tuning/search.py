"""The search for a faster schedule of one op shape: one kind of change after another.

From the best so far, each kind (`kaoken.tuning.moves`) gives some neighbours. Those that the loop
passes refuse are left out; the others are timed in turns with the best so far, and the fastest
becomes the best. At the end default and best are timed anew, each twice: a gain that is not well
above what rounds, or two copies of the same code, differ by is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from kaoken.backend.machine import TargetMachine
from kaoken.dialect.attributes import ScheduleAttr
from kaoken.dialect.base import tensor_type
from kaoken.dtypes import numpy_dtype
from kaoken.errors import KaokenError
from kaoken.schedule.legality import Judge
from kaoken.tuning.moves import MOVES, Move, neighbours, register_tiles
from kaoken.tuning.shapes import OpShape
from kaoken.tuning.trial import Clock

BATCH = 8
"""Schedules of one trial, besides the best so far."""
BATCH_BYTES = 512 << 20
"""Of the weights that a trial's schedules pack, each its own."""
LEAST_STEP = 0.003
"""A neighbour that is better by less does not become the best."""
LEAST_GAIN = 0.01
"""What is gained in the end must be more than this, and more than noise."""
_MEDIAN_ERROR = 1.2533
"""The standard error of a median, where that of a mean is 1."""

Stop = Callable[[], bool]
"""Whether the time is up."""


@dataclass(frozen=True)
class Found:
    """What became of one shape."""

    shape: OpShape
    schedule: ScheduleAttr
    """The default where nothing was better."""
    speedups: Sequence[float] = ()
    """Time of the default divided by that of the schedule, for each size."""
    seconds: float = 0.0
    """Of one op with the default, summed over the sizes."""
    tried: int = 0
    interrupted: bool = False

    @property
    def improved(self) -> bool:
        return self.schedule != self.shape.default


@dataclass
class Search:
    """The search for one shape. `tried_some` is told when some schedules were timed."""

    shape: OpShape
    clock: Clock
    judge: Judge
    machine: TargetMachine
    trials: int
    least_seconds: float = 0.0
    """Nothing is searched for ops that take less."""
    stop: Stop = lambda: False
    tried_some: Callable[[int], None] = lambda count: None
    best: ScheduleAttr = field(init=False)
    _seen: set[ScheduleAttr] = field(default_factory=set)
    _tried: int = 0
    _seconds: float = 0.0

    def __post_init__(self) -> None:
        self.best = self.shape.default
        self._seen.add(self.best)

    def run(self) -> Found:
        """Search until all kinds of change have been tried, or it is time to stop.

        Ctrl-C ends the search, not the last comparison; a second one raises.
        """
        interrupted = False
        try:
            if self.least_seconds:
                self._note_seconds(self.clock.times(self.shape, [self.best]))
            for move in MOVES if self._seconds >= self.least_seconds else ():
                self._try(move)
        except KeyboardInterrupt:
            interrupted = True
        return self._compared(interrupted)

    def _try(self, move: Move) -> None:
        share = self.trials // 2 if move is register_tiles else self.trials // 8
        left = min(max(1, share), self.trials - self._tried)
        candidates = list(islice(self._legal(move), max(0, left)))
        scores: dict[ScheduleAttr, float] = {}
        try:
            for batch in self._batches(candidates):
                if self.stop():
                    break
                scores |= zip(batch, self._scores(batch), strict=True)
        finally:
            if scores and min(scores.values()) < 1 - LEAST_STEP:
                self.best = min(scores, key=scores.__getitem__)

    def _legal(self, move: Move) -> Iterator[ScheduleAttr]:
        for schedule in neighbours(self.best, move, self.machine):
            if schedule in self._seen or self.stop():
                continue
            if self.shape.refusal(schedule, self.judge) is None:
                yield schedule

    def _batches(self, schedules: list[ScheduleAttr]) -> Iterator[list[ScheduleAttr]]:
        size = max(1, min(BATCH, BATCH_BYTES // max(1, _weight_bytes(self.shape))))
        for start in range(0, len(schedules), size):
            yield schedules[start : start + size]

    def _scores(self, schedules: list[ScheduleAttr]) -> list[float]:
        """Time relative to the best so far; infinite for what does not compile or is wrong."""
        self._seen.update(schedules)
        try:
            times = self.clock.times(self.shape, [self.best, *schedules])
        except KaokenError:
            if len(schedules) == 1:
                return [np.inf]
            return [score for one in schedules for score in self._scores([one])]
        if self.best == self.shape.default:
            self._note_seconds(times)
        self._tried += len(schedules)
        self.tried_some(len(schedules))
        scores = np.exp(np.log(ratios(times)).mean(axis=0))[1:]
        return np.nan_to_num(scores, nan=np.inf).tolist()

    def _note_seconds(self, times: np.ndarray) -> None:
        self._seconds = float(np.median(times[:, :, 0], axis=1).sum())

    def _compared(self, interrupted: bool) -> Found:
        """The best if it is better than the default beyond noise, else the default."""
        default = self.shape.default
        if self.best == default:
            return Found(self.shape, default, (), self._seconds, self._tried, interrupted)
        times = self.clock.times(self.shape, [default, self.best, default, self.best])
        gain, noise = gain_and_noise(np.log(times))
        kept = self.best if gain.mean() > max(LEAST_GAIN, noise) else default
        speedups = np.exp(gain).tolist()
        return Found(self.shape, kept, speedups, self._seconds, self._tried, interrupted)


def gain_and_noise(logs: np.ndarray) -> tuple[np.ndarray, float]:
    """What was gained in each size, and the least mean gain that is none by chance.

    `logs` are logarithms of times, [sizes, rounds, (old, new, old, new)]. Chance is three times the
    standard error of the medians, or twice what the two copies of the same code differ by.
    """
    gains = (logs[:, :, 0] + logs[:, :, 2] - logs[:, :, 1] - logs[:, :, 3]) / 2
    errors = _MEDIAN_ERROR * gains.std(axis=1) / np.sqrt(gains.shape[1])
    copies = np.median(logs[:, :, 2:] - logs[:, :, :2], axis=1).mean(axis=0)
    chance = 3 * float(np.sqrt((errors**2).sum())) / len(gains)
    return np.median(gains, axis=1), max(chance, 2 * float(np.abs(copies).max()))


def ratios(times: np.ndarray) -> np.ndarray:
    """[sizes, schedules]: the median over the rounds of the time relative to the first schedule's.

    Within a round, so that what slows the whole machine for a while does not count.
    """
    return np.median(times / times[:, :, :1], axis=1)


def _weight_bytes(shape: OpShape) -> int:
    types = [tensor_type(v) for v in shape.part.op.operands]
    sizes = [t for t in types if all(size > 0 for size in t.get_shape())]
    return sum(int(np.prod(t.get_shape())) * numpy_dtype(t.element_type).itemsize for t in sizes)
