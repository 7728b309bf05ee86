"""Running a module at any loop stage: print it as C as it stands, compile, load, call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from kaoken.backend.c_printer import print_module
from kaoken.backend.interface import interface_of
from kaoken.backend.loader import Library
from kaoken.backend.machine import TargetMachine
from kaoken.backend.package import output_folder, write_package
from kaoken.backend.toolchain import build_library, find_compiler
from kaoken.compiled_model import CompiledModel
from kaoken.options import CompileOptions
from kaoken.weights import store_of


def compile_stage(
    module: ModuleOp, folder: Path, machine: TargetMachine, threads: int = 1
) -> CompiledModel:
    """The C of a module of loops, without any further pass."""
    interface = interface_of(module, "stage")
    source = print_module(module, machine)
    with output_folder(folder) as draft:
        options = CompileOptions(machine.text, "f32", threads)
        write_package(draft, source, interface, store_of(module), options, {})
        build_library(draft, interface.name, machine, find_compiler())
    return CompiledModel(Library(folder), threads)


def run_stage(model: CompiledModel, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The results in order."""
    results = model(*inputs)
    return results if isinstance(results, tuple) else (results,)
