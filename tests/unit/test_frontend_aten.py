"""Every aten builder gives torch's numbers and element types, with open sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from kaoken.dialect.reference import run_module
from kaoken.errors import KaokenError

torch = pytest.importorskip("torch")
F = torch.nn.functional

from kaoken.frontend.torch_export import import_module  # noqa: E402


class Functions(torch.nn.Module):
    """Functions as one module that returns all their results."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]]):
        super().__init__()
        self.functions = dict(functions)

    def forward(self, *inputs: Any) -> dict[str, Any]:
        return {name: function(*inputs) for name, function in self.functions.items()}


def check(functions: Mapping[str, Callable[..., Any]], *inputs: Any) -> None:
    """Import functions, with the first size of each input open, and compare with torch."""
    module = Functions(functions).eval()
    sizes = tuple({0: torch.export.Dim("n", max=16)} for _ in inputs)
    imported = import_module(module, inputs, {}, (sizes,))
    for count in (3, 7):
        given = [resized(x, count) for x in inputs]
        expected = module(*given)
        results = iter(run_module(imported, [x.numpy() for x in given]))
        for name, wanted in expected.items():
            for want in wanted if isinstance(wanted, tuple) else (wanted,):
                compare(name, next(results), want.numpy())
        assert next(results, None) is None


def compare(name: str, result: np.ndarray, wanted: np.ndarray) -> None:
    assert result.dtype == wanted.dtype, name
    np.testing.assert_allclose(result, wanted, rtol=2e-5, atol=2e-6, err_msg=name)


