"""`lower-math` keeps the bounds it states: the lowered IR itself is run on millions of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.func import FuncOp

from kaoken.backend.machine import TargetMachine
from kaoken.errors import KaokenError
from kaoken.modules import parse_module
from kaoken.passes.lower_math import LowerMathPass
from tests.helpers import apply_passes
from tests.unit.math_kernels import FREE, call_compiled, compiled, kernel
from tests.unit.numpy_ir import run

Array = np.ndarray[Any, Any]

TINIEST_EXP = 2.0**-125.5


def exact_rsqrt(x: Array) -> Array:
    return 1 / np.sqrt(x)


# The function in float64, the bound in units in the last place, the number of ops.
FUNCTIONS: dict[str, tuple[Callable[..., Array], float, int]] = {
    "exp": (np.exp, 1.0, 14),
    "exp2": (np.exp2, 1.0, 13),
    "log": (np.log, 1.0, 35),
    "erf": (np.vectorize(math.erf, otypes=[np.float64]), 3.0, 16),
    "tanh": (np.tanh, 3.0, 14),
    "sin": (np.sin, 1.6, 24),
    "cos": (np.cos, 1.6, 25),
    "rsqrt": (exact_rsqrt, 1.5, 2),
}


def lowered(name: str, arguments: int = 1, type_: str = "vector<3x5xf32>") -> FuncOp:
    """A function that applies `math.<name>` to its arguments, after the pass."""
    names = [f"%a{i}" for i in range(arguments)]
    parameters = ", ".join(f"{a} : {type_}" for a in names)
    module = apply_passes(
        parse_module(
            f"func.func @f({parameters}) -> {type_} {{\n"
            f"  %r = math.{name} {', '.join(names)} : {type_}\n"
            f"  func.return %r : {type_}\n}}"
        ),
        "lower-math",
    )
    function = module.body.block.first_op
    assert isinstance(function, FuncOp)
    return function


def units(result: Array, exact: Array) -> Array:
    """The distance from the exact result, in units in the last place of float32."""
    exponent = np.floor(np.log2(np.maximum(np.abs(exact), 2.0**-126)))
    return np.abs(result - exact) / np.exp2(exponent - 23)


def samples(name: str) -> Array:
    """Every exponent and sign, all special numbers, and the interesting range densely."""
    generator = np.random.default_rng(0)
    words = generator.integers(0, 2**32, 1_000_000, dtype=np.uint64).astype(np.uint32)
    special = np.array([0.0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 2.0**-126, 2.0**-149])
    low, high = {
        "exp": (-104, 90),
        "exp2": (-150, 130),
        "log": (0.4, 2.5),
        "erf": (-4.2, 4.2),
        "tanh": (-9.5, 9.5),
        "sin": (-1e4, 1e4),
        "cos": (-1e4, 1e4),
        "rsqrt": (0.25, 4),
    }[name]
    dense = np.linspace(low, high, 1_500_000)
    near_zero = np.geomspace(1e-40, 1, 250_000)
    x = np.concatenate([special, dense, near_zero, -near_zero]).astype(np.float32)
    x = np.concatenate([x, words.view(np.float32)])
    return x[~(np.abs(x) > 1e5)] if name in ("sin", "cos") else x


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_over_the_whole_range(name: str) -> None:
    function, bound, _ = FUNCTIONS[name]
    x = samples(name)
    (y,) = run(lowered(name), x)
    with np.errstate(all="ignore"):
        exact = function(x.astype(np.float64))
        nearest = exact.astype(np.float32)
    if name.startswith("exp"):
        flushed = np.abs(exact) < TINIEST_EXP * (1 + 1e-5)
        np.testing.assert_array_equal(y[exact < TINIEST_EXP * (1 - 1e-5)], 0)
        exact[flushed & (y == 0)] = nearest[flushed & (y == 0)] = 0
    finite = np.isfinite(y)
    np.testing.assert_array_equal(y[~finite], nearest[~finite])
    worst = np.argmax(units(y[finite], exact[finite]))
    error = units(y[finite], exact[finite])[worst]
    assert error <= bound, f"{error} units at {x[finite][worst]}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_number_of_ops(name: str) -> None:
    ops = [op.name for op in lowered(name).body.block.ops if op.name not in FREE]
    assert len(ops) == FUNCTIONS[name][2]


@pytest.mark.parametrize("name", ["erf", "tanh"])
def test_saturation(name: str) -> None:
    x = np.linspace(0, 12, 500_000).astype(np.float32)
    (y,) = run(lowered(name), np.concatenate([x, -x]))
    up, down = np.split(y, 2)
    np.testing.assert_array_equal(down, -up)
    assert up.max() == 1
    assert (up[x >= 8.6] == 1).all()


def test_exact_points() -> None:
    assert run(lowered("exp"), np.zeros(1, np.float32))[0] == 1
    whole = np.arange(-125, 128, dtype=np.float32)
    powers = np.ldexp(np.float32(1), whole.astype(int))
    np.testing.assert_array_equal(run(lowered("exp2"), whole)[0], powers)


def test_nan_with_a_payload_stays_nan() -> None:
    nans = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7FC001FF], np.uint32).view(np.float32)
    for name in FUNCTIONS:
        assert np.isnan(run(lowered(name), nans)[0]).all(), name


def power_error(x: Array, y: Array) -> float:
    """The largest error of powf where the result is a normal number; elsewhere equality."""
    x, y = x.astype(np.float32), y.astype(np.float32)
    (z,) = run(lowered("powf", 2), x, y)
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.float64), y.astype(np.float64))
        nearest = exact.astype(np.float32)
    small = (np.abs(exact) < TINIEST_EXP * 1.01) & (z == 0)
    normal = np.isfinite(nearest) & np.isfinite(z) & ~small
    odd_ones = ~normal & ~small
    np.testing.assert_array_equal(z[odd_ones], nearest[odd_ones])
    return float(units(z[normal], exact[normal]).max(initial=0))


def test_power() -> None:
    generator = np.random.default_rng(0)
    count = 500_000
    uniform = generator.uniform
    wide = np.exp(uniform(-87, 88, count))
    assert power_error(wide, uniform(-10, 10, count)) <= 1.2
    assert power_error(np.exp(uniform(-3, 3, count)), uniform(-30, 30, count)) <= 1.2
    assert power_error(-np.exp(uniform(-3, 3, count)), np.rint(uniform(-30, 30, count))) <= 1.2
    assert power_error(uniform(0.999, 1.001, count), uniform(-1e5, 1e5, count)) <= 1.2
    assert power_error(uniform(0.7, 1.4, count), uniform(-300, 300, count)) <= 6
    assert power_error(np.geomspace(1e-44, 1e-37, count), uniform(-1, 1, count)) <= 1.2
    special = np.array([0.0, 1, -1, 2, -2, 0.5, 3, 1e38, 1e-20, -3, 16777217, 1e20, -1e20, np.inf])
    x, y = np.meshgrid(special, special)
    assert power_error(x.ravel(), y.ravel()) <= 1.2


@pytest.mark.parametrize("exponent", [0.0, 0.5, -0.5, 1.0, 2.0, 3.0, 4.0, -1.0, -2.0])
def test_constant_power(exponent: float) -> None:
    module = parse_module(
        "func.func @f(%x : vector<8xf32>) -> vector<8xf32> {\n"
        f"  %y = arith.constant dense<{exponent:e}> : vector<8xf32>\n"
        "  %r = math.powf %x, %y : vector<8xf32>\n"
        "  func.return %r : vector<8xf32>\n}"
    )
    function = apply_passes(module, "lower-math").body.block.first_op
    assert isinstance(function, FuncOp)
    ops = [op for op in function.body.block.ops if op.name not in FREE]
    assert len(ops) <= 3
    x = np.linspace(0.01, 50, 200_000).astype(np.float32)
    result = np.broadcast_to(run(function, x)[0], x.shape)
    assert units(result, x.astype(np.float64) ** exponent).max() <= 2


def test_scalars_and_vectors_give_equal_bits() -> None:
    x = np.random.default_rng(0).normal(0, 3, 1000).astype(np.float32)
    for name in FUNCTIONS:
        (vector,) = run(lowered(name), x)
        (scalar,) = run(lowered(name, type_="f32"), x)
        np.testing.assert_array_equal(vector, scalar)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(KaokenError, match=r"no precision `fast`: choose one of exact"):
        LowerMathPass(precision="fast")


def test_the_printed_c_gives_equal_bits(tmp_path: Path) -> None:
    machine = TargetMachine.native()
    if "fma.f32" not in machine.instructions:
        pytest.skip("without fused multiplication the last bits differ")
    bodies = {name: f"%r = math.{name} %x : vector<2x24xf32>" for name in FUNCTIONS}
    kernels = "".join(kernel(name, body) for name, body in bodies.items())
    module = apply_passes(parse_module(kernels), "lower-math")
    x = np.random.default_rng(0).normal(0, 8, (20_000, 24)).astype(np.float32)
    x.flat[:6] = [np.nan, np.inf, -np.inf, 0, -0.0, 1e-42]
    for name, function in compiled(module, machine, tmp_path).items():
        np.testing.assert_array_equal(
            call_compiled(function, x), run(lowered(name), x)[0], err_msg=name
        )
