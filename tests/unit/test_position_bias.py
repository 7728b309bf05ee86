"""Masks that are functions of distances, recognised as tables of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kaoken.dialect.nn import AttentionOp  # noqa: E402
from kaoken.dialect.reference import run_module  # noqa: E402
from kaoken.frontend.torch_export import import_module  # noqa: E402

MOST = 33


class Biased(torch.nn.Module):
    """One attention with a bias that `kind` makes of `j - i`."""

    def __init__(self, kind: str, causal: bool):
        super().__init__()
        self.kind, self.causal = kind, causal
        self.table = torch.nn.Embedding(16, 2)
        self.register_buffer("slopes", torch.tensor([0.5, 0.25])[:, None, None])

    def forward(self, x: Any) -> Any:
        places = torch.arange(x.shape[1])
        heads = x.view(1, -1, 2, 4).transpose(1, 2)
        mask = self.bias(places[None, :] - places[:, None])
        if self.causal:
            seen = places[None, :] <= places[:, None]
            mask = torch.where(seen, mask, torch.finfo(torch.float32).min)
        mixed = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, mask)
        return mixed.transpose(1, 2).flatten(2)

    def bias(self, distance: Any) -> Any:
        if self.kind == "slopes":
            return -self.slopes * distance.abs()
        if self.kind == "same":
            return torch.exp(-(distance.abs() * 0.5))
        bucket = torch.where(distance > 0, distance + 8, -distance).clamp(max=15)
        far = torch.log(bucket.float() + 1) * 3
        bucket = torch.where(bucket < 4, bucket, far.long())
        return self.table(bucket).permute(2, 0, 1)[None]


def imported(module: Any) -> Any:
    tokens = torch.export.Dim("tokens", max=MOST)
    return import_module(module, (torch.zeros(1, 7, 8),), None, ({1: tokens},))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["slopes", "same", "buckets"])
def test_bias(kind: str, causal: bool) -> None:
    torch.manual_seed(0)
    model = Biased(kind, causal).eval()
    module = imported(model)
    (op,) = (op for op in module.walk() if isinstance(op, AttentionOp))
    assert (op.mask, bool(op.causal.value.data)) == (None, causal)
    assert op.position_bias is not None
    for count in (1, 7, 17, MOST):
        x = torch.randn(1, count, 8)
        with torch.no_grad():
            wanted = model(x).numpy()
        np.testing.assert_allclose(run_module(module, [x.numpy()])[0], wanted, atol=1e-5)


class OfPositions(Biased):
    def bias(self, distance: Any) -> Any:
        return (distance * torch.arange(distance.shape[1])).float()


def test_what_is_no_function_of_distances_stays_a_mask() -> None:
    module = imported(OfPositions("", causal=False))
    (op,) = (op for op in module.walk() if isinstance(op, AttentionOp))
    assert op.mask is not None
    assert op.position_bias is None
