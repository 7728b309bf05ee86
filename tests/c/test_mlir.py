"""An independent MLIR reads the loops that kaoken prints in upstream dialects.

Modules of every loop stage go through Debian's mlir-opt, which verifies them. What it prints is
parsed here again, and at the end made into C that gives the reference's numbers. Ops and
attributes of kaoken's own are unregistered ones to MLIR; kernels have such ops only for choices
among lanes, which xDSL's arith does not verify.
"""

from __future__ import annotations

import shutil
import subprocess
from io import StringIO
from pathlib import Path

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.printer import Printer

from kaoken.backend.machine import TargetMachine, cpu_flags
from kaoken.dialect.reference import run_module
from kaoken.modules import parse_module
from kaoken.options import CompileOptions
from kaoken.weights import attach_store, store_of
from tests.available import missing
from tests.c.layers import ATTENTION, LINEAR
from tests.c.stages import compile_stage, run_stage
from tests.helpers import apply_passes, assert_close, fill_weights, random_inputs

TOOLS = ("mlir-opt-19", "mlir-opt", "iree-opt")
UPSTREAM = {"affine", "arith", "func", "math", "memref", "scf", "vector"}
CHOICES = {f"kaoken_loop.{op}" for op in ("compare", "select", "step", "convert")}
KERNEL_STAGES = ("lower-to-loops", "tile", "reorder", "vectorize", "vectorize,lower-math")
MODULE_STAGES = (
    "vectorize,lower-math,plan-memory",
    "parallelize{threads=2},lower-math,plan-memory",
)

LAYER_NORM = """
func.func @main(%x: tensor<?x17xf32> {kaoken.shape = #kaoken.shape<[rows, 17]>, kaoken.name = "x"})
    -> tensor<?x17xf32> attributes {kaoken.max = {rows = 129}} {
  %g = kaoken.weight "g" : tensor<17xf32>
  %b = kaoken.weight "b" : tensor<17xf32>
  %y = kaoken.layer_norm %x, %g bias %b : tensor<17xf32> {eps = 1.0e-5}
    : tensor<?x17xf32>, tensor<17xf32> -> tensor<?x17xf32>
  return %y : tensor<?x17xf32>
}
"""
SOFTMAX = """
func.func @main(%x: tensor<?x?xf32> {kaoken.shape = #kaoken.shape<[rows, n]>, kaoken.name = "x"})
    -> tensor<?x?xf32> attributes {kaoken.max = {rows = 9, n = 40}} {
  %y = kaoken.softmax %x {dim = 1} : tensor<?x?xf32> -> tensor<?x?xf32>
  return %y : tensor<?x?xf32>
}
"""
LAYERS = {
    "linear": LINEAR.format(n=50),
    "layer_norm": LAYER_NORM,
    "attention": ATTENTION.replace("CAUSAL", "false"),
    "causal attention": ATTENTION.replace("CAUSAL", "true"),
    "softmax": SOFTMAX,
}


@pytest.fixture(scope="session")
def mlir_opt() -> str:
    """An MLIR that is not xDSL."""
    for name in TOOLS:
        if (path := shutil.which(name)) is not None:
            return path
    missing("mlir-opt (package mlir-19-tools)")


@pytest.mark.parametrize("stage", KERNEL_STAGES)
@pytest.mark.parametrize("layer", LAYERS)
def test_kernels_are_of_upstream_dialects_only(layer: str, stage: str, mlir_opt: str) -> None:
    lowered = kernels(lower(layer_module(layer), stage))
    names = {op.name for f in lowered.ops for op in f.walk()} - CHOICES
    assert {name.split(".")[0] for name in names} <= UPSTREAM
    assert op_names(through_mlir(mlir_opt, lowered)) == op_names(lowered)


@pytest.mark.parametrize("stage", MODULE_STAGES)
@pytest.mark.parametrize("layer", LAYERS)
def test_what_mlir_gives_back_computes_the_same(
    layer: str, stage: str, mlir_opt: str, tmp_path: Path
) -> None:
    machine = TargetMachine.parse("x86-64-v3")
    if not set(machine.cpu_flags) <= cpu_flags():
        machine = TargetMachine.parse("generic")
    module = layer_module(layer)
    returned = through_mlir(mlir_opt, lower(module, stage, machine))
    model = compile_stage(returned, tmp_path / "stage", machine, 2 if "threads=2" in stage else 1)
    inputs = random_inputs(module, {"rows": 9, "n": 40, "batch": 2, "tokens": 33})
    assert_close(run_module(module, inputs), run_stage(model, inputs), 1e-5)


def test_mlir_accepts_a_whole_encoder(mlir_opt: str, tmp_path: Path) -> None:
    from kaoken.compiler import lower as run_pipeline
    from kaoken.frontend.load import load_model
    from tests.unit.small_bert import write_folder

    pytest.importorskip("transformers")
    module = load_model(write_folder(tmp_path / "bert"), max_tokens=24)
    run_pipeline(module, CompileOptions("x86-64-v4", "f32", threads=2))
    assert op_names(through_mlir(mlir_opt, module)) == op_names(module)


def layer_module(name: str) -> ModuleOp:
    module = parse_module(LAYERS[name])
    fill_weights(module)
    return module


def lower(module: ModuleOp, stage: str, machine: TargetMachine | None = None) -> ModuleOp:
    target = machine.name if machine else "x86-64-v3"
    return apply_passes(module, f'choose-schedule{{target="{target}"}},{stage}')


def kernels(module: ModuleOp) -> ModuleOp:
    """The functions that @main calls."""
    functions = [op for op in module.ops if isinstance(op, FuncOp) and op.sym_name.data != "main"]
    assert functions
    return ModuleOp([function.clone() for function in functions])


def through_mlir(tool: str, module: ModuleOp) -> ModuleOp:
    """The module as MLIR prints it after verifying it."""
    text = StringIO()
    Printer(text, print_generic_format=True).print_op(module)
    command = [tool, "--allow-unregistered-dialect", "--mlir-print-op-generic"]
    done = subprocess.run(command, input=text.getvalue(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr.partition("see current operation")[0]
    returned = parse_module(done.stdout)
    attach_store(returned, store_of(module))
    return returned


def op_names(module: ModuleOp) -> list[str]:
    return [op.name for op in module.walk()]
