"""What can be asked of the compiler, as one value: `CompileOptions`.

`kaoken.compile` and the command line make one of their arguments; from there it goes whole through
the compiler, the pipelines and the package, each of which reads what concerns it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaoken.choices import ACTIVATIONS, DTYPES, FEW_BITS, GROUP_SIZE, KV_TYPES, MATHS, MIXED
from kaoken.errors import KaokenError

if TYPE_CHECKING:
    from kaoken.backend.machine import TargetMachine
    from kaoken.backend.toolchain import Compiler

MOST_SEQUENCES = 8


@dataclass(frozen=True)
class CompileOptions:
    """How a module is made into a package; what it contains follows from the module.

    Raises KaokenError for names and numbers that are none of the choices.
    """

    target: str = "native"
    dtype: str = "auto"
    """What weights become; `auto`: what they are, those of few bits too, others float32."""
    threads: int = 1
    schedule: str | Path | None = None
    cc: str | None = None
    copied_files: Sequence[Path] = ()
    """What the package holds besides: the tokenizer's files."""
    library: bool = True
    """Whether to run the C compiler."""
    profile: bool = False
    """Whether the model is to note how long each of its kernels takes."""
    math: str = "exact"
    """How accurate exponentials are: the precision of `lower-math`."""
    calibrate: Sequence[Mapping[str, Any]] = ()
    """Sample inputs for int8 and few bits, as arrays by the names of @main's arguments."""
    activations: str = "dynamic"
    """Where int8 takes the scales of activations from: each row, or `static`, from the samples."""
    batch: int = 1
    """How many texts a context of a decoder goes on with in one pass."""
    kv: str = "f32"
    """What a model that generates text keeps keys and values as."""
    group_size: int = GROUP_SIZE
    """Few bits: how many weights along K share a scale; 0 for a whole row."""
    density: float | None = None
    """The share of numbers behind a ReLU that is not zero in one row, from 0 to 1: where it is
    small, layers of one row pass over the zeros."""
    policy: str | Path | None = None
    """A file that says what single weights become instead (`passes/quantizing/policy.py`)."""
    budget: str | None = None
    """mixed: bits a weight, `60MB` or `60MB/token`; by default what int4 takes."""

    def __post_init__(self) -> None:
        check_whole(threads=self.threads, batch=self.batch, group_size=self.group_size)
        if self.dtype not in DTYPES:
            raise KaokenError(f"unknown dtype {self.dtype}: choose from {', '.join(DTYPES)}")
        if self.kv not in KV_TYPES:
            raise KaokenError(f"unknown kv {self.kv}: choose from {', '.join(KV_TYPES)}")
        if self.math not in MATHS:
            raise KaokenError(f"unknown math {self.math}: choose from {', '.join(MATHS)}")
        if self.threads < 1:
            raise KaokenError(f"threads is {self.threads}, but must be at least 1")
        if not 1 <= self.batch <= MOST_SEQUENCES:
            raise KaokenError(f"batch is {self.batch}, but must be from 1 to {MOST_SEQUENCES}")
        if self.activations not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise KaokenError(f"unknown activations {self.activations}: choose from {known}")
        if self.density is not None and not 0 <= self.density <= 1:
            raise KaokenError(f"density is {self.density}, but must be a share, from 0 to 1")
        self._check_rounding()

    def _check_rounding(self) -> None:
        if self.calibrate and self.dtype not in ("int8", MIXED, *FEW_BITS):
            raise KaokenError(f"calibration is for dtype int8 and few bits, not {self.dtype}")
        if self.dtype != "int8" and self.activations == "static":
            raise KaokenError(f"static activations are for dtype int8, not {self.dtype}")
        if self.budget is not None and self.dtype != MIXED:
            raise KaokenError(f"a budget is for dtype mixed, not {self.dtype}")
        if self.group_size != GROUP_SIZE and self.dtype not in (*FEW_BITS, MIXED):
            known = ", ".join((*FEW_BITS, MIXED))
            raise KaokenError(f"groups are for {known}, not {self.dtype}")
        if self.activations == "static" and not self.calibrate:
            raise KaokenError("static activations need samples to calibrate with: give some")

    @property
    def machine(self) -> TargetMachine:
        """The target's description; KaokenError when there is no such target."""
        from kaoken.backend.machine import TargetMachine

        return TargetMachine.parse(self.target)

    @property
    def compiler(self) -> Compiler | None:
        """The C compiler, where a library is wanted; KaokenError when there is none."""
        from kaoken.backend.toolchain import find_compiler

        return find_compiler(self.cc) if self.library else None

    def check(self, out: Path | None) -> None:
        """Raise KaokenError for what can be known to be wrong before the work begins."""
        from kaoken.backend.package import check_output

        _ = self.machine
        if out is not None:
            check_output(out)
        _ = self.compiler
        if self.schedule is not None:
            from kaoken.schedule.parser import read_schedule

            read_schedule(self.schedule)
        if self.policy is not None:
            from kaoken.passes.quantizing.policy import Choice, read_policy

            read_policy(self.policy, Choice(self.dtype))
        if self.budget is not None:
            from kaoken.passes.quantizing.widths import Budget

            Budget.parse(self.budget)

    def cache_key(self) -> str:
        """What tells apart the packages that this kaoken makes of one model."""
        from kaoken.backend.cache import compiler_version, content_key
        from kaoken.backend.toolchain import find_compiler

        return content_key(
            [
                compiler_version(),
                self.machine.text,
                f"{self.dtype} {self.math} {self.threads} {self.profile} "
                f"{self.activations} {self.batch} {_digest(self.calibrate)} "
                f"{self.kv} {self.group_size} {self.density} {_text_of(self.schedule)} "
                f"{_text_of(self.policy)} {self.budget}",
                str(find_compiler(self.cc)),
            ]
        )


def check_whole(**numbers: Any) -> None:
    """Raise KaokenError for an option, given by its name, that is no whole number."""
    for name, value in numbers.items():
        if not isinstance(value, Integral):
            raise KaokenError(f"{name} is {value!r}, but must be a whole number")


def _digest(samples: Sequence[Mapping[str, Any]]) -> str:
    """What tells sets of samples apart."""
    import numpy as np

    from kaoken.backend.cache import content_key

    arrays = [(name, np.asarray(s[name])) for s in samples for name in sorted(s)]
    return content_key([f"{name} {a.shape} {a.dtype} {a.tobytes().hex()}" for name, a in arrays])


def _text_of(file: str | Path | None) -> str:
    """What the cache's key says about a schedule or a policy: its text, as far as there is one."""
    if file is None or "{" in str(file) or not Path(file).is_file():
        return str(file)
    return Path(file).read_text()
