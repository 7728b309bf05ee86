"""`assume-unpadded`: positions that skip padding become plain ones, the same for whole texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kaoken.dialect.reference import run_module  # noqa: E402
from kaoken.dialect.tensor import CumsumOp  # noqa: E402
from kaoken.frontend.recognise import recognise  # noqa: E402
from kaoken.frontend.torch_export import import_module  # noqa: E402
from kaoken.passes.assume_unpadded import assume_unpadded  # noqa: E402

PADDING = 1


class Positions(torch.nn.Module):
    """As M2M100 and XLM-RoBERTa number their tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(140, 3)

    def forward(self, input_ids: Any) -> Any:
        mask = input_ids.ne(PADDING).int()
        return self.table((torch.cumsum(mask, 1).type_as(mask) * mask).long() + PADDING)


def test_texts_without_padding_keep_their_positions() -> None:
    tokens = torch.export.Dim("tokens", max=129)
    model = Positions().eval()
    module = import_module(model, (torch.ones(1, 7).long(),), None, ({1: tokens},))
    texts = [np.full((1, count), 5) for count in (1, 7, 17, 129)]
    before = [run_module(module, [ids])[0] for ids in texts]
    assert not assume_unpadded(module, None)
    assert not assume_unpadded(module, PADDING + 1)
    assert assume_unpadded(module, PADDING)
    recognise(module)
    assert not any(isinstance(op, CumsumOp) for op in module.walk())
    assert not assume_unpadded(module, PADDING)
    for ids, wanted in zip(texts, before, strict=True):
        np.testing.assert_array_equal(run_module(module, [ids])[0], wanted)
