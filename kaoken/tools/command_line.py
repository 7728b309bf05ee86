"""How kaoken's tools fail: one line on stderr, and an exit code that is not 0."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Callable, Iterable
from typing import Any

from xdsl.utils.arg_spec import ArgSpec, ArgSpecConvertible, parse_pipeline
from xdsl.utils.exceptions import ArgSpecParseError, DiagnosticException, ParseError

from kaoken.errors import KaokenError, MarkedError
from kaoken.modules import diagnostic_text, parse_error_text


def run_tool(run: Callable[[], Any]) -> None:
    """Run a tool; an error that the user can mend becomes one line and exit code 1."""
    try:
        run()
    except (KaokenError, DiagnosticException, ParseError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)


def one_line(error: Exception) -> str:
    """The message of an error on one line; a marked place of the user's file follows it."""
    if isinstance(error, ParseError):
        return parse_error_text(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, DiagnosticException):
        return diagnostic_text(error)
    if isinstance(error, MarkedError):
        return str(error)
    return " ".join(str(error).split())


def parse_specs(text: str) -> list[ArgSpec]:
    """`a,b{x=1}` as specs; KaokenError when it is not of that form."""
    try:
        return list(parse_pipeline(text))
    except ArgSpecParseError as error:
        message = str(error).strip().split("\n")[-1].strip()
        raise KaokenError(f"cannot read the pipeline '{text}': {message}") from None


def configure(
    kind: str, spec: ArgSpec, available: dict[str, Callable[[], type[Any]]]
) -> ArgSpecConvertible:
    """The pass or target that a spec names, with its options.

    Raises KaokenError for an unknown name or option, with the nearest ones, or a wrong value.
    """
    if spec.name not in available:
        raise KaokenError(f"there is no {kind} '{spec.name}'{suggestion(spec.name, available)}")
    cls: type[ArgSpecConvertible] = available[spec.name]()
    options = [field.name.replace("_", "-") for field in dataclasses.fields(cls)]
    for name in spec.parameters:
        if name.replace("_", "-") not in options:
            has = f"it has {', '.join(options)}" if options else "it has none"
            raise KaokenError(f"{kind} '{spec.name}' has no option '{name}': {has}")
    try:
        return cls.from_spec(spec)
    except (ValueError, TypeError) as error:
        raise KaokenError(f"{kind} '{spec.name}': {' '.join(str(error).split())}") from None


def suggestion(name: str, available: Iterable[str]) -> str:
    """`: did you mean ...?` with the nearest known names, or nothing."""
    near = difflib.get_close_matches(name, list(available), n=3)
    return f": did you mean {' or '.join(near)}?" if near else ""
