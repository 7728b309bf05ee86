"""What the machine could do at most, measured by a small C program (probe.c) between the turns.

No call can take less time than its operations at the peak rate of its precision, nor less than
reading its weights, inputs and outputs once: from a mapping of the same kind as its weights' and of
the size of all, which may fit a cache. The longer of the two is the call's bound.
"""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kaoken.backend.cache import cache_directory, content_key, copy_file
from kaoken.backend.machine import TargetMachine
from kaoken.backend.package import HUGE_PAGE_BYTES
from kaoken.backend.toolchain import find_compiler, run_compiler
from kaoken.errors import KaokenError
from kaoken.pinning import pinned

SOURCE = Path(__file__).parent / "probe.c"
MAPPINGS = ("anonymous", "huge", "file")
_SMALLEST = 4096
_ARITHMETIC = {"int4": "int8", "ternary": "int8"}
"""What is computed in where it is not what weights are kept in."""


@dataclass
class Limits:
    """Rates by figure: operations a second by precision, bytes a second by mapping and size."""

    rates: dict[str, list[float]] = field(default_factory=dict)
    """One value a round; a key is `fp32`, `bf16_tiles` (of a matrix unit) or `file 154389504`."""

    def peak(self, precision: str) -> float | None:
        """Operations a second, of vector instructions or of a matrix unit, whichever are more.

        None where the CPU has neither.
        """
        name = _ARITHMETIC.get(precision, precision)
        found = (self.median(key) for key in (name, f"{name}_tiles"))
        return max((rate for rate in found if rate is not None), default=None)

    def bandwidth(self, mapping: str, bytes_moved: int) -> float | None:
        return self.median(f"{mapping} {_rounded(bytes_moved)}")

    def bound(
        self,
        precision: str,
        flops: float | None,
        bytes_moved: int,
        mapping: str,
        read_size: int | None = None,
    ) -> float | None:
        """The least seconds that a call can take; None where that is not known.

        `read_size` is how many bytes the probe read over and over, by default as many as move.
        """
        peak = self.peak(precision)
        bandwidth = self.bandwidth(mapping, bytes_moved if read_size is None else read_size)
        if flops is None or peak is None or bandwidth is None:
            return None
        return max(flops / peak, bytes_moved / bandwidth)

    def median(self, key: str) -> float | None:
        return statistics.median(self.rates[key]) if key in self.rates else None


class Probe:
    """The C program, built for a target, with a file to map."""

    def __init__(self, target: str, folder: Path, sizes: Iterable[int]):
        self._program = build_probe(target)
        self._sizes = sorted({_rounded(size) for size in sizes})
        self._file = folder / "probe.data"
        with self._file.open("wb") as file:
            for _ in range(0, max(self._sizes, default=0), HUGE_PAGE_BYTES):
                file.write(bytes(HUGE_PAGE_BYTES))  # as weights are written, so on equal pages

    def measure(self, limits: Limits, threads: int, seconds: float) -> None:
        """Add one value to each figure; every figure takes `seconds`."""
        words = [self._program, str(threads), str(seconds), self._file, *map(str, self._sizes)]
        with pinned(threads):
            result = subprocess.run(words, capture_output=True, text=True)
        if result.returncode != 0:
            raise KaokenError(f"the probe of this machine's limits failed: {result.stderr.strip()}")
        for line in result.stdout.splitlines():
            name, size, rate = line.split()
            limits.rates.setdefault(f"{name} {size}" if size != "0" else name, []).append(
                float(rate)
            )


def _rounded(size: int) -> int:
    """A size that the probe reads: whole pages for each of many threads."""
    return max(_SMALLEST, size // _SMALLEST * _SMALLEST)


def build_probe(target: str) -> Path:
    """The program for a target's instructions, compiled once. Raises KaokenError."""
    compiler, machine = find_compiler(), TargetMachine.parse(target)
    flags = (*machine.compiler_flags(compiler.family), "-pthread")
    key = content_key([str(compiler), *flags, SOURCE.read_bytes()])
    known = cache_directory("probes") / key
    if not known.exists():
        draft = known.with_suffix(f".{os.getpid()}")
        run_compiler([*compiler.command, *flags, str(SOURCE), "-o", str(draft)])
        copy_file(draft, known)
        draft.unlink()
    known.chmod(0o755)
    return known
