"""Layers written out in elementary operations, as models of their own often have them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput


class LayerNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Any) -> Any:
        mean = x.mean(-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(-1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-5) * self.weight + self.bias


class RmsNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Any) -> Any:
        wide = x.to(torch.float32)
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * scaled.to(x.dtype)


class Gelu(nn.Module):
    def forward(self, x: Any) -> Any:
        return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


class GeluTanh(nn.Module):
    def forward(self, x: Any) -> Any:
        inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))
        return 0.5 * x * (1.0 + torch.tanh(inner))


class Softmax(nn.Module):
    def forward(self, x: Any) -> Any:
        powers = torch.exp(x - x.max(dim=-1, keepdim=True).values)
        return powers / powers.sum(-1, keepdim=True)


class GatedMlp(nn.Module):
    """Llama's: down(silu(gate x) * up x)."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.gate = nn.Linear(width, inner, bias=False)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Any) -> Any:
        gate = self.gate(x)
        return self.down(gate * torch.sigmoid(gate) * self.up(x))


class _Projections(nn.Module):
    """Queries, keys and values in heads, and the way back."""

    def __init__(self, width: int, heads: int, mask: str):
        super().__init__()
        self.heads, self.mask = heads, mask
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def split(self, x: Any) -> tuple[Any, ...]:
        batch, tokens, width = x.shape
        shape = (batch, tokens, self.heads, width // self.heads)
        layers = (self.query, self.key, self.value)
        return tuple(layer(x).view(shape).transpose(1, 2) for layer in layers)

    def join(self, heads: Any, x: Any) -> Any:
        return self.out(heads.transpose(1, 2).reshape(x.shape))


class Attention(_Projections):
    """`mask`: none, causal, or the dtype of a [batch, tokens] argument; a float one is added."""

    def forward(self, x: Any, mask: Any = None) -> Any:
        q, k, v = self.split(x)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if self.mask == "causal":
            hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(hidden, float("-inf"))
        elif self.mask == "float":
            scores = scores + mask[:, None, None, :]
        elif self.mask == "bool":
            scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
        elif mask is not None:
            scores = scores + (1.0 - mask[:, None, None, :].to(scores.dtype)) * -10000.0
        return self.join(torch.softmax(scores, -1) @ v, x)


class FusedAttention(_Projections):
    """PyTorch's own attention."""

    def forward(self, x: Any, mask: Any = None) -> Any:
        q, k, v = self.split(x)
        mask = mask if mask is None else mask[:, None, None, :]
        attend = nn.functional.scaled_dot_product_attention
        return self.join(attend(q, k, v, attn_mask=mask, is_causal=self.mask == "causal"), x)


class Structured(nn.Module):
    """Two layers whose results come in a structure of the given kind."""

    def __init__(self, width: int, kind: str):
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, 2)
        self.kind = kind

    def forward(self, x: Any) -> Any:
        a = self.first(x)
        b = self.second(a)
        structures: dict[str, Any] = {
            "tensor": b,
            "tuple": (a, b),
            "list": [b, a],
            "dict": {"b": b, "a": a},
            "nested": {"pair": (a, b), "sum": [a + x]},
            "dataclass": BaseModelOutput(last_hidden_state=a, hidden_states=(x * 2, b)),  # pyright: ignore[reportArgumentType]
        }
        return structures[self.kind]
