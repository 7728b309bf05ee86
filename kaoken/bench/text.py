"""Inputs for a model that is given as a .mlir."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kaoken.dialect.dims import Dim
from kaoken.errors import KaokenError


def text_inputs(manifest: Mapping[str, Any], batch: int, tokens: int) -> dict[str, np.ndarray]:
    """Random inputs of a compiled model: floats are normal, integers are 1.

    The symbols called batch and tokens get those sizes, any other its declared maximum. Raises
    KaokenError when a size is over its maximum.
    """
    limits: Mapping[str, int] = manifest["symbols"]
    sizes = {**limits, "batch": batch, "tokens": tokens}
    for name, limit in limits.items():
        if sizes[name] > limit:
            raise KaokenError(f"{name} is {sizes[name]}, but the model says at most {limit}")
    return random_inputs(manifest, sizes)


def random_inputs(manifest: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Inputs of a compiled model with these sizes of symbols: floats are normal, integers are 1."""
    generator = np.random.default_rng(0)
    inputs: dict[str, np.ndarray] = {}
    for entry in manifest["inputs"]:
        shape = [Dim.of(size).evaluate(sizes) for size in entry["shape"]]
        if entry["dtype"].startswith("float"):
            inputs[entry["name"]] = generator.standard_normal(shape).astype(entry["dtype"])
        else:
            inputs[entry["name"]] = np.ones(shape, entry["dtype"])
    return inputs
