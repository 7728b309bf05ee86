"""Every vector op as a case: its text, its inputs, and what numpy says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_dtypes import bfloat16
from xdsl.dialects.arith import CMPF_COMPARISON_OPERATIONS, CMPI_COMPARISON_OPERATIONS

SIZES = (1, 7, 17, 129)
DTYPES: dict[str, Any] = {
    "f32": np.float32,
    "f64": np.float64,
    "i1": np.bool_,
    "i8": np.int8,
    "i32": np.int32,
    "i64": np.int64,
    "f16": np.float16,
    "bf16": bfloat16,
    "ui8": np.uint8,
}


@dataclass(frozen=True)
class Case:
    """One op: `code` computes %r from %a, %b, %c, all of vector type V<element type>."""

    name: str
    code: str
    inputs: tuple[str, ...]
    result: str
    numpy: Callable[..., Any]
    tolerance: float = 0.0


def unary(name: str, op: str, function: Callable[..., Any], tolerance: float = 0.0) -> Case:
    return Case(name, f"%r = {op} %a : V<f32>", ("f32",), "f32", function, tolerance)


def binary(name: str, op: str, function: Callable[..., Any], short: str = "f32") -> Case:
    return Case(name, f"%r = {op} %a, %b : V<{short}>", (short, short), short, function)


def compare(op: str, predicate: str, a: str, b: str, short: str = "f32") -> str:
    names = CMPF_COMPARISON_OPERATIONS if op == "cmpf" else CMPI_COMPARISON_OPERATIONS
    number = names.index(predicate)
    types = f"(V<{short}>, V<{short}>) -> V<i1>"
    return f'"arith.{op}"(%{a}, %{b}) <{{predicate = {number} : i64}}> : {types}'


def comparison(op: str, short: str, predicate: str, function: Callable[..., Any]) -> Case:
    code = (
        f"%m = {compare(op, predicate, 'a', 'b', short)}\n"
        f'%r = "arith.select"(%m, %a, %c) : (V<i1>, V<{short}>, V<{short}>) -> V<{short}>'
    )

    def reference(a: Any, b: Any, c: Any) -> Any:
        return np.where(function(a, b), a, c)

    return Case(f"{op}_{predicate}_{short}", code, (short,) * 3, short, reference)


def compare_and_select(short: str, predicate: str, function: Callable[..., Any]) -> Case:
    """kaoken_loop's own ops, which are verified on vectors."""
    code = (
        f'%m = kaoken_loop.compare "{predicate}" %a, %b : V<{short}> -> V<i1>\n'
        f"%r = kaoken_loop.select %m, %a, %c : V<i1>, V<{short}>"
    )

    def reference(a: Any, b: Any, c: Any) -> Any:
        return np.where(function(a, b), a, c)

    return Case(f"select_{predicate}_{short}", code, (short,) * 3, short, reference)


def widening(source: str) -> Case:
    """kaoken_loop's own op, which takes unsigned integers as well."""
    code = f"%r = kaoken_loop.convert %a : V<{source}> to V<f32>"
    return Case(f"convert_{source}_f32", code, (source,), "f32", to("f32"))


def rounding(target: str) -> Case:
    """To the nearest integer: ties, and numbers far outside of the target's."""
    code = f"""%d = arith.subf %a, %b : V<f32>
    %p = arith.mulf %c, %c : V<f32>
    %q = arith.mulf %p, %p : V<f32>
    %s = arith.mulf %d, %q : V<f32>
    %r = kaoken_loop.convert %s : V<f32> to V<{target}>"""
    limits = np.iinfo(DTYPES[target])

    def reference(a: Any, b: Any, c: Any) -> Any:
        return np.clip(np.rint((a - b) * (c * c * (c * c))), limits.min, limits.max)

    return Case(f"round_f32_{target}", code, ("f32",) * 3, target, reference)


def conversion(op: str, source: str, target: str, function: Callable[..., Any]) -> Case:
    code = f'%r = "arith.{op}"(%a) : (V<{source}>) -> V<{target}>'
    return Case(f"{op}_{source}_{target}", code, (source,), target, function)


def to(short: str) -> Callable[[Any], Any]:
    return lambda a: a.astype(DTYPES[short])


def masks(op: str, function: Callable[..., Any]) -> Case:
    def reference(a: Any, b: Any, c: Any) -> Any:
        return np.where(function(a < b, a > c), a, b)

    code = f"""%m1 = {compare("cmpf", "olt", "a", "b")}
    %m2 = {compare("cmpf", "ogt", "a", "c")}
    %m = arith.{op} %m1, %m2 : V<i1>
    %r = "arith.select"(%m, %a, %b) : (V<i1>, V<f32>, V<f32>) -> V<f32>"""
    return Case(f"mask_{op}", code, ("f32",) * 3, "f32", reference)


