"""A linear layer whose weight is of few bits, as a torch module that torch.export keeps whole.

    x = torch.ops.kaoken.fake_quantize(x, "bitnet")          -> kaoken.fake_quantize
    w = torch.ops.kaoken.dequantize(codes, scale, ...)       -> kaoken.dequantize
    y = F.linear(x, w, bias)                                 -> kaoken.linear

The two ops have a meaning in torch as well, so that the model runs there too. torch is imported at
once: import this module where a model of torch is at hand.
"""

from __future__ import annotations

import torch
from torch import nn

from kaoken.dialect.attributes import Rounding
from kaoken.dialect.formats import Format
from kaoken.quantized import Quantized, dequantize, round_rows


@torch.library.custom_op("kaoken::fake_quantize", mutates_args=())
def fake_quantize(x: torch.Tensor, rounding: str) -> torch.Tensor:
    """Rows rounded to eight bits and back, as `kaoken.quantized.round_rows` says."""
    steps, scale = round_rows(x.numpy(), Rounding(rounding))
    return torch.from_numpy(steps * scale)


@fake_quantize.register_fake
def _(x: torch.Tensor, rounding: str) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("kaoken::dequantize", mutates_args=())
def dequantize_codes(
    codes: torch.Tensor,
    scale: torch.Tensor,
    minimum: torch.Tensor | None,
    bits: int,
    group: int,
    offset: int,
    step: int,
) -> torch.Tensor:
    """The weight in float32; the numbers are those of a `Format`."""
    least = None if minimum is None else minimum.numpy()
    format_ = Format(bits, group, offset, step)
    return torch.from_numpy(dequantize(codes.numpy(), scale.numpy(), least, format_))


@dequantize_codes.register_fake
def _(codes: torch.Tensor, *_: object) -> torch.Tensor:
    return torch.empty_like(codes, dtype=torch.float32)


class RowNorm(nn.Module):
    """Rows divided by their root mean square, without a gain."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.rms_norm(x, x.shape[-1:], eps=self.eps)


class QuantizedLinear(nn.Module):
    """`linear(round(norm(x)), weight, bias)`; `fill` gives it its weight after it was made.

    Bias and norm are ordinary parameters, which a checkpoint's loader finds under the names `bias`
    and `rms_norm.weight`.
    """

    weight: torch.Tensor
    weight_scale: torch.Tensor
    weight_min: torch.Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        rounding: Rounding | None,
        norm: nn.Module | None,
    ):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.rounding, self.rms_norm = rounding, norm
        self.format: Format | None = None

    def fill(self, weight: Quantized) -> None:
        """Give the layer its weight."""
        self.format = weight.format
        arrays = (weight.codes, weight.scale, weight.minimum)
        for name, array in zip(("weight", "weight_scale", "weight_min"), arrays, strict=True):
            tensor = None if array is None else torch.from_numpy(array)
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert self.format is not None
        if self.rms_norm is not None:
            x = self.rms_norm(x)
        if self.rounding is not None:
            x = torch.ops.kaoken.fake_quantize(x, str(self.rounding))
        f = self.format
        parts = (self.weight, self.weight_scale, self.weight_min)
        weight = torch.ops.kaoken.dequantize(*parts, f.bits, f.group, f.offset, f.step)
        return nn.functional.linear(x, weight, self.bias)
