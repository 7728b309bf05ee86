"""From the text of a schedule to its rules; what is wrong is refused, with its place."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NoReturn

from lark import Lark
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from kaoken.errors import KaokenError
from kaoken.schedule.language import Place, Schedule, Source
from kaoken.schedule.reader import Reader, any_of, place_of

_WORDS = {
    "$END": "the end",
    "NAME": "a name",
    "NUMBER": "a number",
    "PATTERN": 'a pattern in quotes such as "encoder.*"',
    "COMPARE": "a comparison such as =",
    "TRY": "'try'",
    "LBRACE": "'{'",
    "RBRACE": "'}'",
    "LPAR": "'('",
    "RPAR": "')'",
    "COMMA": "','",
    "STAR": "'*'",
    "EQUAL": "'='",
}


def read_schedule(source: str | Path) -> Schedule:
    """The rules of a file, or of a text: a string with a brace in it.

    Raises KaokenError when there is no such file, ScheduleError when a rule is wrong.
    """
    if isinstance(source, str) and "{" in source:
        return parse_schedule(source)
    try:
        text = Path(source).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise KaokenError(f"cannot read the schedule {source}: {reason}") from None
    return parse_schedule(text, Path(source).name)


def parse_schedule(text: str, name: str = "schedule") -> Schedule:
    """The rules of a text that errors call `name`. Raises ScheduleError."""
    source = Source(name, text)
    try:
        tree = _grammar().parse(text)
    except UnexpectedInput as error:
        _raise_syntax_error(source, error)
    return Reader(source).schedule(tree)


@cache
def _grammar() -> Lark:
    text = (Path(__file__).parent / "grammar.lark").read_text()
    return Lark(text, parser="lalr", propagate_positions=True, maybe_placeholders=False)


def _raise_syntax_error(source: Source, error: UnexpectedInput) -> NoReturn:
    if isinstance(error, UnexpectedToken) and error.token.type != "$END":
        place, found = place_of(error.token), f"'{error.token}'"
    elif isinstance(error, UnexpectedCharacters):
        place, found = Place(error.line, error.column), f"'{error.char}'"
    else:
        lines = source.text.rstrip().splitlines() or [""]
        place, found = Place(len(lines), len(lines[-1]) + 1), "the end of the file"
    expected = getattr(error, "accepts", None) or getattr(error, "allowed", None) or ()
    wanted = sorted({_WORDS.get(name, f"'{name.lower()}'") for name in expected})
    raise source.error(place, f"expected {any_of(wanted)}, found {found}") from None
