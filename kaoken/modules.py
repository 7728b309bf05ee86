"""Reading and writing modules together with their weights."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.ir import Operation
from xdsl.utils.exceptions import DiagnosticException, ParseError

from kaoken.errors import KaokenError
from kaoken.parsing import KaokenParser
from kaoken.universe import make_context
from kaoken.weights import DIGEST, WEIGHTS, set_base_directory, sidecars, store_of

_MARKED_OP = re.compile(r'"([\w.]+)" ?\(.*\n\s*\^\^')
"""The op above the carets, in the text that xDSL adds to an error."""


NOTES = "kaoken.notes"
"""The attribute of a module that holds what the user should know of it, a sentence each."""


def add_notes(module: ModuleOp, notes: Iterable[str]) -> None:
    """Say more of a module in its `kaoken.notes`."""
    if added := [StringAttr(note) for note in notes]:
        known = module.attributes.get(NOTES)
        old = list(known.data) if isinstance(known, ArrayAttr) else []
        module.attributes[NOTES] = ArrayAttr([*old, *added])


def notes_of(module: ModuleOp) -> list[str]:
    """What `add_notes` has said of a module."""
    notes = module.attributes.get(NOTES)
    found = notes.data if isinstance(notes, ArrayAttr) else ()
    return [note.data for note in found if isinstance(note, StringAttr)]


def read_module(path: str | Path, context: Context | None = None) -> ModuleOp:
    """Parse and verify a .mlir file; its sidecars are opened and checked.

    Raises KaokenError when the file or a sidecar is missing or wrong.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise KaokenError(f"cannot read {path}: {_reason(error)}") from None
    module = parse_module(text, str(path), context)
    set_base_directory(module, path.parent)
    store_of(module)
    return module


def parse_module(text: str, name: str = "text", context: Context | None = None) -> ModuleOp:
    """Parse and verify a module's text; KaokenError says where it is wrong."""
    try:
        module = KaokenParser(context or make_context(), text, name).parse_module()
        module.verify()
    except ParseError as error:
        raise KaokenError(parse_error_text(error)) from None
    except DiagnosticException as error:
        raise KaokenError(f"{name}: {diagnostic_text(error)}") from None
    return module


def parse_error_text(error: ParseError) -> str:
    """A parse error as one line: `file:line:column: message`."""
    start = error.span.start
    before = error.span.input.content[:start]
    newline = "\n" if isinstance(before, str) else b"\n"
    line = before.count(newline) + 1 + error.span.line_offset  # pyright: ignore[reportArgumentType]
    column = start - before.rfind(newline)  # pyright: ignore[reportArgumentType]
    return f"{error.span.input.name}:{line}:{column}: {' '.join(error.msg.split())}"


def diagnostic_text(error: DiagnosticException) -> str:
    """A verifier's or pass's error on one line, with the name of the op it is about."""
    message = " ".join(str(error).split())
    printed = "\n".join(getattr(error, "__notes__", []))
    marked = _MARKED_OP.search(printed)
    return f"{marked.group(1)}: {message}" if marked else message


def write_module(module: ModuleOp, path: str | Path) -> None:
    """Write `<path>` and, when the module names weights, `<stem>.safetensors` beside it.

    The module's `kaoken.weights` and `kaoken.digest` are set to what was written. Raises
    KaokenError when the folder cannot be written; nothing is left half-written.
    """
    path = Path(path)
    if stored_keys(module):
        save_weights(module, path.with_suffix(".safetensors"), path.parent)
    write_text(path, str(module) + "\n")


def save_weights(module: ModuleOp, file: Path, relative_to: Path | None) -> None:
    """Save the weights that a module's ops name, and record the file and its digest in the module.

    The file's name is recorded relative to a folder, or whole.
    """
    store, keys = store_of(module), stored_keys(module)
    store.save(file, keys)
    name = file.resolve() if relative_to is None else os.path.relpath(file, relative_to)
    module.attributes[WEIGHTS] = ArrayAttr([StringAttr(str(name))])
    module.attributes[DIGEST] = StringAttr(store.digest(keys))


def rebase_weights(module: ModuleOp, folder: Path) -> None:
    """Make `kaoken.weights` relative to another folder, in which the module will be written."""
    files = sidecars(module)
    if files:
        names = [StringAttr(os.path.relpath(file, folder)) for file in files]
        module.attributes[WEIGHTS] = ArrayAttr(names)


def referenced_keys(module: ModuleOp) -> list[str]:
    """The keys of all weight ops, each once, in order of first appearance."""
    return list(dict.fromkeys(_keys(module.walk())))


def stored_keys(module: ModuleOp) -> list[str]:
    """The keys of those weight ops whose bytes the module's store holds."""
    store = store_of(module)
    return [key for key in referenced_keys(module) if key in store]


def write_text(path: str | Path, text: str) -> None:
    """Write a file under a temporary name, then rename it; KaokenError when that fails."""
    path = Path(path)
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        os.replace(file.name, path)
    except OSError as error:
        raise KaokenError(f"cannot write {path}: {_reason(error)}") from None


def _keys(ops: Iterable[Operation]) -> Iterable[str]:
    for op in ops:
        if op.name in ("kaoken.weight", "kaoken_loop.weight"):
            key = op.properties["key"]
            assert isinstance(key, StringAttr)
            yield key.data


def _reason(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "it is not text"