def resized(x: Any, count: int) -> Any:
    """A tensor like x with another first size."""
    repeats = -(-count // x.shape[0])
    return torch.cat([x] * repeats)[:count].clone()


def floats(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def positives(*shape: int) -> Any:
    return floats(*shape).abs() + 0.1


def integers(*shape: int, low: int = -9, high: int = 9) -> Any:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(2))


def bools(*shape: int) -> Any:
    return floats(*shape) > 0


UNARY = [
    torch.abs, torch.ceil, torch.cos, torch.erf, torch.exp, torch.exp2, torch.expm1, torch.floor,
    torch.isinf, torch.isnan, torch.neg, torch.reciprocal, torch.relu, torch.round, torch.sigmoid,
    torch.sign, torch.sin, torch.square, torch.tanh, torch.trunc, F.elu, F.gelu, F.hardsigmoid,
    F.hardswish, F.hardtanh, F.leaky_relu, F.mish, F.relu6, F.silu, F.softplus, F.softsign,
    F.tanhshrink, F.logsigmoid, F.celu, F.selu,
]  # fmt: skip


def by_name(functions: Sequence[Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    return {function.__name__: function for function in functions}


def test_unary() -> None:
    check(by_name(UNARY), floats(4, 5) * 3)


def test_unary_of_positive_numbers() -> None:
    functions = [torch.log, torch.log1p, torch.log2, torch.rsqrt, torch.sqrt, torch.log10]
    check(by_name(functions), positives(4, 5))


def test_unary_of_integers() -> None:
    functions = [torch.abs, torch.neg, torch.sign, torch.square, torch.floor, torch.sin]
    check(by_name([*functions, torch.bitwise_not]), integers(4, 5))


BINARY: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "add_alpha": lambda a, b: torch.add(a, b, alpha=2),
    "sub": lambda a, b: a - b,
    "rsub": lambda a, b: torch.rsub(a, b, alpha=3),
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "floor_divide": lambda a, b: a // b,
    "div_trunc": lambda a, b: torch.div(a, b, rounding_mode="trunc"),
    "remainder": lambda a, b: a % b,
    "fmod": torch.fmod,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "where": lambda a, b: torch.where(a > b, a, b),
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}


@pytest.mark.parametrize("kinds", ["ff", "ii", "if"])
def test_binary(kinds: str) -> None:
    a = floats(4, 5) if kinds[0] == "f" else integers(4, 5)
    b = positives(4, 5) if kinds[1] == "f" else integers(4, 5, low=1)
    check(BINARY, a, b)


SCALARS: dict[str, Callable[..., Any]] = {
    "int_plus_float": lambda x: x + 0.5,
    "int_times_int": lambda x: x * 3,
    "int_over_int": lambda x: x / 2,
    "int_floor_int": lambda x: x // 2,
    "int_mod": lambda x: x % 3,
    "rsub": lambda x: 1 - x,
    "pow2": lambda x: x**2,
    "pow3": lambda x: x**3,
    "bool_plus": lambda x: (x > 0) + 1,
    "bool_times_float": lambda x: (x > 0) * 2.5,
    "bool_and": lambda x: (x > 0) & (x < 5),
    "bool_or": lambda x: (x > 0) | (x < -5),
    "bool_not": lambda x: ~(x > 0),
    "bool_sum": lambda x: (x > 0).sum(),
    "to_int32": lambda x: x.to(torch.int32) * 2,
    "to_bool": lambda x: x.bool(),
    "size": lambda x: x * x.shape[0] + 2 * x.size(0),
    "size_float": lambda x: x / x.shape[0],
    "masked_fill": lambda x: x.masked_fill(x > 0, 7),
    "clamp": lambda x: x.clamp(-2, 3),
    "clamp_min": lambda x: x.clamp(min=1),
    "clamp_float": lambda x: x.clamp(max=0.5),
    "where_scalars": lambda x: torch.where(x > 0, 1.0, 0),
    "zero_dim": lambda x: x + torch.tensor(1.5),
    "f64": lambda x: (x.double() * 0.1).float(),
}


def test_scalars_of_integers() -> None:
    check(SCALARS, integers(4, 5))


def power(exponent: float) -> Callable[..., Any]:
    return lambda x: x**exponent


def test_powers() -> None:
    powers = {str(e): power(e) for e in (2, 3, 0.5, -0.5, -1, 2.5, 1, -2)}
    powers["number_to_tensor"] = lambda x: 10000 ** (x / 5)
    check(powers, positives(4, 5))


MOVEMENT: dict[str, Callable[..., Any]] = {
    "view": lambda x: x.view(x.shape[0], 2, -1),
    "view_merge": lambda x: x.view(-1, 6),
    "flatten": lambda x: x.flatten(1),
    "flatten_all": lambda x: x.flatten(),
    "unflatten": lambda x: x.unflatten(2, (2, 3)),
    "unsqueeze": lambda x: x.unsqueeze(-1).unsqueeze(0),
    "squeeze": lambda x: x.unsqueeze(1).squeeze(1),
    "permute": lambda x: x.permute(2, 0, 1),
    "transpose": lambda x: x.transpose(-1, 0),
    "mT": lambda x: x.mT,
    "movedim": lambda x: x.movedim(0, 2),
    "swapaxes": lambda x: x.swapaxes(0, 1),
    "expand": lambda x: x[:, None].expand(-1, 3, -1, -1),
    "expand_as": lambda x: x[:1].expand_as(x),
    "broadcast_to": lambda x: x[0].broadcast_to(x.shape),
    "repeat": lambda x: x.repeat(2, 1, 3),
    "tile": lambda x: x.tile(2),
    "repeat_interleave": lambda x: x.repeat_interleave(3, dim=1),
    "slice": lambda x: x[:, 1:3],
    "slice_open": lambda x: x[1:],
    "slice_back": lambda x: x[:-1, -2:],
    "slice_step": lambda x: x[:, :, ::2],
    "slice_past_end": lambda x: x[:, :100],
    "select": lambda x: x[:, -1],
    "select_open": lambda x: x[-1],
    "narrow": lambda x: x.narrow(1, 1, 2),
    "split": lambda x: x.split(2, dim=2),
    "split_sizes": lambda x: x.split([1, 3], dim=1),
    "chunk": lambda x: x.chunk(3, dim=-1),
    "unbind": lambda x: x.unbind(1),
    "cat": lambda x: torch.cat([x, x * 2], 0),
    "cat_types": lambda x: torch.cat([x, x.long()], 1),
    "stack": lambda x: torch.stack([x, x + 1], -1),
    "flip": lambda x: x.flip(1).flip(0),
    "roll": lambda x: x.roll(1, 1).roll(-1, 0),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1), value=3.0),
    "pad_negative": lambda x: F.pad(x, (-1, 1)),
    "rotate_half": lambda x: torch.cat((-x[..., 3:], x[..., :3]), -1),
    "tril": lambda x: x.tril(),
    "triu": lambda x: x.triu(1),
    "slice_assign": lambda x: assign_slice(x),
    "index_assign": lambda x: assign_row(x),
    "diff": lambda x: x[:, 1:] - x[:, :-1],
    "contiguous": lambda x: x.transpose(0, 1).contiguous().view(-1),
    "grid": lambda x: grid(x.shape[0], 2) + x[:, 0, :1],
}  # fmt: skip


