"""Rotary positions of transformers' models whose angles depend on how long the text is.

LongRoPE (Phi-3; Ding et al., arXiv 2402.13753) has two sets of frequencies, one for texts within
the length that the model was first trained on, one for longer ones. transformers changes over when
a text grows beyond, and computes all keys again. kaoken takes the set of the context's length for
all of its texts, as llama.cpp and vLLM do: keys that are computed stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaoken.errors import KaokenError

if TYPE_CHECKING:
    import torch


def settle_rotary(path: Path, model: torch.nn.Module, capacity: int) -> None:
    """Let a model have one set of frequencies, that for contexts of `capacity` tokens.

    Raises KaokenError for `dynamic` scaling beyond the first length, of which there is no such set.
    """
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        by_layer = kinds if isinstance(kinds, dict) else {None: kinds}
        for layer, kind in by_layer.items():
            if kind == "longrope":
                _settle(module, layer, capacity)
    for rope in _rope_parameters(model.config):
        longest = _first_length(rope, model.config)
        if rope.get("rope_type") == "dynamic" and capacity > longest:
            raise KaokenError(
                f"{path} has rotary positions of the type 'dynamic', which change beyond {longest} "
                f"tokens: use --max-tokens {longest} or less"
            )


def long_factors_notes(config: Any, capacity: int) -> list[str]:
    """What the user should know of a context that has the frequencies of long texts."""
    longropes = [r for r in _rope_parameters(config) if r.get("rope_type") == "longrope"]
    shorter = {length for r in longropes if capacity > (length := _first_length(r, config))}
    return [
        f"contexts of {capacity} tokens have the frequencies of long texts: for those of texts of "
        f"up to {longest} tokens compile with --max-tokens {longest}"
        for longest in shorter
    ]


def _settle(module: Any, layer: str | None, capacity: int) -> None:
    """Make one rotary module a plain one with the frequencies for `capacity` tokens."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    name = "inv_freq" if layer is None else f"{layer}_inv_freq"
    frequencies, _ = ROPE_INIT_FUNCTIONS["longrope"](
        module.config, "cpu", seq_len=capacity, layer_type=layer
    )
    getattr(module, name).copy_(frequencies)
    if layer is None:
        module.rope_type = "default"
    else:
        module.rope_type = {**module.rope_type, layer: "default"}


def _first_length(rope: Mapping[str, Any], config: Any) -> int:
    """The tokens up to which the angles are those of the model's first training."""
    name = "original_max_position_embeddings"
    return rope.get(name) or getattr(config, name, None) or config.max_position_embeddings


def _rope_parameters(config: Any) -> list[Mapping[str, Any]]:
    """The settings of rotary positions, one for each type of layer where they differ."""
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if not isinstance(given, Mapping):
        return []
    inner = [value for value in given.values() if isinstance(value, Mapping)]
    return inner or [given]
