"""What loops are called and what is known of them, as attributes."""

from __future__ import annotations

from xdsl.dialects.builtin import StringAttr

NAME = "kaoken_loop.name"
KIND = "kaoken_loop.kind"
UNROLL = "kaoken_loop.unroll"
PARALLEL = StringAttr("parallel")
REDUCTION = StringAttr("reduction")
