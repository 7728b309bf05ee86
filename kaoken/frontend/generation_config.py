"""How a model says it wants to generate: end tokens and defaults, recorded in `kaoken.generation`.

    attributes {kaoken.generation = {capacity = 2048, end_tokens = [2],
                                     defaults = {do_sample = true, temperature = 0.6 : f64}}}

A Hugging Face folder says it in generation_config.json, else in config.json; a GGUF file in its
`general.sampling` fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xdsl.dialects.builtin import ArrayAttr, BoolAttr, DictionaryAttr, FloatAttr, ModuleOp, f64
from xdsl.ir import Attribute

from kaoken.dialect.attributes import int_attr
from kaoken.dialect.generation import GENERATION
from kaoken.json_files import read_json
from kaoken.modules import add_notes

RECORDED = (
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "max_new_tokens",
    "max_length",
    "min_new_tokens",
    "min_length",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "num_beams",
    "length_penalty",
    "early_stopping",
    "pad_token_id",
)
"""What a package remembers of a generation_config, besides the end tokens."""

_UNKNOWN = (
    "diversity_penalty",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "guidance_scale",
    "penalty_alpha",
    "prompt_lookup_num_tokens",
    "renormalize_logits",
    "sequence_bias",
    "stop_strings",
    "top_h",
    "typical_p",
)
"""What changes which tokens transformers chooses, and kaoken has not."""
_FORCED = ("forced_bos_token_id", "forced_eos_token_id")
"""What older folders have in config.json."""
_NEUTRAL = (None, 0, 1, [], {})

_GGUF = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}


def generation_attribute(
    capacity: int, end_tokens: Sequence[int], defaults: Mapping[str, Any] | None = None
) -> DictionaryAttr:
    """`kaoken.generation` of a module whose contexts hold `capacity` tokens."""
    values: dict[str, Attribute] = {
        "capacity": int_attr(capacity),
        "end_tokens": ArrayAttr([int_attr(token) for token in end_tokens]),
    }
    if defaults:
        values["defaults"] = DictionaryAttr({k: _attribute(v) for k, v in defaults.items()})
    return DictionaryAttr(values)


def _attribute(value: Any) -> Attribute:
    if isinstance(value, list | tuple):
        return ArrayAttr([_attribute(item) for item in value])
    if isinstance(value, bool):
        return BoolAttr.from_bool(value)
    return int_attr(value) if isinstance(value, int) else FloatAttr(float(value), f64)


def record_generation(module: ModuleOp, folder: Path, model: Any, capacity: int) -> None:
    """Note on the module of a folder's model how it generates; `model` is that of transformers."""
    ends, defaults = of_folder(folder)
    ends = ends or tokens_of(model, "eos_token_id")
    for name in _FORCED:
        if forced := tokens_of(model, name):
            defaults[name] = forced[0] if len(forced) == 1 else list(forced)
    module.attributes[GENERATION] = generation_attribute(capacity, ends, defaults)
    add_notes(module, notes_of_folder(folder))


def tokens_of(model: Any, name: str) -> tuple[int, ...]:
    """A setting of the generation_config, or else of the config: a token, several, or none."""
    for source in (getattr(model, "generation_config", None), model.config):
        if (found := getattr(source, name, None)) is not None:
            return (found,) if isinstance(found, int) else tuple(found)
    return ()


def of_folder(folder: Path) -> tuple[tuple[int, ...], dict[str, Any]]:
    """A Hugging Face folder's end tokens (all of a list) and defaults."""
    config = read_json(folder / "config.json") or {}
    own = read_json(folder / "generation_config.json") or {}
    ends = own.get("eos_token_id", config.get("eos_token_id"))
    ends = [] if ends is None else [ends] if isinstance(ends, int) else ends
    return tuple(dict.fromkeys(map(int, ends))), _recorded(own)


def notes_of_folder(folder: Path) -> list[str]:
    """What the folder asks of `generate` and kaoken has not, in a sentence."""
    own = read_json(folder / "generation_config.json") or {}
    unknown = [name for name in _UNKNOWN if own.get(name) not in _NEUTRAL]
    return [f"generation_config.json: {', '.join(unknown)} are not followed"] if unknown else []


def of_gguf(get: Callable[[str], Any]) -> dict[str, Any]:
    """The defaults of a GGUF file, of which `get` gives a field or None."""
    found = {name: get(f"general.sampling.{key}") for key, name in _GGUF.items()}
    found = {name: value for name, value in found.items() if value is not None}
    if found.get("temperature") == 0:
        return {}
    return found and {"do_sample": True, **found}


def _recorded(config: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: config[name] for name in RECORDED if config.get(name) is not None}
    return {n: v for n, v in found.items() if _is_plain(v)}


def _is_plain(value: Any) -> bool:
    """Whether it is a number, or lists of them."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float)
