"""C compilers: finding one, and building a package's library with it.

compiler = find_compiler()              # $CC, else gcc, clang, cc, zig, the ziglang package
build_library(folder, "minilm", machine, compiler)    # writes folder/libminilm.so
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kaoken.backend.cache import cache_directory, content_key, copy_file
from kaoken.errors import KaokenError

if TYPE_CHECKING:
    from kaoken.backend.machine import TargetMachine

RUNTIME = Path(__file__).parent / "runtime"
RUNTIME_SOURCES = ("kaoken_runtime.c", "kaoken_cpu.c")
RUNTIME_FLAGS = ("-std=c11", "-O2")
"""No target: these two must run on any CPU of the architecture, to say that the rest cannot."""

_ZIG_BASELINE = ("-march=baseline",)
"""zig builds for the machine it runs on unless told otherwise; a later -march wins."""

SHARED_FLAGS = ("-fPIC", "-fvisibility=hidden", "-pthread")
_NO_COMPILER = "no C compiler found: install gcc or `pip install kaoken[zig]`"
_ERROR_LINES = 3


@dataclass(frozen=True)
class Compiler:
    """A C compiler; `family` says which flags it takes: gcc, clang or zig."""

    command: tuple[str, ...]
    family: str
    version: str

    def __str__(self) -> str:
        return f"{' '.join(self.command)} ({self.version})"


def find_compiler(request: str | None = None) -> Compiler:
    """The compiler called `request` (a name, a path, or `zig`), else $CC, else one that is there.

    Raises KaokenError when it does not exist or does not run.
    """
    request = request or os.environ.get("CC")
    if request:
        return _probe(tuple(_command(request)))
    for name in ("gcc", "clang", "cc", "zig"):
        if shutil.which(name):
            return _probe(tuple(_command(name)))
    if importlib.util.find_spec("ziglang") is not None:
        return _probe(tuple(_command("zig")))
    raise KaokenError(_NO_COMPILER)


def _command(request: str) -> list[str]:
    words = shlex.split(request)
    if words != ["zig"]:
        return words
    if shutil.which("zig"):
        return ["zig", "cc"]
    if importlib.util.find_spec("ziglang") is None:
        raise KaokenError("zig is not installed: `pip install kaoken[zig]`")
    return [sys.executable, "-m", "ziglang", "cc"]


@cache
def _probe(command: tuple[str, ...]) -> Compiler:
    text = " ".join(command)
    try:
        result = subprocess.run([*command, "--version"], capture_output=True, text=True)
    except OSError:
        raise KaokenError(f"the C compiler {text} cannot be run: is it installed?") from None
    if result.returncode != 0 or not result.stdout:
        raise KaokenError(f"the C compiler {text} does not answer to --version")
    return Compiler(command, _family(command, result.stdout), result.stdout.splitlines()[0])


def _family(command: tuple[str, ...], version: str) -> str:
    if any(Path(word).name in ("zig", "ziglang") for word in command):
        return "zig"
    return "clang" if "clang" in version else "gcc"


def library_name(name: str) -> str:
    """The shared library's file name."""
    return f"lib{name}.dylib" if sys.platform == "darwin" else f"lib{name}.so"


def build_library(
    folder: Path,
    name: str,
    machine: TargetMachine,
    compiler: Compiler,
    extra_flags: Sequence[str] = (),
) -> Path:
    """Compile `folder`'s sources into its shared library, or copy one that was built from equals.

    Raises KaokenError with the compiler's first lines when it fails.
    """
    baseline = _ZIG_BASELINE if compiler.family == "zig" else ()
    model_flags = (*baseline, *machine.compiler_flags(compiler.family), *extra_flags)
    runtime_flags = (*baseline, *RUNTIME_FLAGS, *extra_flags)
    flags = {f"{name}.c": model_flags} | dict.fromkeys(RUNTIME_SOURCES, runtime_flags)
    headers = sorted(folder.glob("*.h"))
    contents = [p.read_bytes() for p in (*headers, *(folder / source for source in flags))]
    key = content_key([*compiler.command, compiler.version, str(flags), *contents])
    library, known = folder / library_name(name), cache_directory("libraries") / f"{key}.so"
    if not known.exists():
        _compile(folder, flags, compiler, known)
    copy_file(known, library)
    return library


def _compile(
    folder: Path, flags: dict[str, tuple[str, ...]], compiler: Compiler, target: Path
) -> None:
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(len(flags)) as pool:
        objects = [str(Path(scratch) / f"{source}.o") for source in flags]
        commands = [
            [*compiler.command, *own, *SHARED_FLAGS, "-c", str(folder / source), "-o", object_]
            for (source, own), object_ in zip(flags.items(), objects, strict=True)
        ]
        for _ in pool.map(run_compiler, commands):
            pass
        library = Path(scratch) / "library.so"
        run_compiler(
            [*compiler.command, "-shared", "-pthread", *objects, "-lm", "-o", str(library)]
        )
        copy_file(library, target)


def run_compiler(command: Sequence[str]) -> None:
    """Run one command of a compiler; KaokenError with its first errors when it fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise KaokenError(f"{command[0]} cannot be run: {error.strerror}") from None
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if "error" in line]
        first = (lines or result.stderr.splitlines())[:_ERROR_LINES]
        raise KaokenError(f"{command[0]} failed: " + "; ".join(first))
