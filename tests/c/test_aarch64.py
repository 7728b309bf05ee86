"""The target aarch64-neon: built by a cross compiler, run by qemu, compared with numpy."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from kaoken.backend.c_printer import print_module
from kaoken.backend.interface import interface_of
from kaoken.backend.machine import TargetMachine
from kaoken.backend.package import output_folder, write_package
from kaoken.compiler import lower
from kaoken.dialect.reference import run_module
from kaoken.modules import parse_module
from kaoken.options import CompileOptions
from kaoken.weights import attach_store, store_of
from tests.c import cross
from tests.c.c_harness import parse
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
from tests.helpers import apply_passes, assert_close, fill_weights, random_inputs, store_from

TARGET = "aarch64-neon"

LAYER = """
func.func @main(%x: tensor<?x?x28xf32> {kaoken.shape = #kaoken.shape<[batch, tokens, 28]>, kaoken.name = "x"})
    -> tensor<?x?x28xf32> attributes {kaoken.max = {batch = 2, tokens = 20}} {
  %wq = kaoken.weight "q" : tensor<28x28xf32>
  %wk = kaoken.weight "k" : tensor<28x28xf32>
  %wu = kaoken.weight "u" : tensor<50x28xf32>
  %wd = kaoken.weight "d" : tensor<28x50xf32>
  %n = kaoken.weight "n" : tensor<28xf32>
  %q = kaoken.linear %x, %wq : tensor<?x?x28xf32>, tensor<28x28xf32> -> tensor<?x?x28xf32>
  %k = kaoken.linear %x, %wk : tensor<?x?x28xf32>, tensor<28x28xf32> -> tensor<?x?x28xf32>
  %a = kaoken.attention %q, %k, %x {num_heads = 4, num_kv_heads = 4, scale = 0.4 : f64} : tensor<?x?x28xf32>, tensor<?x?x28xf32>, tensor<?x?x28xf32> -> tensor<?x?x28xf32>
  %u = kaoken.linear %a, %wu : tensor<?x?x28xf32>, tensor<50x28xf32> -> tensor<?x?x50xf32>
  %g = kaoken.gelu %u : tensor<?x?x50xf32> -> tensor<?x?x50xf32>
  %d = kaoken.linear %g, %wd residual %x : tensor<?x?x28xf32> : tensor<?x?x50xf32>, tensor<28x50xf32> -> tensor<?x?x28xf32>
  %y = kaoken.layer_norm %d, %n {eps = 1.0e-5 : f64} : tensor<?x?x28xf32>, tensor<28xf32> -> tensor<?x?x28xf32>
  return %y : tensor<?x?x28xf32>
}
"""  # noqa: E501

CODES = {"c6": 6, "c5": 5}
"""Weights of codes, with the bits that they have."""
FEW_BITS = """
func.func @main(%x: tensor<?x?x28xf32> {kaoken.shape = #kaoken.shape<[batch, tokens, 28]>, kaoken.name = "x"})
    -> tensor<?x?x28xf32> attributes {kaoken.max = {batch = 2, tokens = 20}} {
  %c6 = kaoken.weight "c6" : tensor<28x28xui8>
  %s6 = kaoken.weight "s6" : tensor<28x2xi8>
  %t6 = kaoken.weight "t6" : tensor<28x1xf16>
  %c5 = kaoken.weight "c5" : tensor<28x28xui8>
  %s5 = kaoken.weight "s5" : tensor<28x1xi8>
  %m5 = kaoken.weight "m5" : tensor<28x1xi8>
  %t5 = kaoken.weight "t5" : tensor<28x2xf16>
  %a = kaoken.dequantize %c6 scale %s6 : tensor<28x2xi8> supers %t6 : tensor<28x1xf16> {format = #kaoken.format<6 bits, group 16, offset 32, super 2>} : tensor<28x28xui8> -> tensor<28x28xf32>
  %b = kaoken.dequantize %c5 scale %s5 : tensor<28x1xi8> min %m5 : tensor<28x1xi8> supers %t5 : tensor<28x2xf16> {format = #kaoken.format<5 bits, group 32, super 8>} : tensor<28x28xui8> -> tensor<28x28xf32>
  %u = kaoken.linear %x, %a : tensor<?x?x28xf32>, tensor<28x28xf32> -> tensor<?x?x28xf32>
  %y = kaoken.linear %x, %b residual %u : tensor<?x?x28xf32> : tensor<?x?x28xf32>, tensor<28x28xf32> -> tensor<?x?x28xf32>
  return %y : tensor<?x?x28xf32>
}
"""  # noqa: E501

DRIVER = """
#include <stdio.h>
#include <stdlib.h>
#include "layer.h"

int main(int argc, char **argv)
{
    char error[256];
    layer *model = layer_create("layer.weights", atoi(argv[1]), error, sizeof error);
    if (argc < 4 || model == NULL) {
        fprintf(stderr, "%s\\n", error);
        return 1;
    }
    const int64_t batch = atoi(argv[2]), tokens = atoi(argv[3]);
    const size_t count = (size_t)(batch * tokens * 28);
    float *x = malloc(count * sizeof *x), *y = malloc(count * sizeof *y);
    const int code = fread(x, sizeof *x, count, stdin) != count
        || layer_run(model, x, y, batch, tokens);
    fwrite(y, sizeof *y, count, stdout);
    layer_destroy(model);
    return code;
}
"""


SHAPES = [(1, 1), (1, 7), (2, 20)]
"""Batch and tokens."""


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> cross.EmulatedC:
    cross.need_emulator()
    texts = [function_text(case, n, 3) for case in CASES for n in SIZES]
    texts += [reduction_text(k, short, n) for k, (_, short) in REDUCTIONS.items() for n in SIZES]
    # xDSL 0.74 verifies select and some conversions for scalars only.
    module = parse("\n".join(texts), verify=False)
    return cross.EmulatedC(module, TARGET, tmp_path_factory.mktemp("ops"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_op(emulated: cross.EmulatedC, case: Case) -> None:
    for size in SIZES:
        inputs = [data(t, (3, size), seed) for seed, t in enumerate(case.inputs)]
        guarded = np.full(3 * size + 8, 77, DTYPES[case.result])
        emulated.call(f"{case.name}_3x{size}", *inputs, guarded)
        expected = np.asarray(case.numpy(*inputs), DTYPES[case.result])
        result = guarded[: 3 * size].reshape(3, size)
        np.testing.assert_allclose(result, expected, rtol=case.tolerance, equal_nan=True)
        np.testing.assert_array_equal(guarded[3 * size :], np.full(8, 77, guarded.dtype))


@pytest.mark.parametrize("kind", REDUCTIONS)
def test_reduction(emulated: cross.EmulatedC, kind: str) -> None:
    function, short = REDUCTIONS[kind]
    for size in SIZES:
        values = -data(short, (size,), 3)
        result = np.zeros(1, DTYPES[short])
        emulated.call(f"{kind}_{size}", values, result)
        np.testing.assert_allclose(result[0], function(values), rtol=1e-6)


@pytest.mark.parametrize(
    ("target", "dtype", "threads", "tolerance"),
    [
        (TARGET, "f32", 1, 1e-5),
        (TARGET, "f32", 2, 1e-5),
        (TARGET, "bf16", 1, 2e-5),
        (TARGET, "int8", 1, 2e-4),
        (f"{TARGET}+i8mm", "int8", 1, 2e-4),
        (TARGET, "ternary", 1, 2e-4),
        (f"{TARGET}+dotprod", "ternary", 1, 2e-4),
    ],
)
def test_layer(target: str, dtype: str, threads: int, tolerance: float, tmp_path: Path) -> None:
    cross.need_emulator()
    module = parse_module(LAYER)
    fill_weights(module)
    machine = TargetMachine.parse(target)
    inputs = {(b, t): random_inputs(module, {"batch": b, "tokens": t}) for b, t in SHAPES}
    narrow = f'quantize{{dtype={dtype} target="{target}"}}'
    reference = apply_passes(module, f"canonicalize,fuse,{narrow}")
    expected = {key: run_module(reference, x) for key, x in inputs.items()}
    lower(module, CompileOptions(target, dtype, threads))
    folder = _write(module, tmp_path / "layer", machine, threads)
    for (batch, tokens), x in inputs.items():
        result = _run(folder, threads, batch, tokens, x[0])
        assert_close(expected[batch, tokens], [result], tolerance)


ONE = """
func.func @main(%x: tensor<?x?x28xf32> {kaoken.shape = #kaoken.shape<[batch, tokens, 28]>, kaoken.name = "x"})
    -> tensor<?x?x28xf32> attributes {kaoken.max = {batch = 2, tokens = 20}} {
  %w = kaoken.weight "w" : tensor<28x28xf32>
  %y = kaoken.linear %x, %w : tensor<?x?x28xf32>, tensor<28x28xf32> -> tensor<?x?x28xf32>
  return %y : tensor<?x?x28xf32>
}
"""  # noqa: E501


@pytest.mark.parametrize("target", [TARGET, f"{TARGET}+dotprod"])
@pytest.mark.parametrize("dtype", ["int4", "int2", "int1"])
def test_few_bits_are_exact(target: str, dtype: str, tmp_path: Path) -> None:
    """To the last bit, where no op before the layer rounds otherwise than numpy."""
    cross.need_emulator()
    module = parse_module(ONE)
    fill_weights(module)
    machine = TargetMachine.parse(target)
    inputs = {(b, t): random_inputs(module, {"batch": b, "tokens": t}) for b, t in SHAPES}
    reference = apply_passes(module, f"quantize{{dtype={dtype}}}")
    lower(module, CompileOptions(target, dtype))
    folder = _write(module, tmp_path / "layer", machine, 1)
    for (batch, tokens), x in inputs.items():
        found = _run(folder, 1, batch, tokens, x[0])
        np.testing.assert_array_equal(found, run_module(reference, x)[0])


@pytest.mark.parametrize("target", [TARGET, f"{TARGET}+dotprod"])
def test_codes_of_five_and_six_bits(target: str, tmp_path: Path) -> None:
    """Groups of super-blocks, with and without minima: numpy's result, bit for bit."""
    cross.need_emulator()
    module = parse_module(FEW_BITS)
    random = np.random.default_rng(0)
    arrays = {key: random.integers(0, 1 << bits, (28, 28), np.uint8) for key, bits in CODES.items()}
    arrays |= {key: random.integers(-128, 128, (28, 2), np.int8) for key in ("s6", "s5", "m5")}
    arrays |= {key: random.random((28, n)).astype(np.float16) for key, n in (("t6", 1), ("t5", 2))}
    arrays["s5"], arrays["m5"] = arrays["s5"][:, :1], arrays["m5"][:, :1]
    attach_store(module, store_from(arrays))
    machine = TargetMachine.parse(target)
    x = random_inputs(module, {"batch": 2, "tokens": 17})
    (expected,) = run_module(apply_passes(module, "fuse,quantize{dtype=auto}"), x)
    lower(module, CompileOptions(target))
    folder = _write(module, tmp_path / "layer", machine, 1)
    np.testing.assert_array_equal(_run(folder, 1, 2, 17, x[0]), expected)


def _run(folder: Path, threads: int, batch: int, tokens: int, x: np.ndarray) -> np.ndarray:
    """What the program makes of an input."""
    words = [*cross.EMULATOR, "./driver", str(threads), str(batch), str(tokens)]
    done = subprocess.run(words, cwd=folder, input=x.tobytes(), capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.float32).reshape(x.shape)


def _write(module: ModuleOp, folder: Path, machine: TargetMachine, threads: int) -> Path:
    """The package without a library, and a program around it."""
    interface = interface_of(module, "layer")
    source = print_module(module, machine)
    with output_folder(folder) as draft:
        options = CompileOptions(machine.text, "f32", threads)
        write_package(draft, source, interface, store_of(module), options, {})
    (folder / "driver.c").write_text(DRIVER)
    sources = ["layer.c", "kaoken_runtime.c", "kaoken_cpu.c", "driver.c"]
    command = [cross.COMPILER, *machine.compiler_flags("gcc"), "-static", "-pthread", *sources]
    subprocess.run([*command, "-lm", "-o", "driver"], cwd=folder, check=True)
    return folder
