"""Writes the real IR and C into docs/levels.md and docs/gemm.md, beneath each line such as

    <!-- after=vectorize function=linear_32x64_gelu case=default -->

`after` is a pass, or `import`, or `c` for the C source;
`function` names what to show; `from` takes stages of that name, where a page has several;
`case` keeps only that case of each switch; `nest=first` drops what follows the first loop nest;
`loop` keeps the first loop of that name; `match` and `without` keep or drop the lines that hold a
text; `lines` keeps lines such as 2-9. `make docs` runs it.
"""

from __future__ import annotations

import importlib.util
import re
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from xdsl.dialects.builtin import ModuleOp
from xdsl.traits import SymbolTable

from kaoken.backend.c_printer import print_module
from kaoken.compiler import import_model
from kaoken.modules import read_module
from kaoken.options import CompileOptions
from kaoken.pipelines import default_pipeline
from kaoken.universe import make_context

FOLDER = Path(__file__).parent
_BLOCK = re.compile(r"<!-- (after=.*?) -->\n```(\w+)\n.*?\n```\n", re.DOTALL)

Stages = dict[str, ModuleOp | str]
"""A module after each pass, by the pass's name; `c` is its C."""


def stages(module: ModuleOp, target: str, threads: int, schedule: str | None = None) -> Stages:
    options, context = CompileOptions(target, "f32", threads, schedule), make_context()
    found: Stages = {"import": module.clone()}
    for one in default_pipeline(options):
        one.apply(context, module)
        found[one.name] = module.clone()
    return found | {"c": print_module(module, options.machine).code}


def levels_stages() -> dict[str, Stages]:
    return {"page": stages(_imported(), "x86-64-v3", threads=2)}


def gemm_stages() -> dict[str, Stages]:
    """By docs/gemm.schedule, and with one line of it changed as the page tells."""

    def made(schedule: str) -> Stages:
        return stages(read_module(FOLDER / "gemm.mlir"), "x86-64-v4", 2, schedule)

    schedule = (FOLDER / "gemm.schedule").read_text()
    changed = schedule.replace("tile(m, 6)", "tile(m, 2)")
    return {"page": made(schedule), "changed": made(changed)}


PAGES: dict[str, Callable[[], dict[str, Stages]]] = {
    "levels.md": levels_stages,
    "gemm.md": gemm_stages,
}
"""What each page shows: its stages, by the word after `from`."""


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


def page(name: str) -> str:
    """The page's text with every block made anew."""
    known = PAGES[name]()

    def block(match: re.Match[str]) -> str:
        options = dict(word.split("=") for word in match[1].split())
        shown = selected(content(known[options.get("from", "page")], options), options)
        return f"<!-- {match[1]} -->\n```{match[2]}\n{shown}\n```\n"

    return _BLOCK.sub(block, (FOLDER / name).read_text())


def content(known: Stages, options: dict[str, str]) -> str:
    """What a block asks for, before lines are selected."""
    stage, function = known[options["after"]], options["function"]
    return ir(stage, function) if isinstance(stage, ModuleOp) else c_function(stage, function)


def selected(text: str, options: dict[str, str]) -> str:
    """What the options leave of a text."""
    if "case" in options:
        text = only_case(text, options["case"])
    if "nest" in options:
        text = first_nest(text)
    if "loop" in options:
        text = only_loop(text, options["loop"])
    lines = text.splitlines()
    if "match" in options:
        lines = [line for line in lines if options["match"] in line]
    if "without" in options:
        lines = [line for line in lines if options["without"] not in line]
    if "lines" in options:
        first, last = map(int, options["lines"].split("-"))
        lines = [*lines[first - 1 : last], *(["  ..."] if last < len(lines) else [])]
    return "\n".join(lines)


def first_nest(text: str) -> str:
    """The text to the end of its first loop, without the function's attributes."""
    lines = re.sub(r" attributes \{.*\} \{\n", " {\n", text, count=1).splitlines()
    start, end = loop_lines(lines, r" *(affine\.)?for ")
    indent = lines[start][: len(lines[start]) - len(lines[start].lstrip())]
    return "\n".join([*lines[:end], f"{indent}..."])


def only_loop(text: str, name: str) -> str:
    """The first loop over `name`, in MLIR or C, moved to the left."""
    lines = text.splitlines()
    start, end = loop_lines(lines, rf".*for (%{name} =|\(int64_t {name} =)")
    return textwrap.dedent("\n".join(lines[start:end]))


def loop_lines(lines: list[str], beginning: str) -> tuple[int, int]:
    """Where the first loop that begins so begins and ends."""
    start = next(i for i, line in enumerate(lines) if re.match(beginning, line))
    closing = lines[start][: len(lines[start]) - len(lines[start].lstrip())] + "}"
    return start, next(i for i in range(start, len(lines)) if lines[i].startswith(closing)) + 1


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
    for name in PAGES:
        (FOLDER / name).write_text(page(name))


if __name__ == "__main__":
    main()
