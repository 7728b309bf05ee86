"""What single weights become by a policy file: through `quantize`, in C, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import kaoken
from kaoken.dialect.nn import EmbeddingOp, LinearOp
from kaoken.errors import KaokenError
from kaoken.modules import parse_module
from kaoken.passes.quantizing.policy import Choice, read_policy
from kaoken.weights import attach_store
from tests.helpers import apply_passes, store_from

TIED = """
func.func @main(%ids: tensor<?xi64> {kaoken.shape = #kaoken.shape<[rows]>})
    -> (tensor<?x50xf32>, tensor<?x8xf32>) attributes {kaoken.max = {rows = 64}} {
  %t = kaoken.weight "head" : tensor<50x64xf32>
  %o = kaoken.weight "layer.out" : tensor<8x64xf32>
  %x = kaoken.embedding %t, %ids : tensor<50x64xf32>, tensor<?xi64> -> tensor<?x64xf32>
  %1 = kaoken.linear %x, %t : tensor<?x64xf32>, tensor<50x64xf32> -> tensor<?x50xf32>
  %2 = kaoken.linear %x, %o : tensor<?x64xf32>, tensor<8x64xf32> -> tensor<?x8xf32>
  func.return %1, %2 : tensor<?x50xf32>, tensor<?x8xf32>
}
"""


def write(folder: Path, text: str) -> Path:
    (folder / "layers.policy").write_text(text)
    return folder / "layers.policy"


@pytest.mark.parametrize(
    ("lines", "head", "out"),
    [
        ("head int4 16", "4 bits, group 16, super 64", "2 bits, group 32"),
        ("*.out int4", "8 bits, group 32, offset 128", "4 bits, group 32, super 64"),
        ("*.out ternary 64", "8 bits, group 32, offset 128", "2 bits, group 64, offset 1"),
    ],
)
def test_few_bits(tmp_path: Path, lines: str, head: str, out: str):
    random = np.random.default_rng(0)
    shapes = {"head": (50, 64), "layer.out": (8, 64)}
    weights = {k: random.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    module = parse_module(TIED)
    attach_store(module, store_from(weights))
    policy = write(tmp_path, lines)
    quantize = f'quantize{{dtype=int2 policy="{policy}"}}'
    once = str(module := apply_passes(module, f"{quantize},dce"))
    module = apply_passes(module, f"{quantize},dce")
    assert str(module) == once
    layers = [op.format for op in module.walk() if isinstance(op, LinearOp)]
    assert [str(one.data) for one in layers if one is not None] == [head, out]
    tables = {op.table for op in module.walk() if isinstance(op, EmbeddingOp)}
    heads = {op.weight for op in module.walk() if isinstance(op, LinearOp) and op.n == 50}
    assert heads <= tables  # one copy of what is tied


def test_compiled_layers(tmp_path: Path):
    torch.manual_seed(0)
    mlp = torch.nn.Sequential(
        torch.nn.Linear(65, 96), torch.nn.GELU(), torch.nn.Linear(96, 64), torch.nn.Linear(64, 7)
    )
    x = torch.randn(9, 65)
    policy = write(tmp_path, "0.weight f32\n2.* int4\n")
    model = kaoken.compile(mlp, (x,), dtype="bf16", policy=policy, out=tmp_path / "mlp")
    with torch.no_grad():
        expected = mlp(x).numpy()
    found = model(x.numpy())
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert 1e-4 < error < 0.1  # it is rounded, and to four bits in one layer alone


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("head", "layers.policy:1: expected a pattern, a dtype and perhaps a group size"),
        ("# all\nhead int7", "layers.policy:2: unknown dtype int7: choose from f32, bf16, int8"),
        ("head int4 many", "layers.policy:1: the group size is many, but must be a number"),
        ("haed int4", "layers.policy:1: no weight of a layer is called 'haed': there are head"),
    ],
)
def test_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(KaokenError, match=message):
        read_policy(write(tmp_path, text), Choice("int8")).check(["head", "layer.out"])


def test_no_file(tmp_path: Path):
    with pytest.raises(KaokenError, match="cannot be read: No such file"):
        read_policy(tmp_path / "none.policy", Choice("int8"))