def grid(rows: int, columns: int) -> Any:
    return torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")[1]


def assign_slice(x: Any) -> Any:
    y = x.clone()
    y[:, 1:3] = 0
    return y


def assign_row(x: Any) -> Any:
    y = x.clone()
    y[:, 2] = y[:, 0] * 2
    return y


def test_movement() -> None:
    check(MOVEMENT, floats(4, 4, 6))


CREATION: dict[str, Callable[..., Any]] = {
    "zeros": lambda x: torch.zeros(x.shape[0], 3) + x[:, :1],
    "ones_like": lambda x: torch.ones_like(x) * x,
    "new_ones": lambda x: x.new_ones(x.shape[0]) + 1,
    "full": lambda x: torch.full((x.shape[0], 2), 2.5),
    "full_like_int": lambda x: torch.full_like(x, 3, dtype=torch.int64),
    "arange": lambda x: torch.arange(x.shape[0]) * 2,
    "arange_start": lambda x: torch.arange(2, x.shape[0] + 2),
    "arange_step": lambda x: torch.arange(0, 10, 3) + x[:, :1],
    "arange_float": lambda x: torch.arange(0.0, 1.0, 0.25) + x[:, :1],
    "linspace": lambda x: torch.linspace(0, 1, 5) + x[:, :1],
    "eye": lambda x: torch.eye(x.shape[0]) + 1,
    "one_hot": lambda x: F.one_hot((x[:, 0] > 0).long(), 3),
    "scalar_tensor": lambda x: x + torch.tensor(2),
    "causal": lambda x: torch.ones(x.shape[0], x.shape[0], dtype=torch.bool).tril(),
    "fill": lambda x: x.clone().fill_(2.0),
}


def test_creation() -> None:
    check(CREATION, floats(4, 6))


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "sum": lambda x: x.sum(),
    "sum_dim": lambda x: x.sum(1),
    "sum_dims": lambda x: x.sum((0, 2), keepdim=True),
    "mean": lambda x: x.mean(-1),
    "mean_all": lambda x: x.mean(),
    "prod": lambda x: x.prod(1),
    "amax": lambda x: x.amax((1, 2)),
    "amin": lambda x: x.amin(0),
    "max": lambda x: x.max(),
    "max_dim": lambda x: x.max(1),
    "min_dim": lambda x: x.min(-1, keepdim=True),
    "argmax": lambda x: x.argmax(-1),
    "topk": lambda x: x.topk(3, 1),
    "topk_least": lambda x: x.topk(2, -1, largest=False),
    "argmax_all": lambda x: x.argmax(),
    "any": lambda x: (x > 1).any(1),
    "all": lambda x: (x > -1).all(),
    "var": lambda x: x.var(1),
    "var_biased": lambda x: x.var(-1, unbiased=False, keepdim=True),
    "var_open": lambda x: x.var(0),
    "std": lambda x: x.std(2),
    "var_mean": lambda x: torch.var_mean(x, 1),
    "norm": lambda x: x.norm(dim=-1),
    "norm_1": lambda x: x.norm(p=1, dim=1),
    "norm_inf": lambda x: torch.linalg.vector_norm(x, float("inf"), dim=1),
    "norm_3": lambda x: torch.linalg.vector_norm(x, 3, dim=1),
    "cumsum": lambda x: x.cumsum(1),
    "cumsum_int": lambda x: (x > 0).cumsum(0),
    "diff_prepended": lambda x: torch.diff(x, 2, 1, prepend=x[:, :1], append=x[:, :2]),
    "diff_bool": lambda x: torch.diff(x > 0, dim=0).float(),
    "logsumexp": lambda x: x.logsumexp(1),
    "logsumexp_keep": lambda x: x.logsumexp(-1, keepdim=True),
    "normalize": lambda x: F.normalize(x, dim=1),
    "mean_float_of_int": lambda x: (x > 0).float().mean(1),
}


def test_reductions() -> None:
    check(REDUCTIONS, floats(4, 5, 6))


