"""Functions of torch tensors as modules, imported and compared with what torch computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from kaoken.dialect.reference import run_module
from kaoken.frontend.torch_export import import_module

H = 24
MAX = 12


class Written(torch.nn.Module):
    """A function of tensors and of this module's parameters."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        torch.manual_seed(3)
        self.function = function
        self.weight = torch.nn.Parameter(torch.randn(H))
        self.bias = torch.nn.Parameter(torch.randn(H))
        self.matrix = torch.nn.Parameter(torch.randn(H, H) / 5)

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


def imported_ops(function: Callable[..., Any], *inputs: Any, atol: float = 1e-5) -> Counter[str]:
    """The ops of an imported function of [batch, tokens, ...] inputs; its result is compared."""
    module = Written(function).eval()
    batch, tokens = torch.export.Dim("batch", max=4), torch.export.Dim("tokens", max=MAX)
    sizes = tuple({0: batch, 1: tokens} for _ in inputs)
    imported = import_module(module, inputs, {}, (sizes,))
    for b, t in ((2, 5), (1, 1), (3, 9)):
        given = [resized(x, b, t) for x in inputs]
        expected = module(*given).detach().numpy()
        (result,) = run_module(imported, [x.numpy() for x in given])
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=atol)
    skipped = ("builtin.module", "func.func", "func.return", "kaoken.weight")
    return Counter(
        op.name.removeprefix("kaoken.") for op in imported.walk() if op.name not in skipped
    )


def resized(x: Any, batch: int, tokens: int) -> Any:
    repeated = x.repeat(2, 3, *([1] * (x.dim() - 2)))
    return repeated[:batch, :tokens].clone()
