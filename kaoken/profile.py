"""How long each op of a compiled model takes: what `CompiledModel.profile` gives.

The model itself takes the times, with a clock in each thread (`kaoken/passes/instrument.py`), so
that they add up to the time of the whole call. Needs numpy alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kaoken.dialect.dims import Dim
from kaoken.errors import KaokenError

if TYPE_CHECKING:
    from kaoken.backend.loader import Context

FEWEST_RUNS = 5


@dataclass(frozen=True)
class OpTime:
    """One call of a kernel, in one call of the model. A layer's kernels count all its copies."""

    kernel: str
    """The C function; its name says the op and its sizes."""
    caller: str
    """The C function that calls it: `main`, or that of a repeated layer."""
    precision: str
    calls: int
    seconds: float
    """Of the calling thread: it works and waits that long. The median of all runs."""
    waited: float
    """How much of that the threads wait for each other, on the average."""
    flops: int
    bytes: int

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.flops / self.seconds if self.seconds else 0.0

    @property
    def bandwidth(self) -> float:
        """Bytes a second, as if each operand were read once."""
        return self.bytes / self.seconds if self.seconds else 0.0

    @property
    def intensity(self) -> float:
        """Operations on each byte."""
        return self.flops / self.bytes if self.bytes else 0.0


def measure_ops(
    run: Callable[[], Any], context: Context, threads: int, sizes: Mapping[str, int], seconds: float
) -> list[OpTime]:
    """Run for that long, and read the timers of `context` after each run.

    Raises KaokenError when the model was compiled without timers.
    """
    library = context.library
    described = library.manifest.get("timers")
    if not described:
        raise KaokenError(
            f"{library.name} has no timers: compile it with profile=True (`--profile`)"
        )
    run()
    runs: list[np.ndarray] = []
    end = time.perf_counter() + seconds
    while len(runs) < FEWEST_RUNS or time.perf_counter() < end:
        library.reset_timers(context.handle)
        run()
        runs.append(np.stack([library.read_timers(context.handle, t) for t in range(threads)]))
    return _op_times(described, np.stack(runs), sizes)


def _op_times(
    described: Sequence[Mapping[str, str]], values: np.ndarray, sizes: Mapping[str, int]
) -> list[OpTime]:
    """`values` is [runs, threads, timers, 3]."""
    calls, worked, waited = (values[..., i] for i in range(3))
    seconds = np.median(worked[:, 0] + waited[:, 0], axis=0) * 1e-9
    idle = np.median(waited.mean(axis=1), axis=0) * 1e-9
    found: list[OpTime] = []
    for i, timer in enumerate(described):
        count = int(calls[0, 0, i])
        flops, moved = (count * _number(timer.get(key, "0"), sizes) for key in ("flops", "bytes"))
        precision = timer.get("precision", "fp32")
        names = (timer["kernel"], timer["caller"], precision)
        found.append(OpTime(*names, count, float(seconds[i]), float(idle[i]), flops, moved))
    return found


def _number(text: str, sizes: Mapping[str, int]) -> int:
    return Dim.of(int(text) if text.isdigit() else text).evaluate(sizes)
