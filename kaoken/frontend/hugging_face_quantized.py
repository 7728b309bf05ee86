"""Hugging Face folders whose weights are of few bits.

transformers builds the architecture; linear layers that the folder's convention speaks of are
`QuantizedLinear`s before weights are loaded, and get theirs from the files afterwards, as codes.
So no package besides transformers is needed, and no weight becomes float32 on the way. torch and
transformers are imported at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils.quantization_config import QuantizationConfigMixin

from kaoken.errors import KaokenError
from kaoken.frontend.checkpoint_quantization import Convention
from kaoken.frontend.quantized_linear import QuantizedLinear, RowNorm

_METHOD = "kaoken"
_NETWORKS = {"bitllama": "llama"}
"""Types of models that transformers lacks, and the ones whose network they have."""
_NOT_OF_THE_NETWORK = ("model_type", "architectures", "quantization_config", "transformers_version")


def load_quantized(
    loader: Any, path: Path, config: Mapping[str, Any], convention: Convention, files: list[Path]
) -> tuple[nn.Module, list[str]]:
    """The model of a folder, by a class of transformers, and which plain weights the folder lacks.

    Raises KaokenError where a quantised layer is missing in `files`, or is not as the convention
    says.
    """
    model, report = loader.from_pretrained(
        path,
        config=_network_config(path, config),
        quantization_config=_LeaveOut(convention),  # pyright: ignore[reportArgumentType]
        local_files_only=True,
        dtype="float32",
        output_loading_info=True,
    )
    with ExitStack() as stack:
        stored = _Stored(files, stack, f"{model.base_model_prefix}.")
        for name, module in model.named_modules():
            if isinstance(module, QuantizedLinear):
                _fill(module, name, convention, stored)
    return model, sorted(report["missing_keys"])


def _network_config(path: Path, config: Mapping[str, Any]) -> Any:
    """transformers' config of the architecture, without a word on quantisation."""
    kind = config["model_type"]
    if kind not in CONFIG_MAPPING and kind in _NETWORKS:
        fields = {k: v for k, v in config.items() if k not in _NOT_OF_THE_NETWORK}
        return AutoConfig.for_model(_NETWORKS[kind], **fields)
    known: Any = AutoConfig.from_pretrained(path, local_files_only=True)
    if hasattr(known, "quantization_config"):
        del known.quantization_config
    return known


class _Stored:
    """The tensors of weights files, each read when it is asked for.

    The files may be those of a model with a head, whose names begin with `prefix`.
    """

    def __init__(self, files: list[Path], stack: ExitStack, prefix: str):
        self._of: dict[str, Any] = {}
        self._prefix = prefix
        for file in files:
            if file.suffix == ".safetensors":
                from safetensors import safe_open

                opened = stack.enter_context(safe_open(file, "pt"))
                self._of |= dict.fromkeys(opened.keys(), opened.get_tensor)
            else:
                tensors = torch.load(file, weights_only=True, mmap=True)
                self._of |= dict.fromkeys(tensors, tensors.__getitem__)

    def __getitem__(self, key: str) -> torch.Tensor:
        stored = key if key in self._of else self._prefix + key
        if stored not in self._of:
            raise KaokenError(
                f'there is no "{key}" in the weights, though config.json says that the layer is '
                "quantised"
            )
        return self._of[stored](stored)


def _fill(layer: QuantizedLinear, name: str, convention: Convention, stored: _Stored) -> None:
    tensors = {part: stored[f"{name}.{part}"] for part in convention.parts}
    try:
        weight = convention.read(tensors, (layer.out_features, layer.in_features))
    except KaokenError as error:
        raise KaokenError(f'the weight "{name}.weight" cannot be read: {error}') from None
    layer.fill(weight)
    if convention.scaled_bias and layer.bias is not None:
        with torch.no_grad():
            layer.bias.mul_(tensors["weight_scale"].float())


# ---- between building and loading, in transformers ----


@register_quantization_config(_METHOD)
class _LeaveOut(QuantizationConfigMixin):
    """Tells transformers to leave layers to kaoken."""

    def __init__(self, convention: Convention):
        super().__init__(_METHOD)  # pyright: ignore[reportArgumentType]
        self.convention = convention


@register_quantizer(_METHOD)
class _Quantizer(HfQuantizer):
    """Replaces the layers before weights are loaded."""

    is_trainable = False  # pyright: ignore

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        convention: Convention = self.quantization_config.convention  # pyright: ignore
        for name, layer in list(_quantised_layers(model, convention)):
            model.set_submodule(name, _replacement(layer, convention))
        for name, _ in list(model.named_modules()):
            if name.rpartition(".")[2] in convention.without:
                model.set_submodule(name, nn.Identity())

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        self.remove_quantization_config(model)
        return model

    def is_serializable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        return False


def _quantised_layers(model: Any, convention: Convention) -> Iterator[tuple[str, nn.Linear]]:
    given = None if convention.skipped is None else list(convention.skipped)
    skipped = HfQuantizer.get_modules_to_not_convert(model, given, model._keep_in_fp32_modules)
    for name, module in model.named_modules():
        if convention.modules is not None:
            is_meant = name.rpartition(".")[2] in convention.modules
        else:
            is_meant = should_convert_module(name, skipped)
        if isinstance(module, nn.Linear) and is_meant:
            yield name, module


def _replacement(layer: nn.Linear, convention: Convention) -> QuantizedLinear:
    norm = convention.norm
    module: nn.Module | None = None
    if norm is not None:
        module = LlamaRMSNorm(layer.in_features, norm.eps) if norm.has_gain else RowNorm(norm.eps)
    has_bias = layer.bias is not None
    size = (layer.in_features, layer.out_features)
    return QuantizedLinear(*size, has_bias, convention.rounding, module)
