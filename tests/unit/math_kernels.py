"""Functions of `math` ops as compiled C: kernels that apply one to every element of rows of 24."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from kaoken.backend.c_printer import print_module
from kaoken.backend.machine import TargetMachine
from kaoken.backend.toolchain import find_compiler, run_compiler

FREE = ("arith.constant", "arith.bitcast", "func.return")
KERNEL = """
func.func @{name}(%source : memref<?x24xf32>, %y : memref<?x24xf32>, %rows : index) {{
  %zero = arith.constant 0.0 : f32
  %column = arith.constant 0 : index
  affine.for %row = 0 to %rows step 2 {{
    %x = vector.transfer_read %source[%row, %column], %zero {{
      permutation_map = affine_map<(d0, d1) -> (d0, d1)>, in_bounds = [true, true]
    }} : memref<?x24xf32>, vector<2x24xf32>
    {body}
    vector.transfer_write %r, %y[%row, %column] {{
      permutation_map = affine_map<(d0, d1) -> (d0, d1)>, in_bounds = [true, true]
    }} : vector<2x24xf32>, memref<?x24xf32>
  }}
  return
}}
"""


def kernel(name: str, body: str) -> str:
    """A function that applies `body`, from %x to %r, to every element of rows of 24."""
    return KERNEL.format(name=name, body=body)


def compiled(module: ModuleOp, machine: TargetMachine, folder: Path) -> dict[str, Any]:
    """The module's functions, compiled from their C."""
    source = print_module(module, machine)
    pointers = {name: f.name for name, f in source.functions.items()}
    exported = "".join(
        f"\nvoid call_{name}(const float *x, float *y, int64_t n) {{ {c}(x, y, n); }}\n"
        for name, c in pointers.items()
    )
    (folder / "math.c").write_text("#include <math.h>\n" + source.code + exported)
    compiler = find_compiler()
    command = [*compiler.command, *machine.compiler_flags(compiler.family), "-shared", "-fPIC"]
    run_compiler([*command, str(folder / "math.c"), "-o", str(folder / "math.so"), "-lm"])
    library = ctypes.CDLL(str(folder / "math.so"))
    return {name: getattr(library, f"call_{name}") for name in pointers}


def call_compiled(function: Any, x: np.ndarray) -> np.ndarray:
    """What a compiled kernel makes of rows of 24."""
    y = np.empty_like(x)
    function(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data), ctypes.c_int64(len(x)))
    return y
