"""Schedules that a person gives: one line for each kind of op, in place of what kaoken chooses.

    # comment
    linear 384x1536: panel(48), tile(m, 8), order(n0, m, m_in, n1), vectorize(m_in, n1)
    attention: panel(32), tile(i, 4)

`linear 384x1536` means layers of 384 inputs and 1536 outputs, as they are after `fuse`; a name
alone means every op of that name. The directives are those of `choose-schedule`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.utils.exceptions import ParseError

from kaoken.dialect.attributes import ScheduleAttr
from kaoken.dialect.base import KaokenOp
from kaoken.dialect.nn import AttentionOp, LinearOp
from kaoken.errors import KaokenError
from kaoken.universe import make_context

_RULE = re.compile(r"(\w+)(?:\s+(\d+)x(\d+))?\s*:\s*(.+)")


@dataclass(frozen=True)
class Rule:
    """The schedule of all ops of a name, or of linear layers of one size."""

    op: str
    size: tuple[int, int] | None
    schedule: ScheduleAttr

    def fits(self, op: KaokenOp) -> bool:
        if op.name != f"kaoken.{self.op}":
            return False
        return self.size is None or (isinstance(op, LinearOp) and self.size == (op.k, op.n))


def apply_rules(module: ModuleOp, source: str | Path) -> None:
    """Write schedules, given as text or as the path of a file, on a module's ops.

    The first rule that fits an op counts. Raises KaokenError for a line that is no rule, or a rule
    that fits no op.
    """
    rules = read_rules(source)
    ops = [op for op in module.walk() if isinstance(op, KaokenOp)]
    for rule in rules:
        fitting = [op for op in ops if rule.fits(op)]
        if not fitting:
            size = f" {rule.size[0]}x{rule.size[1]}" if rule.size else ""
            raise KaokenError(
                f"the schedule names {rule.op}{size}, but the model has {', '.join(_kinds(ops))}"
            )
        for op in fitting:
            _write(op, rule.schedule)
        ops = [op for op in ops if op not in fitting]


def read_rules(source: str | Path) -> list[Rule]:
    """The rules of a text or a file; KaokenError names the line that is none."""
    text = source if isinstance(source, str) and ":" in source else _read(Path(source))
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return [_parse(number, line) for number, line in enumerate(lines, 1) if line]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise KaokenError(f"cannot read the schedule {path}: {error.strerror}") from None


def _parse(number: int, line: str) -> Rule:
    match = _RULE.fullmatch(line)
    if match is None:
        raise KaokenError(f"schedule, line {number}: expected `op: directive, ...`, found {line!r}")
    op, k, n, directives = match.groups()
    try:
        attribute = Parser(make_context(), f"#kaoken.schedule<{directives}>").parse_attribute()
    except ParseError as error:
        raise KaokenError(f"schedule, line {number}: {error.msg}") from None
    assert isinstance(attribute, ScheduleAttr)
    return Rule(op, (int(k), int(n)) if k else None, attribute)


def _write(op: KaokenOp, schedule: ScheduleAttr) -> None:
    if isinstance(op, LinearOp | AttentionOp):
        op.schedule = schedule  # pyright: ignore[reportAttributeAccessIssue]
    else:
        op.attributes["schedule"] = schedule


def _kinds(ops: list[KaokenOp]) -> Iterator[str]:
    """`linear 384x1536` and the like, each once."""
    seen: set[str] = set()
    for op in ops:
        name = op.name.removeprefix("kaoken.")
        text = f"{name} {op.k}x{op.n}" if isinstance(op, LinearOp) else name
        if text not in seen and name != "weight":
            seen.add(text)
            yield text
