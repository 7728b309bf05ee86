"""What rounding one weight does to a model's outputs, from runs of the model on samples.

Texts that a decoder goes on with: the mean Kullback-Leibler divergence of its guesses from those of
the weights as they are. All other models: one minus the cosine of each row of their outputs. Both
grow with the square of what changes in the outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from kaoken.analysis.tied import identity
from kaoken.calibration import Observing, Samples, run_sample
from kaoken.dialect.generation import GENERATION
from kaoken.dialect.reference.results import Array

_TOKENS = 128
"""Of samples so many numbers are enough to tell weights apart."""


class Effects:
    """Runs of a module with single weights replaced."""

    def __init__(self, module: ModuleOp, samples: Samples | None):
        self._module, self._samples = module, samples
        self._is_decoder = GENERATION in module.attributes

    @property
    def are_measured(self) -> bool:
        """Whether there are samples."""
        return self._samples is not None and len(self._samples.inputs) > 0

    def progress(self, done: int, count: int) -> None:
        """Tell how many weights are done."""
        if self._samples is not None:
            self._samples.progress(done, count)

    def of(self, weight: SSAValue, array: Array) -> float:
        """What another array [N, K] for a weight changes in the outputs."""
        found = self._outputs({identity(weight): array})
        differ = _divergence if self._is_decoder else _angle
        changes = [differ(a, b) for a, b in zip(self._plain, found, strict=True)]
        return float(np.mean(np.concatenate(changes))) if changes else 1.0

    @cached_property
    def _plain(self) -> list[Array]:
        return self._outputs({})

    @cached_property
    def _inputs(self) -> list[Sequence[Array]]:
        """A few samples; the first tokens alone of a text that is longer than needed."""
        assert self._samples is not None
        if self._is_decoder:
            return [[array[..., :_TOKENS] for array in self._samples.inputs[0]]]
        kept: list[Sequence[Array]] = []
        for inputs in self._samples.inputs:
            kept.append(inputs)
            if sum(one[0].size for one in kept) >= _TOKENS:
                break
        return kept

    def _outputs(self, instead: dict[object, Array]) -> list[Array]:
        """Rows [rows, C] of each output of floats of each sample."""
        found: list[Array] = []
        for inputs in self._inputs:
            outputs = run_sample(
                self._module,
                inputs,
                lambda sizes, caches: Observing({}, sizes, caches, instead),
                outputs=inputs[0].shape[-1],
            )
            found += [y.reshape(-1, y.shape[-1]) for y in outputs if y.dtype.kind == "f" and y.ndim]
        return found


def _divergence(wanted: Array, found: Array) -> Array:
    """sum of p log(p / q) of each row of logits."""
    p, q = (_log_softmax(logits) for logits in (wanted, found))
    return (np.exp(p) * (p - q)).sum(1)


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def _angle(wanted: Array, found: Array) -> Array:
    """One minus the cosine of each row."""
    a, b = wanted.astype(np.float64), found.astype(np.float64)
    sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return 1 - (a * b).sum(1) / np.where(sizes == 0, 1, sizes)
