"""Every vector op on every target, at sizes that fill registers and that do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kaoken.backend.machine import TargetMachine, cpu_flags
from tests.c.c_harness import CompiledC, parse
from tests.c.vector_cases import (
    CASES,
    DTYPES,
    REDUCTIONS,
    SIZES,
    Case,
    data,
    function_text,
    reduction_text,
)

TARGETS = ("generic", "x86-64-v3", "x86-64-v4")


@pytest.fixture(scope="module", params=TARGETS)
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CompiledC:
    target = request.param
    if not cpu_flags().issuperset(TargetMachine.parse(target).cpu_flags):
        pytest.skip(f"this CPU lacks {target}")
    texts = [function_text(case, n, rows) for case in CASES for n in SIZES for rows in (1, 3)]
    texts += [reduction_text(k, short, n) for k, (_, short) in REDUCTIONS.items() for n in SIZES]
    # xDSL 0.74 verifies select and some conversions for scalars only.
    module = parse("\n".join(texts), verify=False)
    return CompiledC(module, target, tmp_path_factory.mktemp("ops"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_op(compiled: CompiledC, case: Case) -> None:
    for size in SIZES:
        for rows in (1, 3):
            shape = (rows, size)
            inputs = [data(t, shape, seed) for seed, t in enumerate(case.inputs)]
            guarded = np.full(rows * size + 8, 77, DTYPES[case.result])
            compiled.call(f"{case.name}_{rows}x{size}", *inputs, guarded)
            expected = np.asarray(case.numpy(*inputs), DTYPES[case.result])
            result = guarded[: rows * size].reshape(shape)
            np.testing.assert_allclose(result, expected, rtol=case.tolerance, equal_nan=True)
            np.testing.assert_array_equal(guarded[rows * size :], np.full(8, 77, guarded.dtype))


@pytest.mark.parametrize("kind", REDUCTIONS)
def test_reduction(compiled: CompiledC, kind: str) -> None:
    function, short = REDUCTIONS[kind]
    for size in SIZES:
        values = -data(short, (size,), 3)
        result = np.zeros(1, DTYPES[short])
        compiled.call(f"{kind}_{size}", values, result)
        np.testing.assert_allclose(result[0], function(values), rtol=1e-6)


def test_library_folder(tmp_path: Path) -> None:
    """Scalars before vectorize print and run as well."""
    text = """func.func @dot(%x: memref<?xf32>, %y: memref<?xf32>, %o: memref<1xf32>, %n: index) {
    %z = arith.constant 0 : index
    %zero = arith.constant 0.0 : f32
    %s = affine.for %i = 0 to %n iter_args(%acc = %zero) -> (f32) {
      %a = memref.load %x[%i] : memref<?xf32>
      %b = memref.load %y[%i] : memref<?xf32>
      %t = arith.mulf %a, %b : f32
      %u = arith.addf %acc, %t : f32
      affine.yield %u : f32
    }
    memref.store %s, %o[%z] : memref<1xf32>
    func.return
    }"""
    compiled = CompiledC(parse(text), "generic", tmp_path)
    x, result = np.arange(5, dtype=np.float32), np.zeros(1, np.float32)
    compiled.call("dot", x, x, result, 5)
    assert result[0] == 30
