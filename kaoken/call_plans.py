"""Calls whose inputs have sizes that were checked before, made cheap.

The first call with inputs of some sizes goes through every check by name, and leaves a plan: the
model's open sizes, and the shapes of its outputs. A later call still has each input's kind, type,
shape and memory looked at, which takes a fraction of a microsecond. Whatever is not as a plan
knows it (another dtype, a strided array, a list, an input left out) is no error here: it goes
through the full checks, which copy or refuse it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from ctypes import addressof, c_char
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kaoken.backend.loader import Tensor

MAX_PLANS = 1024
_CONTIGUOUS_ALIGNED = 0x101
"""numpy's flags C_CONTIGUOUS and ALIGNED, as `array.flags.num` holds them."""

_first_byte: Callable[[Any], c_char] = c_char.from_buffer

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What calls with inputs of certain shapes have in common."""

    sizes: tuple[int, ...]
    """The open sizes, in the model's order."""
    outputs: tuple[tuple[int, ...], ...]
    """The shapes of the outputs."""


class Kind(Protocol):
    """numpy arrays or torch tensors."""

    is_torch: bool

    def shapes(self, values: Sequence[Any]) -> Shapes | None:
        """The inputs' shapes, if each is of this kind, of the right type, and usable in place."""
        ...

    def address(self, value: Any) -> int:
        """Where the first element lies."""
        ...

    def outputs(self, plan: Plan) -> list[Any]:
        """New arrays for the outputs."""
        ...


class NumpyKind:
    """Inputs and outputs of one model as numpy arrays."""

    is_torch = False

    def __init__(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]):
        self._inputs = [spec.dtype for spec in inputs]
        self._outputs = [spec.dtype for spec in outputs]

    def shapes(self, values: Sequence[Any]) -> Shapes | None:
        for value, dtype in zip(values, self._inputs, strict=True):
            if type(value) is not np.ndarray or value.dtype != dtype:
                return None
            if value.flags.num & _CONTIGUOUS_ALIGNED != _CONTIGUOUS_ALIGNED:
                return None
        return tuple([value.shape for value in values])

    def address(self, value: np.ndarray) -> int:
        try:
            return addressof(_first_byte(value))
        except (TypeError, ValueError):  # a read-only array, or bf16; four times as slow
            return value.__array_interface__["data"][0]

    def outputs(self, plan: Plan) -> list[np.ndarray]:
        return list(map(np.empty, plan.outputs, self._outputs))


class TorchKind:
    """Inputs and outputs of one model as torch tensors."""

    is_torch = True

    def __init__(self, torch: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]):
        self._tensor, self._empty, self._strided = torch.Tensor, torch.empty, torch.strided
        self._inputs = [(getattr(torch, s.dtype.name), s.dtype.itemsize) for s in inputs]
        self._outputs = [getattr(torch, spec.dtype.name) for spec in outputs]

    def shapes(self, values: Sequence[Any]) -> Shapes | None:
        for value, (dtype, itemsize) in zip(values, self._inputs, strict=True):
            if type(value) is not self._tensor or value.dtype is not dtype:
                return None
            if not value.is_cpu or value.layout is not self._strided or value.is_neg():
                return None
            if not value.is_contiguous() or value.data_ptr() % itemsize:
                return None
        return tuple([value.shape for value in values])

    def address(self, value: Any) -> int:
        return value.data_ptr()

    def outputs(self, plan: Plan) -> list[Any]:
        sized = zip(plan.outputs, self._outputs, strict=True)
        return [self._empty(shape, dtype=dtype) for shape, dtype in sized]


class Plans:
    """The plans of one model by its inputs' shapes. May be used from several threads at once."""

    def __init__(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]):
        self._specs = inputs, outputs
        self._kinds: dict[type, Kind] = {np.ndarray: NumpyKind(inputs, outputs)}
        self._plans: dict[Shapes, Plan] = {}

    def find(self, values: Sequence[Any]) -> tuple[Kind, Plan] | None:
        """The plan for inputs in the model's order, if there is one."""
        if len(values) != len(self._specs[0]) or not values:
            return None
        kind = self._kinds.get(type(values[0])) or self._torch(values[0])
        shapes = None if kind is None else kind.shapes(values)
        plan = None if shapes is None else self._plans.get(shapes)
        return None if kind is None or plan is None else (kind, plan)

    def remember(self, shapes: Shapes, plan: Plan) -> None:
        """Keep what the full checks found."""
        if len(self._plans) >= MAX_PLANS:
            self._plans.clear()
        self._plans[shapes] = plan

    def _torch(self, value: Any) -> Kind | None:
        """The kind of tensors, from the first one on; torch is never imported here."""
        torch = sys.modules.get("torch")
        if torch is None or type(value) is not torch.Tensor:
            return None
        kind = self._kinds[torch.Tensor] = TorchKind(torch, *self._specs)
        return kind