def erf(x: Any) -> Any:
    from math import erf as scalar_erf

    return np.vectorize(scalar_erf)(x).astype(np.float32)


CASES = [
    binary("addf", "arith.addf", np.add),
    binary("subf", "arith.subf", np.subtract),
    binary("mulf", "arith.mulf", np.multiply),
    binary("divf", "arith.divf", np.divide),
    binary("maxf", "arith.maximumf", np.maximum),
    binary("minf", "arith.minimumf", np.minimum),
    binary("addd", "arith.addf", np.add, "f64"),
    binary("maxd", "arith.maximumf", np.maximum, "f64"),
    binary("addi", "arith.addi", np.add, "i32"),
    binary("addi8", "arith.addi", np.add, "i8"),
    binary("subi", "arith.subi", np.subtract, "i32"),
    binary("muli64", "arith.muli", np.multiply, "i64"),
    binary("andi", "arith.andi", np.bitwise_and, "i32"),
    binary("ori", "arith.ori", np.bitwise_or, "i32"),
    binary("xori", "arith.xori", np.bitwise_xor, "i32"),
    binary("maxsi", "arith.maxsi", np.maximum, "i32"),
    binary("minsi", "arith.minsi", np.minimum, "i32"),
    binary("maxsi64", "arith.maxsi", np.maximum, "i64"),
    unary("negf", "arith.negf", np.negative),
    unary("sqrt", "math.sqrt", lambda a: np.sqrt(a)),
    unary("rsqrt", "math.rsqrt", lambda a: 1 / np.sqrt(a), 2e-7),
    unary("absf", "math.absf", np.abs),
    unary("floor", "math.floor", np.floor),
    unary("ceil", "math.ceil", np.ceil),
    unary("trunc", "math.trunc", np.trunc),
    unary("roundeven", "math.roundeven", np.rint),
    unary("exp", "math.exp", np.exp, 1e-6),
    unary("tanh", "math.tanh", np.tanh, 1e-6),
    unary("erf", "math.erf", erf, 1e-6),
    Case(
        "fma",
        "%r = vector.fma %a, %b, %c : V<f32>",
        ("f32",) * 3,
        "f32",
        lambda a, b, c: a * b + c,
        1e-5,
    ),
    Case(
        "shl",
        "%s = arith.constant dense<3> : V<i32>\n%r = arith.shli %a, %s : V<i32>",
        ("i32",),
        "i32",
        lambda a: a << 3,
    ),
    Case(
        "shrs",
        "%s = arith.constant dense<2> : V<i32>\n%r = arith.shrsi %a, %s : V<i32>",
        ("i32",),
        "i32",
        lambda a: a >> 2,
    ),
    Case(
        "shru",
        "%s = arith.constant dense<2> : V<i32>\n%r = arith.shrui %a, %s : V<i32>",
        ("i32",),
        "i32",
        lambda a: (a.view(np.uint32) >> 2).view(np.int32),
    ),
    *[
        comparison("cmpf", "f32", predicate, function)
        for predicate, function in [
            ("oeq", np.equal),
            ("olt", np.less),
            ("ole", np.less_equal),
            ("ogt", np.greater),
            ("oge", np.greater_equal),
            ("une", np.not_equal),
            ("one", np.not_equal),
            ("ult", np.less),
            ("ord", lambda a, b: np.full(a.shape, True)),
            ("uno", lambda a, b: np.full(a.shape, False)),
        ]
    ],
    comparison("cmpf", "f64", "olt", np.less),
    *[
        comparison("cmpi", short, predicate, function)
        for short in ("i32", "i64")
        for predicate, function in [
            ("eq", np.equal),
            ("ne", np.not_equal),
            ("slt", np.less),
            ("sge", np.greater_equal),
        ]
    ],
    comparison("cmpi", "i32", "ult", lambda a, b: a.view(np.uint32) < b.view(np.uint32)),
    rounding("ui8"),
    rounding("i8"),
    compare_and_select("f32", "ogt", np.greater),
    compare_and_select("i32", "sle", np.less_equal),
    Case(
        "select_of_bools",
        "%r = kaoken_loop.select %a, %b, %c : V<i1>, V<f32>",
        ("i1", "f32", "f32"),
        "f32",
        lambda a, b, c: np.where(a, b, c),
    ),
    Case(
        "step",
        "%s = kaoken_loop.step %z {strides = array<i64: 100, 2>} : V<i32>\n"
        "%r = arith.addi %a, %s : V<i32>",
        ("i32",),
        "i32",
        lambda a: a + 100 * np.arange(a.shape[0])[:, None] + 2 * np.arange(a.shape[1]),
    ),
    Case(
        "step_of_rows",
        "%s = kaoken_loop.step %z {strides = array<i64: 3, 0>} : V<i32>\n"
        "%r = arith.addi %a, %s : V<i32>",
        ("i32",),
        "i32",
        lambda a: a + 3 * np.arange(a.shape[0])[:, None],
    ),
    masks("andi", np.logical_and),
    masks("ori", np.logical_or),
    masks("xori", np.logical_xor),
    conversion("sitofp", "i32", "f32", to("f32")),
    conversion("sitofp", "i64", "f32", to("f32")),
    conversion("sitofp", "i8", "f32", to("f32")),
    conversion("uitofp", "i1", "f32", to("f32")),
    conversion("fptosi", "f32", "i32", to("i32")),
    conversion("fptosi", "f32", "i64", to("i64")),
    conversion("extf", "f32", "f64", to("f64")),
    conversion("truncf", "f64", "f32", to("f32")),
    conversion("extf", "f16", "f32", to("f32")),
    *(widening(source) for source in ("i8", "ui8", "f16", "bf16")),
    conversion("truncf", "f32", "f16", to("f16")),
    conversion("extsi", "i8", "i32", to("i32")),
    conversion("extui", "i1", "i32", to("i32")),
    conversion("extui", "i8", "i32", lambda a: a.view(np.uint8).astype(np.int32)),
    conversion("extsi", "i1", "i32", lambda a: -a.astype(np.int32)),
    conversion("trunci", "i64", "i32", to("i32")),
    conversion("trunci", "i32", "i1", lambda a: (a & 1).astype(np.bool_)),
    conversion("bitcast", "f32", "i32", lambda a: a.view(np.int32)),
    conversion("bitcast", "i32", "f32", lambda a: a.view(np.float32)),
]
REDUCTIONS = {
    "add": (np.sum, "f32"),
    "maximumf": (np.max, "f32"),
    "minimumf": (np.min, "f32"),
    "maxsi": (np.max, "i32"),
}


