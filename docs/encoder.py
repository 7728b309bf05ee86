"""The model of docs/levels.md: an encoder of two equal layers, 32 features, 2 heads.

python docs/encoder.py encoder.pt2      # exports it, with 1 to 64 tokens left open
"""

import sys

import torch
from torch.nn import functional


class Layer(torch.nn.Module):
    """Attention and a feed-forward block, each with a residual sum and a norm."""

    def __init__(self, features: int = 32, heads: int = 2):
        super().__init__()
        self.heads = heads
        self.query = torch.nn.Linear(features, features)
        self.key = torch.nn.Linear(features, features)
        self.value = torch.nn.Linear(features, features)
        self.out = torch.nn.Linear(features, features)
        self.norm1 = torch.nn.LayerNorm(features)
        self.up = torch.nn.Linear(features, 2 * features)
        self.down = torch.nn.Linear(2 * features, features)
        self.norm2 = torch.nn.LayerNorm(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        split = (*x.shape[:2], self.heads, -1)
        q, k, v = (f(x).view(split).transpose(1, 2) for f in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = self.norm1(x + self.out(mixed))
        return self.norm2(x + self.down(functional.gelu(self.up(x))))


def encoder() -> torch.nn.Module:
    """Random weights, the same at every call."""
    torch.manual_seed(0)
    return torch.nn.Sequential(Layer(), Layer()).eval()


def exported() -> torch.export.ExportedProgram:
    """The encoder with 1 to 64 tokens."""
    tokens = torch.export.Dim("tokens", max=64)
    return torch.export.export(encoder(), (torch.zeros(1, 8, 32),), dynamic_shapes=({1: tokens},))


if __name__ == "__main__":
    torch.export.save(exported(), sys.argv[1])
