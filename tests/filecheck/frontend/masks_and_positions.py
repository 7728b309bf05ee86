# RUN: python %s | filecheck %s
# ruff: noqa: E501
"""Masks and positions that models compute by index arithmetic, as transformers does, end as views."""

import torch

from kaoken.frontend.torch_export import import_module


class Encoder(torch.nn.Module):
    position_ids: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(99, 8)
        self.places = torch.nn.Embedding(32, 8)
        self.fc = torch.nn.Linear(8, 8)
        self.register_buffer("position_ids", torch.arange(32)[None], persistent=False)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, tokens = ids.shape
        x = self.words(ids) + self.places(self.position_ids[:, :tokens])
        rows = torch.arange(batch)[:, None, None, None]
        queries = torch.arange(tokens)[None, None, :, None]
        keys = torch.arange(tokens)[None, None, None, :]
        seen = (queries >= 0) & mask.bool()[rows, keys]
        heads = self.fc(x).view(batch, tokens, 2, 4).transpose(1, 2)
        seen = seen.expand(batch, -1, tokens, tokens)
        y = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, seen)
        return y.transpose(1, 2).reshape(batch, tokens, 8)


sizes = {0: torch.export.Dim("batch", max=8), 1: torch.export.Dim("tokens", max=32)}
ids = torch.ones(2, 5, dtype=torch.int64)
print(import_module(Encoder(), (ids, ids), {}, (sizes, sizes)))

# CHECK:      func.func @main(%ids: tensor<?x?xi64>
# CHECK-NEXT: %[[WORDS:.*]] = kaoken.weight "words.weight" : tensor<99x8xf32>
# CHECK-NEXT: %[[A:.*]] = kaoken.embedding %[[WORDS]], %ids : tensor<99x8xf32>, tensor<?x?xi64> -> tensor<?x?x8xf32>
# CHECK-NEXT: %[[PLACES:.*]] = kaoken.weight "places.weight" : tensor<32x8xf32>
# CHECK-NEXT: %[[FIRST:.*]] = kaoken.slice %[[PLACES]] <[0, tokens]> {dim = 0 : i64} : tensor<32x8xf32> -> tensor<?x8xf32>
# CHECK-NEXT: %[[X:.*]] = kaoken.elementwise add %[[A]], %[[FIRST]] : tensor<?x?x8xf32>, tensor<?x8xf32> -> tensor<?x?x8xf32>
# CHECK-NEXT: %[[KEEP:.*]] = kaoken.cast %mask : tensor<?x?xi64> -> tensor<?x?xi1>
# CHECK-NEXT: %[[MASK:.*]] = kaoken.reshape %[[KEEP]] to <[batch, 1, 1, tokens]> : tensor<?x?xi1> -> tensor<?x1x1x?xi1>
# CHECK:      %[[H:.*]] = kaoken.linear %[[X]]
# CHECK-NEXT: %[[Y:.*]] = kaoken.attention %[[H]], %[[H]], %[[H]] mask %[[MASK]] : tensor<?x1x1x?xi1> {num_heads = 2 : i64, scale = 5.000000e-01 : f64}
# CHECK-NEXT: func.return %[[Y]] : tensor<?x?x8xf32>
