"""Pages of docs/ as programs: their shell commands, and the edits that they tell a reader to make.

An edit is a code block after one of these lines, which a rendered page does not show:

    <!-- new FILE -->                   the block is the file
    <!-- in FILE after: LINE -->        the block goes after the first such line
    <!-- in FILE before: LINE -->       ... before it
    <!-- in FILE instead of: LINE -->   ... in its place
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"

_EDIT = re.compile(
    r"<!-- (?:new|in) (\S+)(?: (after|before|instead of): (.*?))? -->\n```\w+\n(.*?)```\n",
    re.DOTALL,
)
_SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)
_COPIED = ("kaoken", "tests", "docs", "pyproject.toml")


@dataclass(frozen=True)
class Edit:
    """One edit of a page; without `where`, a new file."""

    file: str
    where: str | None
    line: str
    code: str

    def apply(self, root: Path) -> None:
        path = root / self.file
        if self.where is None:
            path.write_text(self.code)
            return
        text = f"\n{path.read_text()}"
        if f"\n{self.line}\n" not in text:
            raise AssertionError(f"{self.file} has no line {self.line!r} any more")
        changed = text.replace(f"\n{self.line}\n", f"\n{self._replacement()}", 1)
        path.write_text(changed.removeprefix("\n"))

    def _replacement(self) -> str:
        match self.where:
            case "after":
                return f"{self.line}\n{self.code}"
            case "before":
                return f"{self.code}{self.line}\n"
            case _:
                return self.code


def edits(page: Path) -> list[Edit]:
    """The edits of a page in order."""
    return [Edit(f, where or None, line, code) for f, where, line, code in _found(page)]


def _found(page: Path) -> Iterator[tuple[str, str, str, str]]:
    for match in _EDIT.finditer(page.read_text()):
        file, where, line, code = match.groups()
        yield file, where, line, code


def shell_lines(page: Path) -> list[str]:
    """The commands of a page's `sh` blocks in order, without their comments."""
    blocks = _SHELL.findall(page.read_text())
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.strip() and not line.startswith("#")]


def copy_tree(folder: Path) -> Path:
    """What is needed to import kaoken and run its tests, copied."""
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    return folder
