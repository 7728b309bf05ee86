"""What a Hugging Face encoder reads, and with which sizes: texts, images, or both."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaoken.errors import KaokenError
from kaoken.json_files import read_json

if TYPE_CHECKING:
    import torch

Inputs = dict[str, Any]


def example_inputs(
    path: Path, model: torch.nn.Module, max_batch: int, max_tokens: int
) -> tuple[Inputs, Inputs]:
    """Example inputs of a folder's model, and their open sizes as torch.export takes them.

    `input_ids` and `attention_mask` are [batch, tokens], both open. `pixel_values` are
    [batch, channels, height, width] of the folder's own image size, batch open; beside texts it
    is called `images`. Raises KaokenError when the model reads neither, and when nothing in the
    folder says how large its images are.
    """
    names = inspect.signature(model.forward).parameters
    # Newer image models take an attention_mask too, of patches.
    kinds = ("input_ids", "attention_mask") if "input_ids" in names else ()
    texts = [name for name in kinds if name in names]
    inputs, open_ = _texts(texts, model.config, max_batch, max_tokens) if texts else ({}, {})
    # Models that read images into a text (or do without) take texts alone, as two towers do not.
    if "pixel_values" in names and (not texts or hasattr(model, "get_text_features")):
        batch = _open("images" if texts else "batch", max_batch)
        inputs["pixel_values"] = _image(path, model.config, min(2, max_batch))
        open_["pixel_values"] = {} if batch is None else {0: batch}
    if not inputs:
        raise KaokenError(
            f"it reads {getattr(model, 'main_input_name', 'inputs of another kind')}, and a folder "
            "is compiled for texts and images alone: "
            "give kaoken.compile the module and example inputs"
        )
    return inputs, open_


def _texts(names: list[str], config: Any, max_batch: int, max_tokens: int) -> tuple[Inputs, Inputs]:
    import torch

    sizes = (_open("batch", max_batch), _open("tokens", max_tokens))
    open_ = {i: dim for i, dim in enumerate(sizes) if dim is not None}
    shape = min(2, max_batch), min(7, max_tokens)
    ids = torch.full(shape, _plain_token(text_config(config)))
    values = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {name: values[name] for name in names}, dict.fromkeys(names, open_)


def _open(name: str, limit: int) -> Any:
    """An open size, or None where there is only one."""
    import torch

    return torch.export.Dim(name, max=limit) if limit > 1 else None


def text_config(config: Any) -> Any:
    """What a config says about texts: a model of texts and images has a part for each."""
    return getattr(config, "text_config", None) or config


def _plain_token(config: Any) -> int:
    """A token that is not padding."""
    padding = getattr(config, "pad_token_id", None)
    return 2 if padding in (0, 1) else 1


def _image(path: Path, config: Any, batch: int) -> torch.Tensor:
    import torch

    vision = getattr(config, "vision_config", None) or config
    size = _processor_size(path) or _height_and_width(getattr(vision, "image_size", None))
    if size is None:
        raise KaokenError(
            "nothing says how large its images are: put its preprocessor_config.json there, or "
            "give kaoken.compile the module and example images"
        )
    return torch.zeros(batch, getattr(vision, "num_channels", 3), *size)


def _processor_size(path: Path) -> tuple[int, int] | None:
    """The size of images after the folder's own preprocessing."""
    config = read_json(path / "preprocessor_config.json")
    if config is None:
        return None
    crop = config.get("crop_size") if config.get("do_center_crop", True) else None
    return _height_and_width(crop) or _height_and_width(config.get("size"))


def _height_and_width(size: Any) -> tuple[int, int] | None:
    """One number, two, or a dict, as configs write a size; None where it leaves one open."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict):
        size = [size.get("height"), size.get("width")]
    if isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(n, int) for n in size):
        return size[0], size[1]
    return None
