"""Tables that scripts measure and docs/benchmarks.md shows."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from kaoken.backend.machine import TargetMachine
from kaoken.bench.tables import Table
from kaoken.modules import write_text

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def write_block(name: str, tables: Sequence[Table], page: Path = PAGE) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- end name -->`.

    Raises ValueError when the page has no such place.
    """
    text = page.read_text()
    begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    if begin not in text or end not in text:
        raise ValueError(f"{page} has no place for {name}: it needs {begin} and {end}")
    before, rest = text.split(begin, 1)
    after = rest.split(end, 1)[1]
    body = "\n".join(table.markdown() for table in tables)
    write_text(page, f"{before}{begin}\n\n{provenance()}\n\n{body}\n{end}{after}")


def provenance() -> str:
    """When and on what the figures were taken."""
    target = TargetMachine.native().name
    return f"Measured {date.today()} on {cpu_name()} ({target}), {platform.system()}."


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()
