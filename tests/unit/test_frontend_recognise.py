"""Layers that modules write out themselves arrive as kaoken's own, and give torch's numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kaoken.dialect.reference import run_module

torch = pytest.importorskip("torch")
F = torch.nn.functional

from kaoken.frontend.torch_export import import_exported, import_module  # noqa: E402
from tests.unit.written_modules import MAX, H, Written, imported_ops  # noqa: E402


def hidden() -> Any:
    return torch.randn(2, 5, H, generator=torch.Generator().manual_seed(4))


def padding() -> Any:
    return torch.tensor([[1, 1, 1, 1, 0], [1, 0, 1, 1, 1]])


GELUS = {
    "half_first": lambda m, x: 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "half_last": lambda m, x: x * 0.5 * (torch.erf(x * 0.7071067811865476) + 1),
    "cdf": lambda m, x: x * (0.5 * (1 + torch.erf(x / 1.4142135623730951))),
    "halves": lambda m, x: x / 2 * (1 + torch.erf(x / torch.sqrt(torch.tensor(2.0)))),
    "sum": lambda m, x: 0.5 * x + 0.5 * x * torch.erf(x / math.sqrt(2.0)),
}
TANH_GELUS = {
    "gelu_new": lambda m, x: (
        0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))
    ),
    "fast": lambda m, x: 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x))),
}


@pytest.mark.parametrize("name", GELUS)
def test_gelu(name: str) -> None:
    assert imported_ops(GELUS[name], hidden()) == {"gelu": 1}


@pytest.mark.parametrize("name", TANH_GELUS)
def test_gelu_tanh(name: str) -> None:
    assert imported_ops(TANH_GELUS[name], hidden()) == {"gelu": 1}


def test_gelu_of_a_sum() -> None:
    def function(m: Any, x: Any) -> Any:
        y = x + m.bias
        return y * 0.5 * (1.0 + torch.erf(y / math.sqrt(2.0)))

    assert imported_ops(function, hidden()) == {"elementwise": 1, "gelu": 1}


def test_what_is_almost_gelu_stays() -> None:
    ops = imported_ops(lambda m, x: 0.5 * x * (1.0 + torch.erf(x / 1.5)), hidden())
    assert ops["gelu"] == 0


ACTIVATIONS = {
    "silu": (lambda m, x: x * torch.sigmoid(x), {"silu": 1}),
    "silu_exp": (lambda m, x: x / (1 + torch.exp(-x)), {"silu": 1}),
    "sigmoid": (lambda m, x: 1 / (1 + torch.exp(-x)), {"sigmoid": 1}),
    "relu": (lambda m, x: torch.clamp(x, min=0), {"relu": 1}),
    "relu_maximum": (lambda m, x: torch.maximum(x, torch.zeros_like(x)), {"relu": 1}),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    function, expected = ACTIVATIONS[name]
    assert imported_ops(function, hidden()) == expected


def stable_softmax(m: Any, x: Any) -> Any:
    e = torch.exp(x - x.max(dim=-1, keepdim=True).values)
    return e / e.sum(-1, keepdim=True)


def plain_softmax(m: Any, x: Any) -> Any:
    e = x.exp()
    return e / e.sum(-1).unsqueeze(-1)


@pytest.mark.parametrize("function", [stable_softmax, plain_softmax])
def test_softmax(function: Callable[..., Any]) -> None:
    assert imported_ops(function, hidden()) == {"softmax": 1}


def layer_norm_sqrt(m: Any, x: Any) -> Any:
    mean = x.mean(-1, keepdim=True)
    var = (x - mean).pow(2).mean(-1, keepdim=True)
    return m.weight * ((x - mean) / torch.sqrt(var + 1e-6)) + m.bias


def layer_norm_rsqrt(m: Any, x: Any) -> Any:
    centred = x - x.mean(dim=-1, keepdim=True)
    var = (centred * centred).mean(dim=-1, keepdim=True)
    return centred * torch.rsqrt(var + 1e-5) * m.weight + m.bias


def layer_norm_var(m: Any, x: Any) -> Any:
    var = x.var(-1, unbiased=False, keepdim=True)
    return (x - x.mean(-1, keepdim=True)) / (var + 1e-5) ** 0.5 * m.weight + m.bias


def layer_norm_sums(m: Any, x: Any) -> Any:
    centred = x - x.sum(-1, keepdim=True) / H
    return m.bias + m.weight * centred / ((centred**2).sum(-1).unsqueeze(-1) / H + 1e-5).sqrt()


@pytest.mark.parametrize(
    "function", [layer_norm_sqrt, layer_norm_rsqrt, layer_norm_var, layer_norm_sums]
)
def test_layer_norm(function: Callable[..., Any]) -> None:
    assert imported_ops(function, hidden()) == {"layer_norm": 1}


def rms_norm_llama(m: Any, x: Any) -> Any:
    variance = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
    return m.weight * (x * torch.rsqrt(variance + 1e-6)).to(x.dtype)


def rms_norm_divided(m: Any, x: Any) -> Any:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * m.weight


@pytest.mark.parametrize("function", [rms_norm_llama, rms_norm_divided])
def test_rms_norm(function: Callable[..., Any]) -> None:
    assert imported_ops(function, hidden()) == {"rms_norm": 1}


def test_linear_from_its_parts() -> None:
    assert imported_ops(lambda m, x: x @ m.matrix.t() + m.bias, hidden()) == {
        "linear": 1,
    }
    ops = imported_ops(lambda m, x: torch.matmul(x, m.matrix) + m.bias, hidden())
    assert ops == {"transpose": 1, "linear": 1}


def test_normalize() -> None:
    assert imported_ops(lambda m, x: F.normalize(x, dim=-1), hidden()) == {"normalize": 1}
    ops = imported_ops(lambda m, x: x / x.norm(dim=-1, keepdim=True).clamp(min=1e-9), hidden())
    assert ops == {"normalize": 1}


def sentence_transformers_pool(m: Any, x: Any, mask: Any) -> Any:
    expanded = mask.unsqueeze(-1).expand(x.size()).float()
    return (x * expanded).sum(1) / torch.clamp(expanded.sum(1), min=1e-9)


def column_pool(m: Any, x: Any, mask: Any) -> Any:
    kept = mask.unsqueeze(-1).to(x.dtype)
    return (x * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1e-9)


@pytest.mark.parametrize("function", [sentence_transformers_pool, column_pool])
def test_mean_pool(function: Callable[..., Any]) -> None:
    assert imported_ops(function, hidden(), padding()) == {"mean_pool": 1}


def heads(x: Any, count: int = 3) -> Any:
    return x.view(*x.shape[:2], count, -1).transpose(1, 2)


def merged(x: Any) -> Any:
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def attend_bert(m: Any, x: Any, mask: Any) -> Any:
    q, k, v = heads(x), heads(x * 2), heads(x - 1)
    scores = q @ k.transpose(-1, -2) / math.sqrt(H // 3)
    scores = scores + (1.0 - mask[:, None, None, :].float()) * -10000.0
    return merged(scores.softmax(-1) @ v)


def attend_masked_fill(m: Any, x: Any, mask: Any) -> Any:
    q, k, v = heads(x) * 0.3, heads(x * 2), heads(x - 1)
    scores = torch.matmul(q, k.mT).masked_fill(mask[:, None, None] == 0, float("-inf"))
    return merged(torch.matmul(F.dropout(F.softmax(scores, -1), 0.1, False), v))


def attend_where(m: Any, x: Any, mask: Any) -> Any:
    q, k, v = heads(x), heads(x * 2), heads(x - 1)
    scores = torch.einsum("bhsd,bhtd->bhst", q, k) * 0.3
    lowest = torch.finfo(scores.dtype).min
    scores = torch.where(mask.bool()[:, None, None], scores, lowest)
    return merged(torch.einsum("bhst,bhtd->bhsd", scores.softmax(-1), v))


@pytest.mark.parametrize("function", [attend_bert, attend_masked_fill, attend_where])
def test_attention_with_padding(function: Callable[..., Any]) -> None:
    ops = imported_ops(function, hidden(), padding())
    assert ops["attention"] == 1
    assert not ops.keys() & {"matmul", "softmax", "transpose", "full", "broadcast"} - {"full"}
    assert ops["elementwise"] <= 3


def attend_causal_tril(m: Any, x: Any) -> Any:
    q, k, v = heads(x), heads(x * 2), heads(x - 1)
    seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
    scores = (q @ k.mT * 0.3).masked_fill(~seen, float("-inf"))
    return merged(scores.softmax(-1) @ v)


def attend_causal_triu(m: Any, x: Any) -> Any:
    q, k, v = heads(x), heads(x * 2), heads(x - 1)
    hidden = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
    return merged((q @ k.mT * 0.3 + hidden).softmax(-1) @ v)


def attend_causal_sdpa(m: Any, x: Any) -> Any:
    row = torch.arange(x.shape[1])
    seen = row[None, :] <= row[:, None]
    return merged(F.scaled_dot_product_attention(heads(x), heads(x), heads(x), seen))


@pytest.mark.parametrize("function", [attend_causal_tril, attend_causal_triu, attend_causal_sdpa])
def test_causal_attention(function: Callable[..., Any]) -> None:
    module = Written(function)
    ops = imported_ops(function, hidden())
    assert module is not None
    assert ops["attention"] == 1
    assert not ops.keys() & {"iota", "matmul", "softmax", "cast"}


@pytest.mark.parametrize("outer", [3.0, 1.5], ids=["gemma2", "another factor"])
def test_capped_scores(outer: float) -> None:
    def function(m: Any, x: Any) -> Any:
        scores = torch.tanh(heads(x) @ heads(x * 2).mT * 0.3 / 3.0) * outer
        hidden = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
        return merged((scores + hidden).softmax(-1) @ heads(x - 1))

    ops = imported_ops(function, hidden())
    assert ops["attention"] == 1
    assert not ops.keys() & {"tanh", "matmul", "softmax"}


def attend_grouped(m: Any, x: Any) -> Any:
    def repeated(y: Any) -> Any:
        b, g, t, d = y.shape
        return y[:, :, None].expand(b, g, 3, t, d).reshape(b, g * 3, t, d)

    k, v = repeated(heads(x[..., :8], 2)), repeated(heads(x[..., 8:16], 2))
    return merged(F.scaled_dot_product_attention(heads(x, 6), k, v))


def test_grouped_heads() -> None:
    ops = imported_ops(attend_grouped, hidden())
    assert ops == {"slice": 2, "attention": 1}


def test_attention_with_bias() -> None:
    def function(m: Any, x: Any) -> Any:
        scores = heads(x) @ heads(x).mT + x.mean(-1)[:, None, None]
        return merged(scores.softmax(-1) @ heads(x))

    ops = imported_ops(function, hidden())
    assert ops["attention"] == 1
    assert ops["matmul"] == 0


def test_unbatched_attention_keeps_heads_in_rows() -> None:
    def function(m: Any, x: Any) -> Any:
        q = x[0].view(-1, 3, H // 3).transpose(0, 1)
        scores = q @ q.transpose(-2, -1) / math.sqrt(H // 3)
        return (scores.softmax(-1) @ q).transpose(0, 1).reshape(-1, H)

    ops = imported_ops(function, hidden())
    assert ops["attention"] == 1
    assert ops["transpose"] == 0


def encoder_layer(**options: Any) -> Any:
    return torch.nn.TransformerEncoderLayer(H, 3, 48, activation="gelu", **options).eval()


def layer_ops(layer: Any, decompose: bool) -> Counter[str]:
    """The ops of an encoder layer on [batch, tokens, H] or [tokens, batch, H], after comparing."""
    x = hidden()
    sizes = ({0: torch.export.Dim("m", max=4), 1: torch.export.Dim("n", max=MAX)},)
    program = torch.export.export(layer, (x,), dynamic_shapes=sizes, strict=False)
    imported = import_exported(program.run_decompositions() if decompose else program)
    (result,) = run_module(imported, [x.numpy()])
    np.testing.assert_allclose(result, layer(x).detach().numpy(), atol=1e-5)
    return Counter(op.name.removeprefix("kaoken.") for op in imported.walk())


@pytest.mark.parametrize("decompose", [False, True])
def test_encoder_layer_of_torch(decompose: bool) -> None:
    ops = layer_ops(encoder_layer(batch_first=True), decompose)
    assert ops["attention"] == 1
    assert ops["layer_norm"] == 2
    assert ops["linear"] == 4
    assert ops["slice"] == 3
    assert ops["elementwise"] == 2
    assert not ops.keys() & {"transpose", "reshape", "matmul", "softmax", "broadcast"}


def test_encoder_layer_with_tokens_first() -> None:
    ops = layer_ops(encoder_layer(), False)
    assert ops["attention"] == 1
    assert ops["transpose"] <= 4


class SelfAttention(torch.nn.Module):
    def __init__(self, need_weights: bool):
        super().__init__()
        torch.manual_seed(1)
        self.attention = torch.nn.MultiheadAttention(H, 3, batch_first=True)
        self.need_weights = need_weights

    def forward(self, x: Any, padding: Any) -> Any:
        return self.attention(x, x, x, padding, self.need_weights)


@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_module_of_torch(need_weights: bool) -> None:
    batch, tokens = torch.export.Dim("batch", max=4), torch.export.Dim("tokens", max=MAX)
    sizes = {0: batch, 1: tokens}
    module, hide = SelfAttention(need_weights).eval(), padding() == 0
    imported = import_module(module, (hidden(), hide), {}, (sizes, sizes))
    results = run_module(imported, [hidden().numpy(), hide.numpy()])
    for result, expected in zip(results, module(hidden(), hide), strict=False):
        np.testing.assert_allclose(result, expected.detach().numpy(), atol=1e-5)
    ops = Counter(op.name.removeprefix("kaoken.") for op in imported.walk())
    assert ops["attention"] == 1
    assert need_weights or not ops.keys() & {"transpose", "matmul", "broadcast"}


def test_stacked_query_key_value() -> None:
    def function(m: Any, x: Any) -> Any:
        b, t, _ = x.shape
        qkv = torch.cat([x, x * 2, x - 1], -1).reshape(b, t, 3, 3, H // 3).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, H)

    ops = imported_ops(function, hidden())
    assert ops["attention"] == 1
    assert not ops.keys() & {"transpose", "reshape"}
