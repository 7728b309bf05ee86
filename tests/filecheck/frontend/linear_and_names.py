# RUN: python %s | filecheck %s
# ruff: noqa: E501
"""A module's arguments, open sizes, weights and results keep the names that users gave them."""

import torch

from kaoken.frontend.torch_export import import_module


class Tagger(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(8, 4)
        self.register_buffer("shift", torch.arange(4.0))
        self.register_buffer("factor", torch.tensor(3.0))

    def forward(self, x: torch.Tensor, keep: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.fc(x).relu() * keep.unsqueeze(-1)
        return {"tags": y + self.shift, "best": y.amax(-1) * self.factor}


rows = torch.export.Dim("rows", max=32)
inputs = (torch.zeros(2, 8), torch.ones(2, dtype=torch.int64))
print(import_module(Tagger(), inputs, {}, {"x": {0: rows}, "keep": {0: rows}}))

# CHECK:      kaoken.name = "Tagger"
# CHECK-SAME: kaoken.output_tree =
# CHECK:      func.func @main(%x: tensor<?x8xf32> {kaoken.shape = #kaoken.shape<[rows, 8]>, kaoken.name = "x"}, %keep: tensor<?xi64> {kaoken.shape = #kaoken.shape<[rows]>, kaoken.name = "keep"})
# CHECK-SAME: -> (tensor<?x4xf32>, tensor<?xf32>) attributes {kaoken.max = {rows = 32 : i64}, kaoken.results = ["tags", "best"]}
# CHECK-NEXT: %[[W:.*]] = kaoken.weight "fc.weight" : tensor<4x8xf32>
# CHECK-NEXT: %[[B:.*]] = kaoken.weight "fc.bias" : tensor<4xf32>
# CHECK-NEXT: %[[H:.*]] = kaoken.linear %x, %[[W]] bias %[[B]] : tensor<4xf32> : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
# CHECK-NEXT: %[[R:.*]] = kaoken.relu %[[H]] : tensor<?x4xf32> -> tensor<?x4xf32>
# CHECK-NEXT: %[[C:.*]] = kaoken.reshape %keep to <[rows, 1]> : tensor<?xi64> -> tensor<?x1xi64>
# CHECK-NEXT: %[[K:.*]] = kaoken.cast %[[C]] : tensor<?x1xi64> -> tensor<?x1xf32>
# CHECK-NEXT: %[[Y:.*]] = kaoken.elementwise mul %[[R]], %[[K]] : tensor<?x4xf32>, tensor<?x1xf32> -> tensor<?x4xf32>
# CHECK-NEXT: %[[S:.*]] = kaoken.weight "shift" : tensor<4xf32>
# CHECK-NEXT: %[[T:.*]] = kaoken.elementwise add %[[Y]], %[[S]] : tensor<?x4xf32>, tensor<4xf32> -> tensor<?x4xf32>
# CHECK-NEXT: %[[M:.*]] = kaoken.reduce max %[[Y]] over [1] : tensor<?x4xf32> -> tensor<?xf32>
# CHECK-NEXT: %[[F:.*]] = kaoken.full 3.000000e+00 : f32 to <[]> : tensor<f32>
# CHECK-NEXT: %[[G:.*]] = kaoken.elementwise mul %[[M]], %[[F]] : tensor<?xf32>, tensor<f32> -> tensor<?xf32>
# CHECK-NEXT: func.return %[[T]], %[[G]] : tensor<?x4xf32>, tensor<?xf32>
