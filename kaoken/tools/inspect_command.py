"""`kaoken inspect`: what a compiled folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kaoken.backend.loader import read_manifest
from kaoken.json_files import print_json

_KIB = 1024


def describe(folder: Path) -> dict[str, Any]:
    """The manifest, and the sizes of the files it names. KaokenError when there is none."""
    manifest = read_manifest(folder)
    source = folder / f"{manifest['name']}.c"
    library = folder / manifest["library"]
    return manifest | {
        "library_bytes": library.stat().st_size if library.exists() else None,
        "c_lines": len(source.read_text().splitlines()) if source.exists() else None,
        "files": sorted(path.name for path in folder.iterdir()),
    }


def run_inspect(folder: Path, as_json: bool) -> None:
    facts = describe(folder)
    if as_json:
        print_json(facts)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for title, text in _rows(facts):
        table.add_row(f"[bold]{title}[/]", text)
    Console(soft_wrap=True).print(table)


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("model", f"{facts['name']}, compiled by kaoken {facts['kaoken']}"),
        ("target", f"{facts['target']}, {facts['dtype']}, up to {facts['threads']} threads"),
        ("math", facts.get("math", "exact")),
    ]
    rows += [("input", _tensor(entry)) for entry in facts["inputs"]]
    rows += [("output", _tensor(entry)) for entry in facts["outputs"]]
    rows += [("size", f"{name}: 1 to {limit}") for name, limit in facts["symbols"].items()]
    ops = facts.get("ops", {})
    rows.append(("ops", ", ".join(f"{n} {name.split('.')[-1]}" for name, n in ops.items())))
    rows.append(("weights", f"{size_text(facts['weights_bytes'])} in {facts['weights']}"))
    rows.append(("arena", f"{size_text(facts['arena_bytes'])} a context"))
    rows.append(("C source", f"{facts['c_lines']} lines in {facts['name']}.c"))
    if facts["library_bytes"] is not None:
        rows.append(("library", f"{size_text(facts['library_bytes'])} in {facts['library']}"))
    return rows


def _tensor(entry: dict[str, Any]) -> str:
    return f"{entry['name']}: {entry['dtype']} {' x '.join(map(str, entry['shape']))}"


def size_text(count: int) -> str:
    """Bytes for people: `1.5 MiB`."""
    value, units = float(count), ["bytes", "KiB", "MiB", "GiB"]
    while value >= _KIB and len(units) > 1:
        value /= _KIB
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "bytes" else f"{value:.1f} {units[0]}"
