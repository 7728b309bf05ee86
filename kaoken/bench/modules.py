"""PyTorch modules that are timed and that no library has as such. Imports torch."""

from __future__ import annotations

from typing import Any

import torch


class SelfAttention(torch.nn.Module):
    """GPT-2's size of attention on [rows, 768], without a mask: projections and all."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = torch.nn.Linear(768, 3 * 768)
        self.out = torch.nn.Linear(768, 768)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(input).split(768, dim=-1)
        q, k, v = (p.view(-1, 12, 64).transpose(0, 1)[None] for p in parts)
        heads = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(heads[0].transpose(0, 1).reshape(-1, 768))


class ViTLayers(torch.nn.Module):
    """A vision transformer's layers and last norm on [batch, tokens, hidden]: no patches."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.config = model.config
        self.layers, self.layernorm = model.layers, model.layernorm

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            input = layer(input)
        return self.layernorm(input)