def function_text(case: Case, size: int, rows: int) -> str:
    """A function that reads tiles, computes and writes the result."""
    vector, memref = (f"{kind}<{rows}x{size}x" for kind in ("vector", "memref"))
    names = "abc"[: len(case.inputs)]
    arguments = ", ".join(f"%{n}m: {memref}{t}>" for n, t in zip(names, case.inputs, strict=True))
    zeros = {"f": "0.0", "b": "0.0", "i": "0"}
    lines = []
    for n, t in zip(names, case.inputs, strict=True):
        signless = t.removeprefix("u")
        zero = "false" if t == "i1" else f"{zeros[signless[0]]} : {signless}"
        constant = f"arith.constant {zero}"
        if t != signless:  # arith has no unsigned constants
            lines.append(f"%{n}s = {constant}")
            constant = f"kaoken_loop.convert %{n}s : {signless} to {t}"
        lines.append(f"%{n}p = {constant}")
        lines.append(
            f"%{n} = vector.transfer_read %{n}m[%z, %z], %{n}p {{in_bounds = [true, true], "
            "permutation_map = affine_map<(d0, d1) -> (d0, d1)>}"
            f" : {memref}{t}>, {vector}{t}>"
        )
    code = "\n".join([*lines, case.code.replace("V<", vector)])
    return f"""func.func @{case.name}_{rows}x{size}({arguments}, %o: {memref}{case.result}>) {{
%z = arith.constant 0 : index
{code}
vector.transfer_write %r, %o[%z, %z] {{in_bounds = [true, true],
  permutation_map = affine_map<(d0, d1) -> (d0, d1)>}}
  : {vector}{case.result}>, {memref}{case.result}>
func.return
}}"""


def reduction_text(kind: str, short: str, size: int) -> str:
    zero = "0.0" if short == "f32" else "0"
    return f"""func.func @{kind}_{size}(%am: memref<{size}x{short}>, %o: memref<1x{short}>) {{
%z = arith.constant 0 : index
%p = arith.constant {zero} : {short}
%a = vector.transfer_read %am[%z], %p {{in_bounds = [true],
  permutation_map = affine_map<(d0) -> (d0)>}} : memref<{size}x{short}>, vector<{size}x{short}>
%r = vector.reduction <{kind}>, %a : vector<{size}x{short}> into {short}
memref.store %r, %o[%z] : memref<1x{short}>
func.return
}}"""


def data(short: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Numbers with equal and unequal neighbours, positive floats, ties for rounding."""
    rng = np.random.default_rng(seed)
    if short == "i1":
        return rng.integers(0, 2, shape).astype(np.bool_)
    if short == "ui8":
        return rng.integers(0, 256, shape).astype(np.uint8)
    if short.startswith("i"):
        low = -100 if short == "i8" else -1000
        values = rng.integers(low, -low, shape).astype(DTYPES[short])
        return np.where(rng.random(shape) < 0.3, values.dtype.type(5), values)
    values = rng.integers(1, 40, shape) / 8
    return values.astype(DTYPES[short])
