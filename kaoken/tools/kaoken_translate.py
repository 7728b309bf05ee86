"""`kaoken-translate --to-c`: from a module of any level to C, by what remains of the pipeline."""

from __future__ import annotations

import argparse
import sys
from io import StringIO
from typing import NoReturn

from xdsl.dialects.builtin import ModuleOp

from kaoken.errors import KaokenError
from kaoken.modules import read_module, write_text
from kaoken.tools.command_line import run_tool
from kaoken.universe import make_context


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "kaoken-translate", description="Turn a module of any level into C."
    )
    parser.add_argument("input_file", help="a .mlir file, its sidecar beside it")
    parser.add_argument("--to-c", action="store_true", required=True, help="print C")
    parser.add_argument("-o", "--output-file", help="where to write; stdout otherwise")
    parser.add_argument(
        "--target",
        default="native",
        help="generic, x86-64-v3, x86-64-v4+vnni ... or native, this machine (the default)",
    )
    parser.add_argument("--threads", type=int, default=1, help="most threads of one call")
    parser.error = _raise_usage_error
    return parser


def translate_to_c(module: ModuleOp, target: str = "native", threads: int = 1) -> str:
    """Run the default pipeline on a module, in place, and give its C.

    Passes whose work is done already leave the module as it is. Raises KaokenError for an unknown
    target, or an op that no pass lowers.
    """
    from kaoken.backend.c_target import CTarget
    from kaoken.compiler import lower
    from kaoken.options import CompileOptions

    options, output = CompileOptions(target, "f32", threads), StringIO()
    lower(module, options)
    CTarget(target=options.machine.name, lower=False).emit(make_context(), module, output)
    return output.getvalue()


def _raise_usage_error(message: str) -> NoReturn:
    raise KaokenError(message)


def _translate(args: list[str] | None) -> None:
    options = _arguments().parse_args(args)
    code = translate_to_c(read_module(options.input_file), options.target, options.threads)
    if options.output_file is None:
        sys.stdout.write(code)
    else:
        write_text(options.output_file, code)


def main(args: list[str] | None = None) -> None:
    """Entry point of `kaoken-translate`; `args` defaults to those of the process."""
    run_tool(lambda: _translate(args))


if __name__ == "__main__":
    main()
