"""`kaoken`: compile a model, run it, verify it, look into it.

Each command's options and help are a function in `kaoken/tools/commands`, its work is in a module
such as `compile_command.py`. An error that the user can mend is one line on stderr and exit code 1.
"""

from __future__ import annotations

import sys

import typer

from kaoken.errors import KaokenError
from kaoken.tools.commands import checking, compiling, timing

app = typer.Typer(
    name="kaoken",
    help="Turn trained transformers into fast, self-contained C libraries.",
    epilog="Start with: kaoken compile path/to/huggingface/folder -o encoder",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS = {
    "compile": compiling.compile,
    "run": compiling.run,
    "generate": checking.generate,
    "eval": checking.evaluate,
    "verify": checking.verify,
    "inspect": compiling.inspect,
    "bench": timing.bench,
    "profile": timing.profile,
    "tune": timing.tune,
}
"""In the order of the help."""
for name, command in COMMANDS.items():
    app.command(name)(command)


def _check_text(args: list[str]) -> None:
    """Raise KaokenError for an argument that Python could not decode (it holds surrogates)."""
    for arg in args:
        if any("\ud800" <= character <= "\udfff" for character in arg):
            raise KaokenError(f"the argument {arg!r} is not text in UTF-8")


def main(args: list[str] | None = None) -> None:
    """Entry point of `kaoken`; `args` defaults to those of the process."""
    try:
        _check_text(sys.argv[1:] if args is None else args)
        app(args)
    except KaokenError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
