"""Targets: one file per instruction set, found by being in this folder."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from kaoken.backend.targets.base import TargetDescription


@cache
def all_targets() -> dict[str, TargetDescription]:
    """Every target by name: the `TARGET` of each module of this package."""
    modules = (import_module(f"{__name__}.{info.name}") for info in iter_modules(__path__))
    found = [module.TARGET for module in modules if hasattr(module, "TARGET")]
    return {target.name: target for target in sorted(found, key=lambda t: t.rank)}
