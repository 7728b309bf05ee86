"""Writes the real IR and C into docs/levels.md, beneath each line such as

    <!-- after=vectorize function=linear_32x64_gelu case=default -->

`after` is a pass, or `import`, or `c` for the C source; `function` names what to show; `case` keeps
only that case of each switch; `match` and `without` keep or drop the lines that hold a text;
`lines` keeps lines such as 2-9. `make docs` runs it.
"""

from __future__ import annotations

import importlib.util
import re
import tempfile
from pathlib import Path
from types import ModuleType

from xdsl.dialects.builtin import ModuleOp
from xdsl.traits import SymbolTable

from kaoken.backend.c_printer import print_module
from kaoken.backend.machine import TargetMachine
from kaoken.compiler import import_model
from kaoken.pipelines import default_pipeline
from kaoken.universe import make_context

FOLDER = Path(__file__).parent
PAGE = FOLDER / "levels.md"
TARGET = "x86-64-v3"
_BLOCK = re.compile(r"<!-- (after=.*?) -->\n```(\w+)\n.*?\n```\n", re.DOTALL)


def stages() -> dict[str, ModuleOp | str]:
    """The encoder of docs/encoder.py after each pass, by the pass's name; `c` is its C."""
    machine, context = TargetMachine.parse(TARGET), make_context()
    module = _imported()
    found: dict[str, ModuleOp | str] = {"import": module.clone()}
    for one in default_pipeline(machine, threads=2):
        one.apply(context, module)
        found[one.name] = module.clone()
    return found | {"c": print_module(module, machine).code}


def _imported() -> ModuleOp:
    """By way of a file, as the page's commands do it: values get the same names."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.pt2"
        torch.export.save(_encoder_module().exported(), path)
        return import_model(path)


def _encoder_module() -> ModuleType:
    """docs/encoder.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("encoder", FOLDER / "encoder.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(text: str) -> str:
    """The page's text with every block made anew."""
    known = stages()

    def block(match: re.Match[str]) -> str:
        options = dict(word.split("=") for word in match[1].split())
        stage, function = known[options["after"]], options["function"]
        shown = c_function(stage, function) if isinstance(stage, str) else ir(stage, function)
        shown = selected(shown, options)
        return f"<!-- {match[1]} -->\n```{match[2]}\n{shown}\n```\n"

    return _BLOCK.sub(block, text)


def selected(text: str, options: dict[str, str]) -> str:
    """What the options leave of a text."""
    if "case" in options:
        text = only_case(text, options["case"])
    lines = text.splitlines()
    if "match" in options:
        lines = [line for line in lines if options["match"] in line]
    if "without" in options:
        lines = [line for line in lines if options["without"] not in line]
    if "lines" in options:
        first, last = map(int, options["lines"].split("-"))
        lines = [*lines[first - 1 : last], *(["  ..."] if last < len(lines) else [])]
    return "\n".join(lines)


def ir(module: ModuleOp, function: str) -> str:
    """One function as MLIR."""
    found = SymbolTable.lookup_symbol(module, function)
    if found is None:
        raise ValueError(f"there is no @{function}")
    return str(found)


def c_function(code: str, function: str) -> str:
    """One function of the C source, with the comment before it."""
    match = re.search(rf"(/\*[^/]*\*/\n)?static void {function}\(.*?\n}}\n", code, re.DOTALL)
    if match is None:
        raise ValueError(f"there is no C function {function}")
    return match[0].rstrip()


def only_case(text: str, wanted: str) -> str:
    """The text with `...` for every other case of a switch, in MLIR or C."""
    shown: list[str] = []
    hidden: str | None = None
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        if hidden is not None:
            hidden = None if line == f"{hidden}}}" else hidden
        elif re.match(r"(case \d+|default):? \{", line.strip()) and wanted not in line:
            shown.append(f"{line} ... }}")
            hidden = indent
        else:
            shown.append(line)
    return "\n".join(shown)


def main() -> None:
    PAGE.write_text(page(PAGE.read_text()))


if __name__ == "__main__":
    main()
