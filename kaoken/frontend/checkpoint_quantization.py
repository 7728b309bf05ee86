"""How checkpoints keep weights of few bits: a table of conventions, read from their config.json.

| quantization_config            | weight                           | a layer gives               |
|--------------------------------|----------------------------------|-----------------------------|
| bitnet, bitlinear              | ui8 [N/4, K]                     | sum / (f * weight_scale)    |
| bitnet, autobitlinear, offline | ui8 [N/4, K], or -1, 0, 1 [N, K] | sum / f * weight_scale      |
| bitnet, autobitlinear, online  | any numbers [N, K]               | sum / f * mean(abs(weight)) |

These are those of transformers.integrations.bitnet. For each row x of inputs f is
127 / max(max(abs(x)), 1e-5), and sums are of integers. Packed bytes hold four weights, each plus 1
in 2 bits: byte [i, k] those of rows i, i + N/4, i + N/2 and i + 3N/4, from the lowest bits on.
Some checkpoints spell out what their layers do under the key `bitlinear` instead; kaoken knows one
such text.

A further kind of checkpoint is a function from its settings to a `Convention`, and a line in
`_METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kaoken.dialect.attributes import Rounding
from kaoken.dialect.formats import Format
from kaoken.errors import KaokenError
from kaoken.quantized import Quantized

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]

TERNARY = Format(2, 0, 1)
"""Codes 0, 1, 2 for -1, 0, 1, and one scale a row."""
_PER_BYTE = 4


@dataclass(frozen=True)
class InputNorm:
    """The root-mean-square norm that a layer begins with."""

    eps: float
    has_gain: bool


@dataclass(frozen=True)
class Convention:
    """How a checkpoint keeps its linear layers, and what these do with their inputs."""

    parts: tuple[str, ...]
    """What the file holds of a layer's weight, behind the layer's name and a dot."""
    read: Callable[[Tensors, tuple[int, int]], Quantized]
    """The weight [N, K] from those parts. Raises KaokenError that says what is wrong with them."""
    rounding: Rounding | None = None
    """How inputs are rounded to eight bits, if they are."""
    norm: InputNorm | None = None
    modules: Sequence[str] | None = None
    """The last names of the layers; by default all but those of `skipped`."""
    skipped: Sequence[str] | None = None
    """Names, as transformers' `modules_to_not_convert`; None: the layer of logits."""
    without: Sequence[str] = ()
    """The last names of modules that transformers' architecture has, and this model has not."""
    scaled_bias: bool = False
    """Whether biases are multiplied by `weight_scale`, too."""


def convention_of(config: Mapping[str, Any]) -> Convention | None:
    """What a config.json says of the weights; None where they are plain, or transformers' to read.

    Raises KaokenError for settings of a known kind that kaoken does not know.
    """
    if isinstance(plain := config.get("bitlinear"), Mapping):
        return _plain_fields(plain, config)
    settings = config.get("quantization_config")
    if not isinstance(settings, Mapping):
        return None
    method = _METHODS.get(str(settings.get("quant_method")))
    return None if method is None else method(settings)


def _chosen(settings: Mapping[str, Any], name: str, default: str, known: Sequence[str]) -> str:
    value = settings.get(name, default)
    if value not in known:
        raise KaokenError(f"it has the {name} {value!r}; kaoken knows {' and '.join(known)}")
    return str(value)


# ---- transformers' BitNet ----


def _bitnet(settings: Mapping[str, Any]) -> Convention:
    kind = _chosen(settings, "linear_class", "bitlinear", ("bitlinear", "autobitlinear"))
    mode = _chosen(settings, "quantization_mode", "offline", ("offline", "online"))
    read, parts, scaled_bias = _packed_divided, ("weight", "weight_scale"), False
    if kind == "autobitlinear" and mode == "offline":
        read, scaled_bias = _ternary_multiplied, True
    elif kind == "autobitlinear":
        read, parts = _rounded, ("weight",)
    eps = settings.get("rms_norm_eps", 1e-6)
    return Convention(
        parts,
        read,
        Rounding.BITNET,
        norm=InputNorm(float(eps), has_gain=True) if settings.get("use_rms_norm") else None,
        skipped=settings.get("modules_to_not_convert"),
        scaled_bias=scaled_bias,
    )


_METHODS: dict[str, Callable[[Mapping[str, Any]], Convention]] = {"bitnet": _bitnet}
"""By `quant_method`."""


def _packed_divided(tensors: Tensors, shape: tuple[int, int]) -> Quantized:
    scale = np.float32(1) / _scale(tensors)
    return _ternary(_unpacked(tensors["weight"], shape), scale)


