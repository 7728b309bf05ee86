"""The weights that `bake` makes, until it is known which of them the module still names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count, takewhile

import numpy as np
from xdsl.dialects import arith
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from kaoken.analysis.evaluate import evaluate
from kaoken.dialect.base import KaokenOp
from kaoken.dialect.nn import WeightOp
from kaoken.dtypes import dense_array
from kaoken.weights import store_of


class Workspace:
    """A module's store with new arrays on top; `commit` keeps those that are still named.

    What is only a step on the way (three weights joined, scaled, then packed) is dropped so, and
    its memory with it.
    """

    def __init__(self, module: ModuleOp):
        self._module = module
        self._store = store_of(module)
        self._new: dict[str, np.ndarray] = {}

    def __getitem__(self, key: str) -> np.ndarray:
        return self._new[key] if key in self._new else self._store[key]

    def add(self, key: str, array: np.ndarray) -> str:
        """Keep an array under `key`, or `<key>_2` .. where that names something else already."""
        for i in count(1):
            name = key if i == 1 else f"{key}_{i}"
            if name not in self._new and name not in self._store:
                self._new[name] = np.ascontiguousarray(array)
                return name
            if _same(self[name], array):
                return name
        raise AssertionError

    def value(self, value: SSAValue, sizes: Mapping[str, int] | None = None) -> np.ndarray:
        """The array that a constant value holds, open sizes being those that `sizes` says."""
        return self._value(value, {}, sizes)

    def _value(
        self,
        value: SSAValue,
        known: dict[SSAValue, np.ndarray],
        sizes: Mapping[str, int] | None,
    ) -> np.ndarray:
        if value not in known:
            known[value] = self._compute(value, known, sizes)
        return known[value]

    def _compute(
        self,
        value: SSAValue,
        known: dict[SSAValue, np.ndarray],
        sizes: Mapping[str, int] | None,
    ) -> np.ndarray:
        owner = value.owner
        if isinstance(owner, WeightOp):
            return self[owner.key.data]
        if isinstance(owner, arith.ConstantOp):
            return dense_array(owner.value)
        assert isinstance(owner, KaokenOp)
        return evaluate(owner, [self._value(v, known, sizes) for v in owner.operands], sizes)

    def commit(self) -> None:
        """Put the new arrays that the module names into its store."""
        for op in self._module.walk():
            if isinstance(op, WeightOp) and (array := self._new.get(op.key.data)) is not None:
                self._store.add(op.key.data, array)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return a is b or bool((_bytes(a) == _bytes(b)).all())


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def joined_key(keys: Sequence[str]) -> str:
    """One readable name for several: `a.q.weight`, `a.k.weight` give `a.q_k.weight`."""
    unique = list(dict.fromkeys(keys))
    if len(unique) < 2:
        return unique[0] if unique else "constant"
    split = [key.split(".") for key in unique]
    prefix = _common(zip(*split, strict=False))
    rest = [parts[len(prefix) :] for parts in split]
    suffix = _common(zip(*(parts[::-1] for parts in rest), strict=False))[::-1]
    middles = ["_".join(parts[: len(parts) - len(suffix)]) for parts in rest]
    return ".".join([*prefix, _joined([m for m in middles if m]), *suffix])


def _common(columns: Iterable[tuple[str, ...]]) -> list[str]:
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]


def _joined(parts: list[str]) -> str:
    initials = "".join(part[0] for part in parts)
    if initials in ("qkv", "qk", "kv"):
        return initials
    text = "_".join(parts)
    return text if len(text) <= 40 else f"{parts[0]}_and_{len(parts) - 1}_more"
