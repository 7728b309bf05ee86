"""`lower-math{precision=quake1|quake2}` keeps the errors it states, over the whole range."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.func import FuncOp

from kaoken.backend.machine import TargetMachine
from kaoken.modules import parse_module
from tests.helpers import apply_passes
from tests.unit.math_kernels import FREE, call_compiled, compiled, kernel
from tests.unit.numpy_ir import run

Array = np.ndarray[Any, Any]

BODIES = {
    "exp": "%r = math.exp %x : T",
    "exp2": "%r = math.exp2 %x : T",
    "scaled_exp": """
        %k = arith.constant dense<-1.25e-1> : T
        %s = arith.mulf %x, %k : T
        %r = math.exp %s : T""",
    "logistic": """
        %one = arith.constant dense<1.0> : T
        %n = arith.negf %x : T
        %e = math.exp %n : T
        %d = arith.addf %one, %e : T
        %r = arith.divf %one, %d : T""",
    "gelu": """
        %c = arith.constant dense<0.707106769> : T
        %z = arith.mulf %x, %c : T
        %e = math.erf %z : T
        %k = arith.constant dense<5.0e-1> : T
        %h = arith.mulf %x, %k : T
        %r = math.fma %h, %e, %h : T""",
}
ORDERS = ("quake1", "quake2")


@cache
def lowered(name: str, order: str, type_: str = "vector<3x5xf32>") -> FuncOp:
    """A function of one argument, after the pass."""
    body = BODIES[name].replace("T", type_)
    if not type_.startswith("vector"):
        body = body.replace("dense<", "").replace("> :", " :")
    text = f"func.func @f(%x : {type_}) -> {type_} {{ {body}\n func.return %r : {type_} }}"
    function = apply_passes(parse_module(text), f"lower-math{{precision={order}}}").body.block
    assert isinstance(function.first_op, FuncOp)
    return function.first_op


def apply(name: str, order: str, x: Array) -> Array:
    return run(lowered(name, order), x.astype(np.float32))[0]


def exact_logistic(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def exact_gelu(x: Array) -> Array:
    return x * np.vectorize(math.erfc, otypes=[np.float64])(-x / math.sqrt(2)) / 2


# What docs/math.md says: the function, the range, the largest relative error of each order.
BOUNDS: list[tuple[str, Callable[[Array], Array], tuple[float, float], tuple[float, float]]] = [
    ("exp", np.exp, (-86.9, 88.6), (0.0299, 0.00265)),
    ("exp2", np.exp2, (-125.4, 127.9), (0.0299, 0.00265)),
    ("scaled_exp", lambda x: np.exp(x / -8), (-700, 690), (0.0299, 0.00265)),
    ("logistic", exact_logistic, (-75, 200), (0.0309, 0.00265)),
]
GELU_BOUNDS = {-2: 0.0345, -3: 0.0905}
"""The largest relative error from there on."""
GELU_ABSOLUTE = 0.0041
"""For x up to 0."""


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("name", "function", "limits", "bounds"), BOUNDS)
def test_relative_error(
    name: str,
    function: Callable[[Array], Array],
    limits: tuple[float, float],
    bounds: tuple[float, float],
    order: str,
) -> None:
    x = np.concatenate([np.linspace(*limits, 1_000_000), np.linspace(-2, 2, 500_000)])
    x = x.astype(np.float32)
    exact = function(x.astype(np.float64))
    error = np.abs(apply(name, order, x)[exact != 0] / exact[exact != 0] - 1).max()
    bound = bounds[ORDERS.index(order)]
    assert 0.9 * bound < error <= bound


def test_errors_of_gelu() -> None:
    x = np.concatenate([np.linspace(-12, 6, 2_000_000), -np.geomspace(1e-30, 3e38, 200_000)])
    x = x.astype(np.float32)
    exact, y = exact_gelu(x.astype(np.float64)), apply("gelu", "quake1", x)
    error = np.abs(y - exact)
    for low, bound in GELU_BOUNDS.items():
        inside = (x >= low) & (exact != 0)
        assert 0.9 * bound < (error[inside] / np.abs(exact[inside])).max() <= bound
    assert 0.9 * GELU_ABSOLUTE < error[x <= 0].max() <= GELU_ABSOLUTE


def test_order_two_leaves_gelu_exact() -> None:
    assert str(lowered("gelu", "quake2")) == str(lowered("gelu", "exact"))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["exp", "exp2"])
def test_powers_never_fall(name: str, order: str) -> None:
    x = np.concatenate([np.linspace(-130, 130, 2_000_000), np.linspace(-2, 2, 2_000_000)])
    y = apply(name, order, np.sort(x))
    assert (np.diff(y[np.isfinite(y)]) >= -1e-6 * y[np.isfinite(y)][1:]).all()
    assert (y >= 0).all()


@pytest.mark.parametrize("order", ORDERS)
def test_edges_are_those_of_the_exact_functions(order: str) -> None:
    inf, nan = np.inf, np.nan
    x = np.array([-inf, -3.4e38, -1e30, -1e4, -200, 200, 1e4, 3.4e38, inf, nan, -nan, 0.0, -0.0])
    with np.errstate(all="ignore"):
        for name, function in (("exp", np.exp), ("exp2", np.exp2)):
            y, exact = apply(name, order, x), function(x.astype(np.float32))
            np.testing.assert_allclose(y, exact, rtol=0.03)
        np.testing.assert_allclose(
            apply("logistic", order, x), exact_logistic(x), rtol=0.02, atol=1e-45
        )
        for gated in (apply("gelu", order, x[1:8]), x[1:8] * apply("logistic", order, x[1:8])):
            np.testing.assert_allclose(gated, np.maximum(x[1:8], 0), rtol=0.003, atol=1e-20)
        odd = apply("gelu", order, np.array([nan, -nan, -inf, inf, 0.0]))
    assert np.isnan(odd[:3]).all()
    assert list(odd[3:]) == [inf, 0]


@pytest.mark.parametrize("order", ORDERS)
def test_the_logistic_function_stays_from_0_to_1(order: str) -> None:
    words = np.random.default_rng(0).integers(0, 2**32, 2_000_000, dtype=np.uint64)
    x = words.astype(np.uint32).view(np.float32)
    y = apply("logistic", order, np.concatenate([x[~np.isnan(x)], np.linspace(-95, 20, 10**6)]))
    assert (y >= 0).all()
    assert (y <= 1).all()


@pytest.mark.parametrize(
    ("name", "counts"),
    [("exp", (5, 9)), ("exp2", (5, 9)), ("logistic", (9, 15)), ("gelu", (13, 19))],
)
def test_number_of_ops(name: str, counts: tuple[int, int]) -> None:
    for order, count in zip(ORDERS, counts, strict=True):
        ops = [op.name for op in lowered(name, order).body.block.ops if op.name not in FREE]
        assert len(ops) == count
        exact = {"arith.divf"} if (name, order) == ("gelu", "quake2") else set()
        assert {"arith.divf", "math.exp", "math.erf", "arith.negf"} & set(ops) == exact


@pytest.mark.parametrize("order", ORDERS)
def test_other_functions_stay_exact(order: str) -> None:
    text = """func.func @f(%x : f32, %y : f32) -> (f32, f32, f32, f32, f32) {
        %one = arith.constant 1.0 : f32
        %q = arith.divf %one, %y : f32
        %e = math.erf %x : f32
        %t = math.tanh %x : f32
        %p = math.powf %x, %y : f32
        %r = math.fma %q, %e, %y : f32
        func.return %q, %e, %t, %p, %r : f32, f32, f32, f32, f32 }"""
    exact = apply_passes(parse_module(text), "lower-math")
    assert apply_passes(
        parse_module(text), f"lower-math{{precision={order}}}"
    ).is_structurally_equivalent(exact)


@pytest.mark.parametrize("order", ORDERS)
def test_an_exponential_that_others_use_stays(order: str) -> None:
    text = """func.func @f(%x : f32) -> (f32, f32) {
        %one = arith.constant 1.0 : f32
        %e = math.exp %x : f32
        %d = arith.addf %e, %one : f32
        %q = arith.divf %one, %d : f32
        func.return %q, %e : f32, f32 }"""
    function = apply_passes(parse_module(text), f"lower-math{{precision={order}}}").body.block
    assert isinstance(function.first_op, FuncOp)
    x = np.linspace(-10, 10, 1001).astype(np.float32)
    logistic, exponential = run(function.first_op, x)
    np.testing.assert_allclose(logistic, exact_logistic(-x), rtol=0.032)
    np.testing.assert_allclose(exponential, np.exp(x), rtol=0.03)


@pytest.mark.parametrize("order", ORDERS)
def test_scalars_vectors_and_the_printed_c_give_equal_bits(order: str, tmp_path: Any) -> None:
    x = np.random.default_rng(0).normal(0, 8, (20_000, 24)).astype(np.float32)
    x.flat[:6] = [np.nan, np.inf, -np.inf, 0, -0.0, 1e-42]
    for name in BODIES:
        np.testing.assert_array_equal(run(lowered(name, order, "f32"), x)[0], apply(name, order, x))
    machine = TargetMachine.native()
    if "fma.f32" not in machine.instructions:
        pytest.skip("without fused multiplication the last bits differ")
    text = "".join(kernel(name, BODIES[name].replace("T", "vector<2x24xf32>")) for name in BODIES)
    module = apply_passes(parse_module(text), f"lower-math{{precision={order}}}")
    for name, function in compiled(module, machine, tmp_path).items():
        y = call_compiled(function, x)
        np.testing.assert_array_equal(y, apply(name, order, x), err_msg=name)
