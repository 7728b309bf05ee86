"""xDSL's parser, reading back every number that xDSL prints.

Infinities, NaN and large round numbers of `dense<...>` are printed as their bits, such as
`dense<0xff800000> : vector<32xf32>`. xDSL 0.74 reads that as the integer 4286578688.
"""

from __future__ import annotations

from typing import Any

from xdsl.dialects.builtin import AnyFloat
from xdsl.parser import AttrParser, Parser


class KaokenParser(Parser):
    """A parser that takes a hexadecimal float of a `dense<...>` for its bits."""

    class _TensorLiteralElement(AttrParser._TensorLiteralElement):
        def to_type(self, parser: AttrParser, type: Any) -> Any:
            if not isinstance(type, AnyFloat) or self.span.text[:2].lower() != "0x":
                return super().to_type(parser, type)
            assert isinstance(self.value, int)
            try:
                raw = self.value.to_bytes(type.compile_time_size, "little")
            except OverflowError:
                parser.raise_error(f"{self.span.text} has more bits than {type}", self.span)
            return next(type.iter_unpack(raw))
