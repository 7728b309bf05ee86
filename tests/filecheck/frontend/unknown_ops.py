# RUN: not python %s 2>&1 | filecheck %s
"""Ops that kaoken lacks are all listed at once, with the lines that call them."""

import sys

import torch

from kaoken.errors import KaokenError
from kaoken.frontend.load import load_model


class Ranking(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        order = torch.sort(x).values
        return order + torch.sort(x * 2).values + torch.linalg.qr(x).Q


try:
    load_model(Ranking(), (torch.zeros(3, 3),))
except KaokenError as error:
    sys.exit(str(error))

# CHECK:      kaoken has no meaning for 2 ops of the module:
# CHECK-NEXT: aten.sort.default at {{.*}}unknown_ops.py:14: order = torch.sort(x).values
# CHECK-NEXT: aten.sort.default at {{.*}}unknown_ops.py:15: return order
# CHECK-NEXT: aten.linalg_qr.default at {{.*}}unknown_ops.py:15: return order
