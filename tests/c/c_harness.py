"""Compiles printed modules with gcc and calls their functions on numpy arrays."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from kaoken.backend.c_printer import CFunction, CSource, print_module
from kaoken.backend.machine import TargetMachine
from kaoken.universe import make_context

WARNINGS = ("-Wall", "-Wextra", "-Werror")


def parse(text: str, verify: bool = True) -> ModuleOp:
    """A module from its text."""
    module = Parser(make_context(), text).parse_module()
    if verify:
        module.verify()
    return module


class CompiledC:
    """A module's public functions as a shared library; `call` takes arrays and integers."""

    def __init__(self, module: ModuleOp, target: str, folder: Path):
        machine = TargetMachine.parse(target)
        self.source = print_module(module, machine)
        path = folder / "module.c"
        path.write_text(self.source.code + _exports(self.source))
        library = folder / "module.so"
        flags = [f if f != "-O3" else "-O1" for f in machine.compiler_flags("gcc")]
        subprocess.run(
            ["gcc", *flags, *WARNINGS, "-shared", "-fPIC", str(path), "-o", str(library), "-lm"],
            check=True,
        )
        self.library = ctypes.CDLL(str(library))

    def call(self, name: str, *arguments: np.ndarray | int) -> None:
        """Call a function of the IR; arrays are passed by address."""
        converted = [
            ctypes.c_int64(a) if isinstance(a, int) else ctypes.c_void_p(a.ctypes.data)
            for a in arguments
        ]
        getattr(self.library, f"test_{name}")(*converted)


def _exports(source: CSource) -> str:
    return "".join(_export(name, f) for name, f in source.functions.items())


def _export(name: str, function: CFunction) -> str:
    """A function that other programs see, around a static one."""
    first = ["const unsigned char *weights"] if function.uses_weights else []
    parameters = ", ".join([*first, *map(str, function.parameters)])
    names = (["weights"] if function.uses_weights else []) + [p.name for p in function.parameters]
    head = f"void test_{name}({parameters})"
    return f"\n{head};\n{head}\n{{\n    {function.name}({', '.join(names)});\n}}\n"
