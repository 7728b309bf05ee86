"""Formats of weights of few bits, as an attribute: what a code is worth, not how codes lie.

    #kaoken.format<4 bits, group 32, offset 8>

says that a weight is `code - 8` times the scale of its group of 32 along K. Whether there are
minima, and which type scales have, the operands say; how codes are packed, the schedule.
`kaoken.quantized` holds the arithmetic in numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.ir import Data
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

BITS = (1, 2, 4, 8)
"""The sizes of codes: those of which a byte holds a whole number."""
WORD_BYTES = 4


@dataclass(frozen=True)
class Format:
    """A weight is `(step * code - offset) * scale`, plus the minimum of its group if it has one."""

    bits: int
    group: int = 0
    """How many weights along K share a scale; 0: all of a row."""
    offset: int = 0
    step: int = 1

    @property
    def planes(self) -> int:
        """How many codes a byte holds."""
        return 8 // self.bits

    @property
    def word_codes(self) -> int:
        """How many codes a 32-bit word holds."""
        return WORD_BYTES * self.planes

    def block(self, k: int) -> int:
        """The size of a group of rows of k weights, filled up to whole words."""
        return self.group or -(-k // self.word_codes) * self.word_codes

    def groups(self, k: int) -> int:
        """How many groups a row of k weights has; the last one may be filled up."""
        return -(-k // self.block(k))

    @property
    def largest(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1

    def check(self) -> str | None:
        """What is wrong with the format, if something is."""
        if self.bits not in BITS:
            return f"codes have {', '.join(map(str, BITS))} bits, not {self.bits}"
        if self.group < 0 or self.group % self.word_codes:
            return (
                f"a group of {self.group} codes of {self.bits} bits does not fill 32-bit words: "
                f"it is a multiple of {self.word_codes}, or 0 for a whole row"
            )
        return None

    def __str__(self) -> str:
        parts = [f"{self.bits} bits", f"group {self.group}" if self.group else ""]
        parts.append(f"offset {self.offset}" if self.offset else "")
        parts.append(f"step {self.step}" if self.step != 1 else "")
        return ", ".join(part for part in parts if part)


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
                name = parser.parse_identifier("group, offset or step")
                if name not in ("group", "offset", "step"):
                    parser.raise_error(f"a format has bits, group, offset and step, no {name}")
                numbers[name] = parser.parse_integer()
        return Format(**numbers)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(f"<{self.data}>")

    def verify(self) -> None:
        if (wrong := self.data.check()) is not None:
            raise VerifyException(wrong)
