"""Printed modules built by a cross compiler and run by an emulator, for targets this CPU is not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from kaoken.backend.c_printer import CFunction, print_module
from kaoken.backend.machine import TargetMachine
from tests.c.c_harness import WARNINGS

COMPILER = "aarch64-linux-gnu-gcc"
EMULATOR = ("qemu-aarch64", "-cpu", "max")

_DRIVER = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The bytes of a file, in memory that ends where they do. */
static void *contents(const char *path)
{
    FILE *file = fopen(path, "rb");
    fseek(file, 0, SEEK_END);
    const size_t size = (size_t)ftell(file);
    void *bytes = malloc(size ? size : 1);
    rewind(file);
    if (fread(bytes, 1, size, file) != size) {
        exit(3);
    }
    fclose(file);
    return bytes;
}

static void write_back(const char *path, const void *bytes)
{
    FILE *file = fopen(path, "r+b");
    fseek(file, 0, SEEK_END);
    const size_t size = (size_t)ftell(file);
    rewind(file);
    fwrite(bytes, 1, size, file);
    fclose(file);
}
"""


def need_emulator() -> None:
    """Skip the test where the cross compiler or the emulator is missing."""
    for tool in (COMPILER, EMULATOR[0]):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


class EmulatedC:
    """A module's public functions as a program of their own; `call` takes arrays and integers."""

    def __init__(self, module: ModuleOp, target: str, folder: Path):
        machine = TargetMachine.parse(target)
        self.folder = folder
        self.source = print_module(module, machine)
        path = folder / "module.c"
        cases = "".join(_case(name, f) for name, f in self.source.functions.items())
        main = f"\nint main(int argc, char **argv)\n{{\n    (void)argc;\n{cases}    return 2;\n}}\n"
        path.write_text(self.source.code + _DRIVER + main)
        self.program = folder / "module"
        flags = [f if f != "-O3" else "-O1" for f in machine.compiler_flags("gcc")]
        command = [COMPILER, *flags, *WARNINGS, "-static", str(path), "-o", str(self.program)]
        subprocess.run([*command, "-lm"], check=True)

    def call(self, name: str, *arguments: np.ndarray | int) -> None:
        """Call a function of the IR; it may write into the arrays."""
        words: list[str] = []
        for i, argument in enumerate(arguments):
            if isinstance(argument, int):
                words.append(str(argument))
                continue
            file = self.folder / f"argument{i}"
            file.write_bytes(argument.tobytes())
            words.append(str(file))
        subprocess.run([*EMULATOR, str(self.program), name, *words], check=True)
        for word, argument in zip(words, arguments, strict=True):
            if isinstance(argument, np.ndarray):
                argument[...] = np.fromfile(word, argument.dtype).reshape(argument.shape)


def _case(name: str, function: CFunction) -> str:
    """C that calls one function when it is the one asked for."""
    lines = [f'    if (strcmp(argv[1], "{name}") == 0) {{']
    pointers: list[int] = []
    arguments: list[str] = []
    for i, parameter in enumerate(function.parameters):
        if "*" not in str(parameter):
            arguments.append(f"atoll(argv[{i + 2}])")
            continue
        lines.append(f"        void *p{i} = contents(argv[{i + 2}]);")
        arguments.append(f"p{i}")
        pointers.append(i)
    lines.append(f"        {function.name}({', '.join(arguments)});")
    lines += [f"        write_back(argv[{i + 2}], p{i});" for i in pointers]
    return "\n".join([*lines, "        return 0;", "    }", ""])
