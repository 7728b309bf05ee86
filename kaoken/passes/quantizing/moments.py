"""What sample inputs show of the layers that are to be rounded: second moments of their inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from xdsl.dialects.builtin import ModuleOp, f32
from xdsl.ir import Block, SSAValue

from kaoken.analysis.constants import is_constant
from kaoken.calibration import Moments, Observer, Samples
from kaoken.dialect.base import tensor_type
from kaoken.dialect.nn import LinearOp
from kaoken.passes.quantizing.few_bits import stored_format

_MOST_BYTES = 1 << 30
"""Of moments at a time; where a model's are more, the samples run again for each part of them."""


def input_moments(
    module: ModuleOp, blocks: Iterable[Block], samples: Samples
) -> dict[SSAValue, np.ndarray]:
    """For each weight [N, K] that holds floats the mean products of its inputs' channels, [K, K].

    Weights that no sample reached are left out. Raises KaokenError for samples that do not fit.
    """
    readers: dict[SSAValue, list[SSAValue]] = {}
    for op in (op for block in blocks for op in block.ops):
        if isinstance(op, LinearOp) and _is_plain(op):
            readers.setdefault(op.input, []).append(op.weight)
    found: dict[SSAValue, np.ndarray] = {}
    for part in _parts(readers):
        for value, seen in Observer(part, Moments.of).run(module, samples).items():
            for weight in readers[value]:
                found[weight] = found.get(weight, 0) + seen.mean
    return found


def _is_plain(op: LinearOp) -> bool:
    if op.is_packed or op.format is not None or tensor_type(op.input).element_type != f32:
        return False
    return is_constant(op.weight) and stored_format(op.weight) is None


def _parts(values: Iterable[SSAValue]) -> Iterator[list[SSAValue]]:
    """The values in turns whose moments fit into memory together."""
    part: list[SSAValue] = []
    total = 0
    for value in values:
        size = 4 * tensor_type(value).get_shape()[-1] ** 2
        if part and total + size > _MOST_BYTES:
            yield part
            part, total = [], 0
        part.append(value)
        total += size
    if part:
        yield part