WEIGHT = floats(5, 6) / 3
BIAS = floats(5)

LAYERS: dict[str, Callable[..., Any]] = {
    "linear": lambda x: F.linear(x, WEIGHT, BIAS),
    "linear_plain": lambda x: F.linear(x, WEIGHT),
    "linear_vector": lambda x: F.linear(x, WEIGHT[0]),
    "matmul_weight": lambda x: x @ WEIGHT.t(),
    "matmul_vector": lambda x: x @ WEIGHT[0],
    "matmul_self": lambda x: x @ x.transpose(1, 2),
    "matmul_vectors": lambda x: WEIGHT[0] @ WEIGHT[1] + x,
    "bmm": lambda x: torch.bmm(x, x.transpose(1, 2)),
    "baddbmm": lambda x: torch.baddbmm(x @ x.mT, x, x.mT, beta=0.5, alpha=2),
    "addmm": lambda x: torch.addmm(BIAS, x[:, 0], WEIGHT.t()),
    "einsum": lambda x: torch.einsum("bij,bkj->bik", x, x),
    "einsum_heads": lambda x: torch.einsum("bij,kj->bki", x, WEIGHT),
    "einsum_sum": lambda x: torch.einsum("bij,bij->bi", x, x),
    "outer": lambda x: torch.outer(x[:, 0, 0], x[:, 0, 1]),
    "layer_norm": lambda x: F.layer_norm(x, (6,), WEIGHT[0], WEIGHT[1]),
    "layer_norm_plain": lambda x: F.layer_norm(x, (6,)),
    "layer_norm_two": lambda x: F.layer_norm(x, (4, 6)),
    "rms_norm": lambda x: F.rms_norm(x, (6,), WEIGHT[0], 1e-6),
    "rms_norm_plain": lambda x: F.rms_norm(x, (6,)),
    "softmax": lambda x: x.softmax(-1),
    "softmax_first": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "glu": lambda x: F.glu(x),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "cross": lambda x: torch.addcmul(x, x, x, value=2),
    "lerp": lambda x: torch.lerp(x, x * 2, 0.3),
    "cdist_like": lambda x: (x[:, :, None] - x[:, None]).pow(2).sum(-1).sqrt(),
    "cosine": lambda x: F.cosine_similarity(x[:, 0], x[:, 1]),
    "batch_norm": lambda x: F.batch_norm(x, BIAS[:4], BIAS[:4].abs(), BIAS[:4], BIAS[:4]),
    "group_norm": lambda x: F.group_norm(x, 2),
    "group_norm_weight": lambda x: F.group_norm(x.mT, 3, WEIGHT[0], WEIGHT[1], 1e-3),
    "pool_to_one": lambda x: F.adaptive_avg_pool1d(x, 1),
    "pool_to_three": lambda x: F.adaptive_avg_pool2d(x[:, None], (2, 3)),
}


def test_layers() -> None:
    check(LAYERS, floats(4, 4, 6))


KERNELS = floats(300) / 3


def kernel(*shape: int) -> Any:
    return KERNELS[: math.prod(shape)].reshape(shape)


CONVOLUTIONS: dict[str, Callable[..., Any]] = {
    "patches": lambda x: F.conv2d(x, kernel(5, 4, 3, 2), kernel(5), stride=(3, 2)),
    "patches_with_rest": lambda x: F.conv2d(x, kernel(5, 4, 2, 4), stride=(2, 4)),
    "one": lambda x: F.conv2d(x, kernel(5, 4, 1, 1), kernel(5)),
    "one_strided": lambda x: F.conv2d(x, kernel(5, 4, 1, 1), stride=2),
    "padded": lambda x: F.conv2d(x, kernel(5, 4, 3, 3), kernel(5), padding=1),
    "overlapping": lambda x: F.conv2d(x, kernel(5, 4, 3, 3), stride=2, padding=(1, 2)),
    "dilated": lambda x: F.conv2d(x, kernel(5, 4, 3, 2), dilation=(2, 1), stride=(1, 3)),
    "same": lambda x: F.conv2d(x, kernel(5, 4, 4, 3), padding="same"),
    "valid": lambda x: F.conv2d(x, kernel(5, 4, 3, 3), padding="valid"),
    "groups": lambda x: F.conv2d(x, kernel(6, 2, 3, 3), kernel(6), padding=1, groups=2),
    "groups_of_patches": lambda x: F.conv2d(x, kernel(6, 2, 3, 2), stride=(3, 2), groups=2),
    "depthwise": lambda x: F.conv2d(x, kernel(4, 1, 3, 3), kernel(4), padding=1, groups=4),
    "depthwise_more": lambda x: F.conv2d(x, kernel(8, 1, 2, 3), kernel(8), stride=2, groups=4),
    "in_three": lambda x: F.conv3d(x[:, None], kernel(2, 1, 3, 3, 3), kernel(2), padding=1),
    "unbatched": lambda x: F.conv1d(x[0].flatten(1), kernel(3, 4, 5), kernel(3), stride=2),
    "along_open": lambda x: F.conv1d(x[..., 0, 0].T, kernel(2, 4, 3), kernel(2), padding=1),
    "depthwise_open": lambda x: F.conv1d(x[None, :, :, 0, 0].mT, kernel(4, 1, 3), None, 1, 1, 1, 4),
}


