"""Formats of weights of few bits, as an attribute: what a code is worth, not how codes lie.

    #kaoken.format<4 bits, group 32, offset 8>

says that a weight is `code - 8` times the scale of its group of 32 along K. Whether there are
minima, and which type scales have, the operands say; how codes are packed, the schedule.

    #kaoken.format<4 bits, group 32, super 8>

has super-blocks of 8 groups: scales (and minima) are integers, and a number of the super-block says
what they are worth. `kaoken.quantized` holds the arithmetic in numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.ir import Data
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

PARTS = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 8: (8,)}
"""The bits of a code in parts, the lowest first: a byte holds a whole number of parts of a kind, so
each kind is packed by itself."""
WORD_BYTES = 4


@dataclass(frozen=True)
class Format:
    """A weight is `(step * code - offset) * scale`, plus the minimum of its group if it has one.

    With super-blocks a scale is an integer times the number of its super-block, a minimum too."""

    bits: int
    group: int = 0
    """How many weights along K share a scale; 0: all of a row."""
    offset: int = 0
    step: int = 1
    groups_of_super: int = 0
    """How many groups a super-block has; 0: there are none."""

    @property
    def parts(self) -> tuple[int, ...]:
        """The bits of each part of a code, the lowest first."""
        return PARTS[self.bits]

    @property
    def planes(self) -> int:
        """How many times four codes a chunk holds: the fewest that fill whole words."""
        return 8 // self.parts[-1]

    @property
    def chunk_words(self) -> int:
        """The 32-bit words of a chunk: 1 but for codes of several parts."""
        return self.planes * self.bits // 8

    @property
    def chunk_codes(self) -> int:
        """How many codes a chunk holds."""
        return WORD_BYTES * self.planes

    def words(self, codes: int) -> int:
        """The words of so many codes that fill chunks."""
        return codes // self.chunk_codes * self.chunk_words

    def block(self, k: int) -> int:
        """The size of a group of rows of k weights, filled up to whole words."""
        return self.group or -(-k // self.chunk_codes) * self.chunk_codes

    def groups(self, k: int) -> int:
        """How many groups a row of k weights has; the last one may be filled up."""
        return -(-k // self.block(k))

    def super_blocks(self, k: int) -> int:
        """How many super-blocks a row has; the last one may have fewer groups."""
        return -(-self.groups(k) // self.groups_of_super) if self.groups_of_super else 0

    @property
    def largest(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1

    def check(self) -> str | None:
        """What is wrong with the format, if something is."""
        if self.bits not in PARTS:
            return f"codes have {', '.join(map(str, PARTS))} bits, not {self.bits}"
        if self.group < 0 or self.group % self.chunk_codes:
            return (
                f"a group of {self.group} codes of {self.bits} bits does not fill 32-bit words: "
                f"it is a multiple of {self.chunk_codes}, or 0 for a whole row"
            )
        if self.groups_of_super < 0:
            return f"a super-block has no {self.groups_of_super} groups"
        return None

    def __str__(self) -> str:
        parts = [f"{self.bits} bits", f"group {self.group}" if self.group else ""]
        parts.append(f"offset {self.offset}" if self.offset else "")
        parts.append(f"step {self.step}" if self.step != 1 else "")
        parts.append(f"super {self.groups_of_super}" if self.groups_of_super else "")
        return ", ".join(part for part in parts if part)


_NUMBERS = {"group": "group", "offset": "offset", "step": "step", "super": "groups_of_super"}


@irdl_attr_definition
class FormatAttr(Data[Format]):
    """`<4 bits, group 32, offset 8>`."""

    name = "kaoken.format"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Format:
        with parser.in_angle_brackets():
            numbers = {"bits": parser.parse_integer()}
            parser.parse_keyword("bits")
            while parser.parse_optional_punctuation(",") is not None:
                name = parser.parse_identifier("group, offset, step or super")
                if name not in _NUMBERS:
                    parser.raise_error(f"a format has bits, {', '.join(_NUMBERS)}, no {name}")
                numbers[_NUMBERS[name]] = parser.parse_integer()
        return Format(**numbers)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(f"<{self.data}>")

    def verify(self) -> None:
        if (wrong := self.data.check()) is not None:
            raise VerifyException(wrong)
