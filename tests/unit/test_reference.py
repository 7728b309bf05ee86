"""The numpy meaning of every op against PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from xdsl.dialects.builtin import ModuleOp

from kaoken.dialect.kaoken import Kaoken
from kaoken.dialect.reference import KaokenFunctions, run_module
from kaoken.dialect.reference.linear import unpack_weight
from kaoken.errors import KaokenError
from kaoken.modules import parse_module
from kaoken.weights import attach_store
from tests.helpers import assert_same_before_and_after, store_from, tensor_text

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((2, 5, 8)).astype("f4")
POSITIVE = np.abs(X) + 0.1
ROWS = RANDOM.standard_normal((3, 8)).astype("f4")
VECTOR = RANDOM.standard_normal(8).astype("f4")
INTS = RANDOM.integers(-9, 9, (2, 5)).astype("i8")
NONZERO = np.where(INTS == 0, 4, INTS)
BOOLS = RANDOM.integers(0, 2, (2, 5)).astype(bool)


def one_op(op: str, arrays: Sequence[np.ndarray], result: str) -> ModuleOp:
    """A module whose @main is one op; `{i}` in its text is argument i, `{ti}` its type."""
    types = [tensor_text(array) for array in arrays]
    names = {f"t{i}": type_ for i, type_ in enumerate(types)}
    text = op.format(*(f"%{i}" for i in range(len(arrays))), **names)
    args = ", ".join(f"%{i}: {type_}" for i, type_ in enumerate(types))
    return parse_module(
        f"func.func @main({args}) -> {result} {{ %r = {text} -> {result} "
        f"func.return %r : {result} }}"
    )


def check(
    op: str, arrays: Sequence[np.ndarray], expected: object, atol: float = 1e-6
) -> np.ndarray:
    wanted = torch.as_tensor(expected).numpy()
    (result,) = run_module(one_op(op, arrays, tensor_text(wanted)), arrays)
    assert result.dtype == wanted.dtype
    np.testing.assert_allclose(
        result.astype("f8"), wanted.astype("f8"), rtol=1e-6, atol=atol, equal_nan=True
    )
    return result


def t(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)


def test_every_op_has_a_meaning() -> None:
    known = {op for op, _ in KaokenFunctions()._impls()}
    assert set(Kaoken.operations) <= known


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("kaoken.gelu {} : {t0}", lambda x: F.gelu(x.double()).float()),
        (
            "kaoken.gelu {} {{approximate = #kaoken<approximation tanh>}} : {t0}",
            lambda x: F.gelu(x.double(), approximate="tanh").float(),
        ),
        ("kaoken.relu {} : {t0}", F.relu),
        ("kaoken.silu {} : {t0}", F.silu),
        ("kaoken.tanh {} : {t0}", torch.tanh),
        ("kaoken.sigmoid {} : {t0}", torch.sigmoid),
        ("kaoken.softmax {} : {t0}", lambda x: F.softmax(x, -1)),
        ("kaoken.normalize {} : {t0}", lambda x: F.normalize(x, dim=-1)),
    ],
)
def test_activations(op: str, expected: Callable[[torch.Tensor], torch.Tensor]) -> None:
    for x in (X, X * 30, X * 1e-3):
        check(op, [x], expected(t(x)))


def test_gelu_keeps_the_digits_of_its_tail() -> None:
    x = np.linspace(-9, -3, 100, dtype="f4")
    exact = 0.5 * t(x).double() * torch.erfc(-t(x).double() / 2**0.5)
    check("kaoken.gelu {} : {t0}", [x], exact.float(), atol=0)


def test_linear() -> None:
    y = F.linear(t(X), t(ROWS))
    check("kaoken.linear {}, {} : {t0}, {t1}", [X, ROWS], y)
    bias = VECTOR[:3].copy()
    check(
        "kaoken.linear {}, {} bias {} : {t2} {{activation = #kaoken<activation gelu>}} "
        ": {t0}, {t1}",
        [X, ROWS, bias],
        F.gelu(y + t(bias)),
    )


def test_linear_with_residual_and_norm() -> None:
    weight = RANDOM.standard_normal((8, 8)).astype("f4")
    y = F.silu(F.linear(t(X), t(weight), t(VECTOR))) + t(X)
    check(
        "kaoken.linear {}, {} bias {} : {t2} residual {} : {t3} norm_weight {} : {t2} "
        "norm_bias {} : {t2} {{activation = #kaoken<activation silu>, "
        "norm = #kaoken<norm layer_norm>, eps = 1.0e-5}} : {t0}, {t1}",
        [X, weight, VECTOR, X, VECTOR, VECTOR],
        F.layer_norm(y, [8], t(VECTOR), t(VECTOR)),
        atol=3e-6,
    )


def test_packed_linear() -> None:
    weight = RANDOM.standard_normal((7, 8)).astype("f4")
    panels = np.zeros((3, 8, 3), "f4")
    for n, row in enumerate(weight):
        panels[n // 3, :, n % 3] = row
    np.testing.assert_array_equal(unpack_weight(panels, *weight.shape), weight)
    check(
        "kaoken.linear {}, {} {{out_features = 7}} : {t0}, {t1}",
        [X, panels],
        F.linear(t(X), t(weight)),
    )


def test_fused_linear_equals_separate_ops_bit_for_bit() -> None:
    module = """
    func.func @main(%x: tensor<?x8xf32>, %w: tensor<8x8xf32>, %v: tensor<8xf32>)
        -> (tensor<?x8xf32>, tensor<?x8xf32>) {
      %0 = kaoken.linear %x, %w bias %v : tensor<8xf32> : tensor<?x8xf32>, tensor<8x8xf32>
        -> tensor<?x8xf32>
      %1 = kaoken.gelu %0 : tensor<?x8xf32> -> tensor<?x8xf32>
      %2 = kaoken.elementwise add %1, %x : tensor<?x8xf32>, tensor<?x8xf32> -> tensor<?x8xf32>
      %3 = kaoken.layer_norm %2, %v bias %v : tensor<8xf32> {eps = 1.0e-5}
        : tensor<?x8xf32>, tensor<8xf32> -> tensor<?x8xf32>
      %4 = kaoken.linear %x, %w bias %v : tensor<8xf32> residual %x : tensor<?x8xf32>
        norm_weight %v : tensor<8xf32> norm_bias %v : tensor<8xf32>
        {activation = #kaoken<activation gelu>, norm = #kaoken<norm layer_norm>, eps = 1.0e-5}
        : tensor<?x8xf32>, tensor<8x8xf32> -> tensor<?x8xf32>
      func.return %3, %4 : tensor<?x8xf32>, tensor<?x8xf32>
    }
    """
    weight = RANDOM.standard_normal((8, 8)).astype("f4")
    separate, fused = run_module(parse_module(module), [X[0], weight, VECTOR])
    np.testing.assert_array_equal(separate, fused)


def test_matmul() -> None:
    a = RANDOM.standard_normal((2, 1, 4, 5)).astype("f4")
    b = RANDOM.standard_normal((3, 5, 6)).astype("f4")
    check("kaoken.matmul {}, {} : {t0}, {t1}", [a, b], t(a) @ t(b))
    turned = np.ascontiguousarray(b.swapaxes(1, 2))
    check("kaoken.matmul {}, {} {{transpose_rhs = true}} : {t0}, {t1}", [a, turned], t(a) @ t(b))


def heads(x: np.ndarray, count: int) -> torch.Tensor:
    return t(x).reshape(*x.shape[:2], count, -1).transpose(1, 2)


def torch_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, groups: int, mask: torch.Tensor | None
) -> torch.Tensor:
    y = F.scaled_dot_product_attention(
        heads(q, 4), heads(k, groups), heads(v, groups), mask, scale=0.3, enable_gqa=True
    )
    return y.transpose(1, 2).reshape(*q.shape[:2], -1)


Q = RANDOM.standard_normal((2, 5, 8)).astype("f4")
K, V = (RANDOM.standard_normal((2, 7, n)).astype("f4") for n in (4, 6))


@pytest.mark.parametrize("shape", [(2, 1, 1, 7), (1, 1, 5, 7), (2, 4, 5, 7), (5, 7)])
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_attention_masks(shape: tuple[int, ...], kind: str) -> None:
    seen = RANDOM.integers(0, 2, shape).astype(bool)
    seen[..., 0] = True
    mask = seen if kind == "bool" else np.where(seen, RANDOM.standard_normal(shape), -np.inf)
    mask = mask if kind == "bool" else mask.astype("f4")
    check(
        "kaoken.attention {}, {}, {} mask {} : {t3} "
        "{{num_heads = 4, num_kv_heads = 2, scale = 0.3}} : {t0}, {t1}, {t2}",
        [Q, K, V, mask],
        torch_attention(Q, K, V, 2, t(mask)),
    )


def test_causal_attention_ends_at_the_last_key() -> None:
    seen = torch.ones(5, 7, dtype=torch.bool).tril(2)
    check(
        "kaoken.attention {}, {}, {} "
        "{{num_heads = 4, num_kv_heads = 2, scale = 0.3, causal = true}} : {t0}, {t1}, {t2}",
        [Q, K, V],
        torch_attention(Q, K, V, 2, seen),
    )


@pytest.mark.parametrize("mask", [np.zeros((5, 7), bool), np.full((5, 7), -np.inf, "f4")])
def test_attention_row_without_keys_is_zero(mask: np.ndarray) -> None:
    op = (
        "kaoken.attention {}, {}, {} mask {} : {t3} "
        "{{num_heads = 4, num_kv_heads = 2, scale = 0.3}} : {t0}, {t1}, {t2}"
    )
    check(op, [Q, K, V, mask], torch.zeros(2, 5, 12))


def test_attention_mask_of_the_least_float_gives_the_mean() -> None:
    mask = np.full((5, 7), np.finfo("f4").min, "f4")
    op = (
        "kaoken.attention {}, {}, {} mask {} : {t3} "
        "{{num_heads = 4, num_kv_heads = 2, scale = 0.3}} : {t0}, {t1}, {t2}"
    )
    check(op, [Q, K, V, mask], torch_attention(Q, K, V, 2, t(mask)))


def test_norms() -> None:
    check(
        "kaoken.layer_norm {}, {} {{eps = 1.0e-5}} : {t0}, {t1}",
        [X, VECTOR],
        F.layer_norm(t(X), [8], t(VECTOR)),
    )
    check(
        "kaoken.layer_norm {}, {} bias {} : {t1} {{eps = 1.0e-5}} : {t0}, {t1}",
        [X, VECTOR, VECTOR],
        F.layer_norm(t(X), [8], t(VECTOR), t(VECTOR)),
    )
    check(
        "kaoken.rms_norm {}, {} {{eps = 1.0e-6}} : {t0}, {t1}",
        [X, VECTOR],
        F.rms_norm(t(X), [8], t(VECTOR), 1e-6),
    )


def test_embedding_and_gather() -> None:
    indices = RANDOM.integers(0, 3, (2, 5))
    check("kaoken.embedding {}, {} : {t0}, {t1}", [ROWS, indices], F.embedding(t(indices), t(ROWS)))
    check(
        "kaoken.gather {} at {} along [1] : {t0} at {t1}",
        [ROWS, indices],
        t(ROWS)[:, t(indices)],
    )
    first, second = np.array([[1], [0]]), np.array([0, 4, 2])
    check(
        "kaoken.gather {} at {}, {} along [0, 1] : {t0} at {t1}, {t2}",
        [X, first, second],
        t(X)[t(first), t(second)],
    )


@pytest.mark.parametrize("value", [-1, 3])
@pytest.mark.parametrize(
    "op",
    ["kaoken.embedding {}, {} : {t0}, {t1}", "kaoken.gather {} at {} along [0] : {t0} at {t1}"],
)
def test_index_out_of_range_is_named(op: str, value: int) -> None:
    indices = np.array([0, value, 2])
    with pytest.raises(KaokenError, match=rf"holds {value}, which is outside 0..2"):
        run_module(one_op(op, [ROWS, indices], "tensor<3x8xf32>"), [ROWS, indices])


@pytest.mark.parametrize("dtype", ["bool", "i8", "f4"])
def test_mean_pool(dtype: str) -> None:
    mask = BOOLS.copy()
    mask[1] = False
    kept = t(mask)[..., None].float()
    check(
        "kaoken.mean_pool {}, {} : {t0}, {t1}",
        [X, mask.astype(dtype)],
        (t(X) * kept).sum(1) / kept.sum(1).clamp(min=1e-9),
    )


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("kaoken.reshape {} to <[10, 8]> : {t0}", lambda x: x.reshape(10, 8)),
        ("kaoken.transpose {} [2, 0, 1] : {t0}", lambda x: x.permute(2, 0, 1).contiguous()),
        ("kaoken.slice {} <[1, 4]> {{dim = 1}} : {t0}", lambda x: x[:, 1:4]),
        ("kaoken.slice {} <[1, 8]> {{dim = 2, step = 3}} : {t0}", lambda x: x[..., 1:8:3]),
        ("kaoken.concat {0}, {0} {{dim = 1}} : {t0}, {t0}", lambda x: torch.cat([x, x], 1)),
        ("kaoken.broadcast {} to <[3, 2, 5, 8]> : {t0}", lambda x: x.expand(3, 2, 5, 8)),
        ("kaoken.cast {} : {t0}", lambda x: (x * 1).to(torch.int64)),
        ("kaoken.cast {} : {t0}", lambda x: x.to(torch.bool)),
        ("kaoken.cast {} : {t0}", lambda x: x.to(torch.float16)),
        ("kaoken.cumsum {} {{dim = 1}} : {t0}", lambda x: x.cumsum(1)),
        ("kaoken.reduce sum {} over [0, 2] : {t0}", lambda x: x.sum((0, 2))),
        ("kaoken.reduce mean {} over [1] : {t0}", lambda x: x.mean(1)),
        ("kaoken.reduce max {} over [2] : {t0}", lambda x: x.amax(2)),
        ("kaoken.reduce min {} over [1] {{keepdim = true}} : {t0}", lambda x: x.amin(1, True)),
        ("kaoken.reduce prod {} over [1] : {t0}", lambda x: x.prod(1)),
        ("kaoken.reduce any {} over [1] : {t0}", lambda x: x.any(1)),
        ("kaoken.reduce all {} over [1] : {t0}", lambda x: x.all(1)),
    ],
)
def test_data_movement_and_reductions(
    op: str, expected: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    check(op, [X], expected(t(X)))


@pytest.mark.parametrize("array", [INTS, BOOLS])
def test_casts_to_float(array: np.ndarray) -> None:
    check("kaoken.cast {} : {t0}", [array], t(array).float())


UNARY = {
    "neg": torch.neg,
    "abs": torch.abs,
    "exp": torch.exp,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
}


@pytest.mark.parametrize("name", UNARY)
def test_unary_functions(name: str) -> None:
    x = np.concatenate([X.ravel() * 3, [0.5, 1.5, 2.5, -0.5, -1.5]]).astype("f4")
    exact = UNARY[name](t(x).double()).float()
    check(f"kaoken.elementwise {name} {{}} : {{t0}}", [x], exact)


@pytest.mark.parametrize("name", ["log", "sqrt", "rsqrt"])
def test_functions_of_positive_numbers(name: str) -> None:
    check(f"kaoken.elementwise {name} {{}} : {{t0}}", [POSITIVE], getattr(torch, name)(t(POSITIVE)))


BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "remainder": torch.remainder,
    "floor_div": torch.floor_divide,
    "eq": torch.eq,
    "ne": torch.ne,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
}


@pytest.mark.parametrize("name", BINARY)
def test_binary_functions(name: str) -> None:
    op = f"kaoken.elementwise {name} {{}}, {{}} : {{t0}}, {{t1}}"
    check(op, [X, VECTOR], BINARY[name](t(X), t(VECTOR)))
    check(op, [INTS, NONZERO], BINARY[name](t(INTS), t(NONZERO)))


def test_division_and_powers() -> None:
    divide = "kaoken.elementwise div {}, {} : {t0}, {t1}"
    check(divide, [X, VECTOR], t(X) / t(VECTOR))
    truncated = torch.div(t(INTS), t(NONZERO), rounding_mode="trunc")
    check(divide, [INTS, NONZERO], truncated)
    power = "kaoken.elementwise pow {}, {} : {t0}, {t1}"
    check(power, [POSITIVE, VECTOR], t(POSITIVE) ** t(VECTOR))


def test_logic() -> None:
    other = BOOLS[::-1].copy()
    for name in ("and", "or", "xor"):
        function = getattr(torch, f"bitwise_{name}")
        op = f"kaoken.elementwise {name} {{}}, {{}} : {{t0}}, {{t1}}"
        check(op, [BOOLS, other], function(t(BOOLS), t(other)))
        check(op, [INTS, NONZERO], function(t(INTS), t(NONZERO)))
    check("kaoken.elementwise not {} : {t0}", [BOOLS], ~t(BOOLS))
    check(
        "kaoken.elementwise select {}, {}, {} : {t0}, {t1}, {t2}",
        [BOOLS, INTS, NONZERO],
        torch.where(t(BOOLS), t(INTS), t(NONZERO)),
    )


def test_sizes_of_the_inputs_reach_shapes() -> None:
    module = parse_module("""
    func.func @main(%x: tensor<?x?xi64> {kaoken.shape = #kaoken.shape<[batch, tokens]>})
        -> (tensor<?xi64>, tensor<?x2xf32>, tensor<i1>) {
      %0 = kaoken.iota <["batch*tokens + 1"]> {start = 3} : tensor<?xi64>
      %1 = kaoken.full 0.5 : f32 to <[tokens, 2]> : tensor<?x2xf32>
      %2 = kaoken.full true to <[]> : tensor<i1>
      func.return %0, %1, %2 : tensor<?xi64>, tensor<?x2xf32>, tensor<i1>
    }
    """)
    iota, half, true = run_module(module, [np.zeros((2, 3), "i8")])
    np.testing.assert_array_equal(iota, np.arange(3, 10))
    np.testing.assert_array_equal(half, np.full((3, 2), 0.5, "f4"))
    assert true.shape == ()
    assert true


CALLS = """
func.func private @double(%x: tensor<?x4xf32> {kaoken.shape = #kaoken.shape<[rows, 4]>})
    -> tensor<?x4xf32> {
  %0 = kaoken.full 2.0 : f32 to <[rows, 4]> : tensor<?x4xf32>
  %1 = kaoken.elementwise mul %x, %0 : tensor<?x4xf32>, tensor<?x4xf32> -> tensor<?x4xf32>
  func.return %1 : tensor<?x4xf32>
}
func.func @main(%x: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %w = kaoken.weight "w" : tensor<4xf32>
  %c = arith.constant dense<[1.0, 2.0, 3.0, 4.0]> : tensor<4xf32>
  %one = arith.constant dense<1.0> : tensor<4xf32>
  %0 = func.call @double(%x) : (tensor<?x4xf32>) -> tensor<?x4xf32>
  %1 = kaoken.concat %0, %0 {dim = 0} : tensor<?x4xf32>, tensor<?x4xf32> -> tensor<?x4xf32>
  %2 = func.call @double(%1) : (tensor<?x4xf32>) -> tensor<?x4xf32>
  %3 = kaoken.elementwise mul %2, %w : tensor<?x4xf32>, tensor<4xf32> -> tensor<?x4xf32>
  %4 = kaoken.elementwise add %3, %c : tensor<?x4xf32>, tensor<4xf32> -> tensor<?x4xf32>
  %5 = kaoken.elementwise add %4, %one : tensor<?x4xf32>, tensor<4xf32> -> tensor<?x4xf32>
  func.return %5 : tensor<?x4xf32>
}
"""


def test_calls_weights_and_constants() -> None:
    module = parse_module(CALLS)
    weight = np.arange(4, dtype="f4")
    attach_store(module, store_from({"w": weight}))
    x = X[0, :, :4].copy()
    (y,) = run_module(module, [x])
    constants = np.arange(1, 5, dtype="f4")
    scaled = np.concatenate([x, x]) * 4 * weight
    np.testing.assert_array_equal(y, scaled + constants + np.float32(1))


def test_weight_of_another_shape_is_an_error() -> None:
    module = parse_module(CALLS)
    attach_store(module, store_from({"w": np.zeros(5, "f4")}))
    with pytest.raises(KaokenError, match=r'weight "w" is float32 \[5\]'):
        run_module(module, [X[0, :, :4].copy()])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "takes 1 inputs, but 0"),
        ([np.zeros((2, 4))], "x holds float64, but needs float32"),
        ([np.zeros((2, 4, 1), "f4")], "x has 3 dimensions, but needs 2"),
        ([np.zeros((2, 5), "f4")], "dimension 1 of x has size 5, but needs 4"),
    ],
)
def test_inputs_that_do_not_fit(inputs: list[np.ndarray], message: str) -> None:
    with pytest.raises(KaokenError, match=message):
        run_module(parse_module(CALLS), inputs)


def test_helper_finds_a_pass_that_keeps_the_meaning() -> None:
    assert_same_before_and_after(CALLS, "canonicalize,cse", sizes={"x_0": 6})
