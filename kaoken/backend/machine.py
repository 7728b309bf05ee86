"""The machine that code is made for: a target, its extra features and its caches."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from kaoken.backend.targets import all_targets
from kaoken.backend.targets.base import Feature, MatrixUnit, TargetDescription
from kaoken.errors import KaokenError

COMMON_FLAGS = (
    "-std=gnu11",
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-fwrapv",
)
"""For every target. No contraction: where an fma is meant the code says so. Integers wrap, as in
the IR."""

LINE_BYTES = 64
"""Of the cache, on every CPU that there is a target for."""

_GENERIC_LANES = 1
_SIZE = r"(\d+)([KM]?)"
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20}


@dataclass(frozen=True)
class TargetMachine:
    """A CPU to compile for. Sizes in bytes; `vector_bytes` is 0 when no SIMD is assumed."""

    description: TargetDescription
    features: tuple[str, ...] = ()
    l1_bytes: int = field(default=0, compare=False)
    l2_bytes: int = field(default=0, compare=False)
    l3_bytes: int = field(default=0, compare=False)

    @staticmethod
    def parse(text: str) -> TargetMachine:
        """`generic`, `x86-64-v3`, `x86-64-v4+vnni+bf16`, `x86-64-v4+l1=48K+l2=2M` or `native`.

        Raises KaokenError, which lists what is known, for another name or feature.
        """
        if text == "native":
            return TargetMachine.native()
        name, *additions = text.split("+")
        caches = dict(_cache(text, word) for word in additions if "=" in word)
        features = [word for word in additions if "=" not in word]
        targets = all_targets()
        if name not in targets:
            known = ", ".join([*targets, "native"])
            raise KaokenError(f"unknown target '{name}'; known targets: {known}")
        for feature in features:
            if feature not in targets[name].features:
                known = ", ".join(targets[name].features) or "none"
                raise KaokenError(
                    f"target {name} has no feature '{feature}'; known features: {known}"
                )
        return _make(targets[name], features, caches)

    @staticmethod
    def native() -> TargetMachine:
        """The best target that this CPU can run, with the features and caches it has."""
        return _native()

    @property
    def name(self) -> str:
        """What code needs to run: `x86-64-v4+vnni`, as `parse` reads it."""
        return "+".join((self.description.name, *self.features))

    @property
    def text(self) -> str:
        """The name, and the caches that are not the target's usual ones, as `parse` reads them."""
        usual = self.description
        sizes = (
            ("l1", self.l1_bytes, usual.l1_bytes),
            ("l2", self.l2_bytes, usual.l2_bytes),
            ("l3", self.l3_bytes, usual.l3_bytes),
        )
        unusual = (f"{cache}={_size_text(size)}" for cache, size, other in sizes if size != other)
        return "+".join((self.name, *unusual))

    def runs_here(self) -> bool:
        """Whether this CPU has all it takes, and the system lets this process use it."""
        features = (self.description.features[name] for name in self.features)
        flags = cpu_flags()
        return _runs(self.description, flags) and all(_has(flags, f) for f in features)

    @property
    def vector_bytes(self) -> int:
        return self.description.vector_bytes

    @property
    def vector_registers(self) -> int:
        return self.description.vector_registers

    @property
    def instructions(self) -> Mapping[str, str]:
        """Operation to C template; see `kaoken.backend.targets.base`."""
        entries = dict(self.description.instructions)
        for feature in self.features:
            entries |= self.description.features[feature].instructions
        return entries

    def cost(self, entry: str) -> float:
        """How long an entry of `instructions` keeps the CPU busy, in fma's of f32."""
        costs = dict(self.description.costs)
        for feature in self.features:
            costs |= self.description.features[feature].costs
        return costs.get(entry, 1.0)

    @property
    def has_quick_bf16(self) -> bool:
        """Whether products of bf16 take less time than those of f32."""
        return self.matrix_unit is not None or self.cost("dot.bf16") < 2.0

    @property
    def has_quick_bytes(self) -> bool:
        """Whether products of ui8 and i8 are as quick as those of ui8 and seven bits."""
        is_quick = self.cost("dot.ui8_i8") <= self.cost("dot.ui8_i7")
        return self.matrix_unit is not None or is_quick

    @property
    def matrix_unit(self) -> MatrixUnit | None:
        """The unit that multiplies tiles, where there is one."""
        units = (self.description.features[feature].matrix_unit for feature in self.features)
        return next((unit for unit in units if unit is not None), None)

    @property
    def lane_count(self) -> int:
        """The elements of one C register, of whatever type: as many as there are floats."""
        return self.vector_bytes // 4 or _GENERIC_LANES

    def lanes(self, element_bits: int = 32) -> int:
        """How many elements of that width fill one register; 1 without SIMD."""
        return self.vector_bytes * 8 // element_bits or _GENERIC_LANES

    @property
    def cpu_flags(self) -> tuple[str, ...]:
        """What /proc/cpuinfo must list for the code to run; checked at load."""
        extra = [f for name in self.features for f in self.description.features[name].cpu_flags]
        return (*self.description.cpu_flags, *extra)

    def compiler_flags(self, family: str = "gcc") -> tuple[str, ...]:
        """Flags for a compiler of the family `gcc`, `clang` or `zig`.

        Raises KaokenError for another family.
        """
        if family not in ("gcc", "clang", "zig"):
            raise KaokenError(f"unknown compiler family '{family}'; known: gcc, clang, zig")
        features = (self.description.features[name] for name in self.features)
        extra = [flag for feature in features for flag in feature.compiler_flags]
        return (*COMMON_FLAGS, *self.description.compiler_flags.get(family, ()), *extra)