def test_convolutions() -> None:
    check(CONVOLUTIONS, floats(4, 4, 9, 7))


def test_a_transposed_convolution_is_refused() -> None:
    module = Functions({"wider": lambda x: F.conv_transpose1d(x, kernel(4, 2, 3))})
    with pytest.raises(KaokenError, match=r"transposed convolutions are not supported"):
        import_module(module, (floats(2, 4, 7),))


def three_with_mask(q: Any) -> Any:
    a, b, c = q[:, 0], q[:, 1], q[:, 2]
    return F.scaled_dot_product_attention(a, b, c, a @ b.mT)


ATTENTION: dict[str, Callable[..., Any]] = {
    "plain": lambda q: F.scaled_dot_product_attention(q, q, q * 2),
    "scale": lambda q: F.scaled_dot_product_attention(q, q, q, scale=0.3),
    "causal": lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True),
    "causal_longer": lambda q: F.scaled_dot_product_attention(q[:, :, :3], q, q, is_causal=True),
    "float_mask": lambda q: F.scaled_dot_product_attention(q, q, q, q.mean(-1)[:, :, None]),
    "bool_mask": lambda q: F.scaled_dot_product_attention(q, q, q, q[:, :1, :, 0][:, :, None] > -1),
    "grouped": lambda q: F.scaled_dot_product_attention(q, q[:, :2], q[:, 2:], enable_gqa=True),
    "three": lambda q: F.scaled_dot_product_attention(q[:, 0], q[:, 1], q[:, 2]),
    "three_mask": lambda q: three_with_mask(q),
    "values": lambda q: F.scaled_dot_product_attention(q, q, q[..., :3]),
}  # fmt: skip


def test_attention() -> None:
    check(ATTENTION, floats(4, 4, 5, 6))


def test_attention_without_batch() -> None:
    def heads(x: Any) -> Any:
        q = x.view(x.shape[0], 3, 4).transpose(0, 1)
        return F.scaled_dot_product_attention(q, q, q).transpose(0, 1).reshape(x.shape)

    check({"heads": heads}, floats(4, 12))


INDEXING: dict[str, Callable[..., Any]] = {
    "embedding": lambda i: F.embedding(i, WEIGHT),
    "index": lambda i: WEIGHT[i],
    "index_negative": lambda i: WEIGHT[i - 5],
    "index_pairs": lambda i: WEIGHT[i, i],
    "index_column": lambda i: WEIGHT[:, i],
    "index_apart": lambda i: WEIGHT[None].expand(5, 5, 6)[i, :, i],
    "index_select": lambda i: WEIGHT.index_select(1, i[:, 0]),
    "gather_columns": lambda i: (i / 3).gather(1, i.clamp(0, 2)),
    "scatter": lambda i: (i / 3).scatter(1, i.clamp(0, 2), 0.5),
    "gather": lambda i: WEIGHT.gather(1, i[:, :1].expand(-1, 2)[:2]),
    "take_along": lambda i: torch.take_along_dim(WEIGHT, i[:2].mT[:1], 1),
    "rows_by_position": lambda i: WEIGHT[torch.arange(4)] + i[0, 0],
}


def test_indexing() -> None:
    check(INDEXING, integers(4, 3, low=0, high=5))
