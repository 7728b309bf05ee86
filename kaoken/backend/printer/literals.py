"""C literals of constant attributes."""

from __future__ import annotations

from xdsl.dialects.builtin import FloatAttr, IntegerAttr, IntegerType
from xdsl.ir import Attribute

from kaoken.backend.printer.text import float_literal, integer_literal
from kaoken.backend.printer.types import short_name


def literal(attr: Attribute) -> str:
    """The C literal of a scalar constant."""
    if isinstance(attr, FloatAttr):
        return float_literal(attr.value.data, 64 if short_name(attr.type) == "f64" else 32)
    assert isinstance(attr, IntegerAttr)
    if isinstance(attr.type, IntegerType) and attr.type.width.data == 1:
        return "true" if attr.value.data else "false"
    return integer_literal(attr.value.data)
