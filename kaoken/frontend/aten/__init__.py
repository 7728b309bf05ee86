"""aten ops as `kaoken` ops: one builder function for each, by the names torch gives them."""

from kaoken.frontend.aten import (
    arithmetic,
    attention,
    convolution,
    creation,
    indexing,
    layers,
    movement,
    quantized,
    reductions,
)
from kaoken.frontend.aten.registry import Importer, find_builder

__all__ = [
    "Importer",
    "arithmetic",
    "attention",
    "convolution",
    "creation",
    "find_builder",
    "indexing",
    "layers",
    "movement",
    "quantized",
    "reductions",
]