def _ternary_multiplied(tensors: Tensors, shape: tuple[int, int]) -> Quantized:
    weight, scale = tensors["weight"], _scale(tensors)
    if tuple(weight.shape) != shape:
        return _ternary(_unpacked(weight, shape), scale)
    signs, magnitude = _signs(weight)
    return _ternary(signs, scale * magnitude)


def _rounded(tensors: Tensors, shape: tuple[int, int]) -> Quantized:
    """As transformers' WeightQuant, in the same ops of torch: their sums have the same bits."""
    weight = tensors["weight"].float()
    _expect(weight, shape)
    factor = 1.0 / weight.abs().mean().clamp_(min=1e-5)
    signs = (weight * factor).round().clamp(-1, 1)
    if not bool(signs.isfinite().all()):
        raise KaokenError("it holds NaN or infinity")
    return _ternary(signs.numpy(), (1 / factor).numpy())


def _unpacked(packed: torch.Tensor, shape: tuple[int, int]) -> np.ndarray:
    """The weights -1, 0, 1 of bytes that hold four of them."""
    n, k = shape
    rows = -(-n // _PER_BYTE)
    if tuple(packed.shape) != (rows, k):
        raise KaokenError(
            f"it is {list(packed.shape)}, but a packed layer of {n} x {k} is {[rows, k]}"
        )
    bytes_ = packed.numpy().astype(np.uint8)
    codes = np.concatenate([bytes_ >> np.uint8(2 * i) & np.uint8(3) for i in range(_PER_BYTE)])
    if codes[:n].max(initial=0) > 2:
        raise KaokenError("it holds the code 3, which stands for none of -1, 0 and 1")
    return codes[:n].astype(np.int8) - np.int8(1)


def _signs(weight: torch.Tensor) -> tuple[np.ndarray, np.float32]:
    """Weights -a, 0, a as -1, 0, 1, and a."""
    values = weight.float().numpy()
    magnitude = np.abs(values).max(initial=0)
    if not np.isin(values, (-magnitude, 0, magnitude)).all():
        raise KaokenError("it holds more than one magnitude besides 0: it is not ternary")
    return np.sign(values), np.float32(magnitude or 1)


def _scale(tensors: Tensors) -> np.ndarray:
    """The scale of a tensor [1] or of each row [N], in float32."""
    scale = tensors["weight_scale"].float().numpy().reshape(-1)
    if not np.isfinite(scale).all() or not scale.all():
        raise KaokenError("its weight_scale is 0 or not finite")
    return scale


def _ternary(signs: np.ndarray, scale: np.ndarray) -> Quantized:
    codes = (signs + 1).astype(np.uint8)
    column = np.asarray(scale, np.float32).reshape(-1, 1)
    if len(column) not in (1, len(codes)):
        raise KaokenError(f"its weight_scale has {len(column)} numbers for {len(codes)} rows")
    rows = np.broadcast_to(column, (len(codes), 1))
    return Quantized(TERNARY, np.ascontiguousarray(codes), np.ascontiguousarray(rows))


def _expect(weight: torch.Tensor, shape: tuple[int, int]) -> None:
    if tuple(weight.shape) != shape:
        raise KaokenError(f"it is {list(weight.shape)}, but the layer needs {list(shape)}")


# ---- plain fields ----

_PLAIN = {
    "weight_values": [-1, 0, 1],
    "weight_scale": "per_tensor",
    "weight_scale_op": "multiply",
    "input_norm": "rms_norm",
    "input_bits": 8,
    "input_scheme": "dynamic_per_token_symmetric",
    "input_scale": "absmax/127",
}
"""The only values that these fields may have."""
_LAYER_NORMS = ("input_layernorm", "post_attention_layernorm")


def _plain_fields(settings: Mapping[str, Any], config: Mapping[str, Any]) -> Convention:
    """Semantics spelled out under the key `bitlinear`."""
    for name, value in _PLAIN.items():
        if settings.get(name) != value:
            raise KaokenError(
                f"its bitlinear.{name} is {settings.get(name)!r}; kaoken knows {value!r} alone"
            )
    return Convention(
        ("weight", "weight_scale"),
        _ternary_multiplied,
        Rounding.EXACT,
        norm=InputNorm(
            float(settings.get("input_norm_eps", 0.0)), bool(settings.get("input_norm_weight"))
        ),
        modules=settings.get("modules"),
        without=() if config.get("layer_norms", True) else _LAYER_NORMS,
    )
