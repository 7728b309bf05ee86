"""Hugging Face folders of causal language models, as an L0 module that generates text.

transformers builds the model, torch.export exports it for whole texts without a cache, and
`add-caches` makes of it a model that goes on where it left off. So an architecture needs no code of
its own here: what its layers compute is recognised as in any other model.
"""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdsl.dialects.builtin import ModuleOp

from kaoken.errors import KaokenError
from kaoken.frontend.generation_config import record_generation
from kaoken.frontend.hugging_face import (
    errors_name_model,
    folder_head,
    load_folder_model,
    name_of_folder,
    position_limit,
    read_config,
)
from kaoken.frontend.hugging_face_experts import compute_all_experts
from kaoken.frontend.hugging_face_rotary import long_factors_notes, settle_rotary
from kaoken.frontend.recognise import recognise
from kaoken.frontend.torch_export import import_module
from kaoken.modules import add_notes
from kaoken.passes.add_caches import add_caches
from kaoken.passes.assume_unpadded import assume_unpadded

if TYPE_CHECKING:
    import torch

_CAUSAL = ("ForCausalLM", "LMHeadModel")
"""How transformers' classes of causal language models end."""


def is_causal_folder(path: Path) -> bool:
    """Whether a folder holds a model that continues texts, and is not meant to embed them."""
    config = read_config(path)
    names = config.get("architectures") or [""]
    if config.get("is_encoder_decoder") or not str(names[0]).endswith(_CAUSAL):
        return False
    return folder_head(path) == "none"


def import_decoder_folder(path: str | Path, max_tokens: int, name: str | None = None) -> ModuleOp:
    """The model in a folder, for texts of up to `max_tokens` tokens, prompt and answer together.

    `max_tokens` is lowered to the positions that the model has. Raises KaokenError when the folder,
    its config or its weights are missing or broken, transformers does not know the architecture,
    or tokens meet elsewhere than in causal attention.
    """
    path = Path(path)
    config = read_config(path)
    model: Any = load_folder_model(path, config, "AutoModelForCausalLM")
    capacity = min(max_tokens, position_limit(model.config))
    if capacity < 2:
        raise KaokenError("a text has a prompt and an answer: max_tokens is at least 2")
    settle_rotary(path, model, capacity)
    with errors_name_model(path, config):
        refuse_other_states(model)
        compute_all_experts(model)
        module = _import(model, name or name_of_folder(path), capacity)
        record_generation(module, path, model, capacity)
        add_notes(module, long_factors_notes(model.config, capacity))
        if assume_unpadded(module, getattr(model.config, "pad_token_id", None)):
            recognise(module)
        add_caches(module)
    return module


def refuse_other_states(model: torch.nn.Module) -> None:
    """Raise KaokenError for what no keys and values hold, before torch fails on it in its words."""
    if any(name.endswith(".sinks") for name, _ in model.named_parameters()):
        raise KaokenError("its attention has sinks (a score of no token), which kaoken has not")
    if getattr(model, "_is_stateful", False):
        raise KaokenError(
            "its layers keep a state of another kind than keys and values (state spaces, linear "
            "attention, recurrences), which kaoken has not"
        )


def _import(model: Any, name: str, capacity: int) -> ModuleOp:
    import torch

    tokens = torch.export.Dim("tokens", max=capacity)
    ids = torch.ones((1, min(7, capacity)), dtype=torch.int64)
    inputs: dict[str, Any] = {"input_ids": ids}
    shapes: dict[str, Any] = {"input_ids": {1: tokens}}
    model.config.use_cache = False
    if "use_cache" in signature(model.forward).parameters:
        inputs["use_cache"], shapes["use_cache"] = False, None
    return import_module(model, (), inputs, shapes, name)
