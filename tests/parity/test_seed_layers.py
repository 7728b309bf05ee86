"""Single layers at fixed and open sizes, in the ways that people write them, against PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaoken
from kaoken.bench.workloads import make_workload
from tests.parity.parity import TOLERANCE

torch = pytest.importorskip("torch")

from tests.parity import written_out  # noqa: E402

WIDTHS = (1, 7, 17, 129)
ROWS = (1, 2, 7, 17, 129)
SEEDS = {
    "layer norm [1, 768]": ("layer-norm", 1),
    "gelu [1, 768]": ("gelu", 1),
    "attention [1, 768]": ("attention", 1),
    "attention [128, 768]": ("attention", 128),
}


@pytest.mark.parametrize("name", SEEDS)
def test_seed_layer(name: str, tmp_path: Path) -> None:
    kind, tokens = SEEDS[name]
    work = make_workload(kind, 1, tokens)
    model = kaoken.compile(work.module, kwargs=work.inputs, out=tmp_path / kind)
    for seed in range(3):
        assert_parity(model, work.module, (floats(tokens, 768, seed=seed),))


def test_language_model_head(tmp_path: Path) -> None:
    """Linear 768 -> 50257: 1e-5 of the largest result, whose sums are 768 long."""
    work = make_workload("head", 1, 1)
    model = kaoken.compile(work.module, kwargs=work.inputs, out=tmp_path / "head")
    for seed in range(3):
        x = floats(1, 768, seed=seed)
        wanted = reference(work.module, (x,))
        assert np.abs(model(x) - wanted).max() <= TOLERANCE * np.abs(wanted).max()


LAYERS = {
    "layer_norm": lambda n: torch.nn.LayerNorm(n),
    "layer_norm without weights": lambda n: torch.nn.LayerNorm(n, elementwise_affine=False),
    "rms_norm": lambda n: torch.nn.RMSNorm(n, eps=1e-6),
    "gelu": lambda n: torch.nn.GELU(),
    "gelu tanh": lambda n: torch.nn.GELU(approximate="tanh"),
    "softmax": lambda n: torch.nn.Softmax(dim=-1),
    "linear": lambda n: torch.nn.Linear(n, 2 * n + 1),
    "linear without bias": lambda n: torch.nn.Linear(n, 3, bias=False),
    "written layer norm": written_out.LayerNorm,
    "written rms norm": written_out.RmsNorm,
    "written gelu": lambda n: written_out.Gelu(),
    "written gelu tanh": lambda n: written_out.GeluTanh(),
    "written softmax": lambda n: written_out.Softmax(),
    "gated mlp": lambda n: written_out.GatedMlp(n, 2 * n + 1),
}


class SideBySide(torch.nn.Module):
    """All layers of one width on the same input: one compile instead of many."""

    def __init__(self, width: int):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.ModuleList(make(width) for make in LAYERS.values())

    def forward(self, x: Any) -> Any:
        return {name: layer(x) for name, layer in zip(LAYERS, self.layers, strict=True)}


@pytest.mark.parametrize("width", WIDTHS)
def test_layers_with_open_rows(width: int, tmp_path: Path) -> None:
    module = jitter(SideBySide(width))
    model = compiled_rows(module, width, tmp_path)
    for count in ROWS:
        x = floats(count, width)
        actual, wanted = model(x), module(torch.from_numpy(x))
        assert list(actual) == list(LAYERS)
        for name, value in wanted.items():
            assert_close(actual[name], value.detach().numpy(), name)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_alone(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = jitter(LAYERS[name](17))
    model = compiled_rows(module, 17, tmp_path)
    for count in (1, 7, 129):
        assert_parity(model, module, (floats(count, 17),))


def compiled_rows(module: Any, width: int, out: Path) -> kaoken.CompiledModel:
    rows = torch.export.Dim("rows", min=1, max=max(ROWS))
    example = torch.randn(5, width)
    return kaoken.compile(module, (example,), dynamic_shapes=({0: rows},), out=out / "layer")


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("mask", ["none", "bool", "float", "int64", "int32", "causal"])
def test_own_attention_with_masks(mask: str, heads: int, tmp_path: Path) -> None:
    """Projections, heads, softmax and mask written out; the mask in the dtypes that occur."""
    module = jitter(written_out.Attention(21, heads, mask))
    check_attention(module, mask, 21, tmp_path)


@pytest.mark.parametrize("mask", ["none", "bool", "float", "causal"])
def test_torch_attention_with_masks(mask: str, tmp_path: Path) -> None:
    module = jitter(written_out.FusedAttention(24, 4, mask))
    check_attention(module, mask, 24, tmp_path)


def check_attention(module: Any, mask: str, width: int, out: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=3)
    tokens = torch.export.Dim("tokens", min=1, max=129)
    masked = mask not in ("none", "causal")
    example = (torch.randn(2, 9, width), *torch_mask(mask, 2, 9))
    sizes = {0: batch, 1: tokens}
    model = kaoken.compile(
        module, example, dynamic_shapes=(sizes, sizes)[: 1 + masked], out=out / "attention"
    )
    for count in ROWS:
        x = floats(3, count, width)
        assert_parity(model, module, (x, *(m.numpy() for m in torch_mask(mask, 3, count))))


def torch_mask(kind: str, batch: int, tokens: int) -> tuple[Any, ...]:
    """(keep,) of [batch, tokens], whose first key stays; float masks are what is added."""
    generator = torch.Generator().manual_seed(tokens)
    keep = torch.rand(batch, tokens, generator=generator) < 0.6
    keep[:, 0] = True
    if kind in ("none", "causal"):
        return ()
    if kind == "float":
        return (torch.where(keep, 0.0, torch.finfo(torch.float32).min),)
    return (keep.to(getattr(torch, kind)),)


@pytest.mark.parametrize("kind", ["tensor", "tuple", "list", "dict", "nested", "dataclass"])
def test_result_structures(kind: str, tmp_path: Path) -> None:
    module = jitter(written_out.Structured(6, kind))
    rows = torch.export.Dim("rows", min=1, max=20)
    model = kaoken.compile(
        module, (torch.randn(4, 6),), dynamic_shapes=({0: rows},), out=tmp_path / "structured"
    )
    x = floats(7, 6)
    given, wanted = model(torch.from_numpy(x)), module(torch.from_numpy(x))
    assert type(given) is type(wanted)
    torch.testing.assert_close(leaves(given), leaves(wanted), rtol=0, atol=TOLERANCE)
    as_numpy = leaves(model(x))
    assert all(isinstance(array, np.ndarray) for array in as_numpy)
    for a, b in zip(as_numpy, leaves(given), strict=True):
        np.testing.assert_array_equal(a, b.numpy())


def leaves(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, tuple | list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def jitter(module: Any) -> Any:
    """The module in eval mode, its norms' weights and biases no longer 1 and 0."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def reference(module: Any, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
    with torch.inference_mode():
        return module(*map(torch.from_numpy, inputs)).numpy()


def assert_parity(model: Any, module: Any, inputs: tuple[np.ndarray, ...]) -> None:
    assert_close(model(*inputs), reference(module, inputs), "result")


def assert_close(actual: np.ndarray, wanted: np.ndarray, name: str) -> None:
    assert actual.dtype == wanted.dtype
    assert actual.shape == wanted.shape
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=TOLERANCE, err_msg=name)