def cpu_flags() -> frozenset[str]:
    """What this CPU can do, in the words of /proc/cpuinfo; empty where there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(match.group(1).split()) if match else frozenset()


@cache
def _native() -> TargetMachine:
    flags = cpu_flags()
    fitting = [t for t in all_targets().values() if _runs(t, flags)]
    best = max(fitting, key=lambda target: target.rank)
    features = [n for n, f in best.features.items() if _has(flags, f) and f.suits()]
    return _make(best, features, _cache_sizes())


def _runs(target: TargetDescription, flags: frozenset[str]) -> bool:
    return target.architecture in ("", platform.machine()) and flags.issuperset(target.cpu_flags)


def _has(flags: frozenset[str], feature: Feature) -> bool:
    return flags.issuperset(feature.cpu_flags) and feature.is_granted()


def _make(
    target: TargetDescription, features: Iterable[str], caches: Mapping[int, int] | None = None
) -> TargetMachine:
    sizes = {1: target.l1_bytes, 2: target.l2_bytes, 3: target.l3_bytes} | dict(caches or {})
    ordered = tuple(name for name in target.features if name in set(features))
    return TargetMachine(target, ordered, sizes[1], sizes[2], sizes[3])


def _cache(target: str, word: str) -> tuple[int, int]:
    """The level and bytes of a cache, written `l2=2M`. Raises KaokenError."""
    match = re.fullmatch(rf"l([123])={_SIZE}", word)
    if match is None:
        raise KaokenError(
            f"target '{target}': '{word}' is no cache; write l1=, l2= or l3= and a size such as 48K"
        )
    return int(match[1]), _bytes(match[2], match[3])


def _bytes(number: str, unit: str) -> int:
    return int(number) * _UNITS[unit]


def _size_text(size: int) -> str:
    """The same the other way round."""
    unit = next(unit for unit in ("M", "K", "") if size % _UNITS[unit] == 0)
    return f"{size // _UNITS[unit]}{unit}"


def _cache_sizes() -> dict[int, int]:
    """Bytes of the data caches by level, as far as /sys tells them."""
    sizes: dict[int, int] = {}
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            kind = (folder / "type").read_text().strip()
            level = int((folder / "level").read_text())
            match = re.fullmatch(_SIZE, (folder / "size").read_text().strip())
        except (OSError, ValueError):
            continue
        if kind != "Instruction" and match:
            sizes[level] = _bytes(match[1], match[2])
    return sizes
