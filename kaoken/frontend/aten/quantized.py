"""kaoken's own ops in torch, by which models say what is of few bits.

`kaoken.frontend.quantized_linear` defines them.
"""

from __future__ import annotations

from xdsl.ir import SSAValue

from kaoken.dialect.attributes import Rounding, RoundingAttr
from kaoken.dialect.formats import Format, FormatAttr
from kaoken.dialect.quant import DequantizeOp, FakeQuantizeOp
from kaoken.frontend.aten.registry import Importer, torch_op


@torch_op("kaoken.fake_quantize")
def fake_quantize(g: Importer, x: SSAValue, rounding: str) -> SSAValue:
    return g.make(FakeQuantizeOp, [x], {"rounding": RoundingAttr(Rounding(rounding))})


@torch_op("kaoken.dequantize")
def dequantize(
    g: Importer,
    codes: SSAValue,
    scale: SSAValue,
    minimum: SSAValue | None,
    bits: int,
    group: int,
    offset: int,
    step: int,
) -> SSAValue:
    format_ = FormatAttr(Format(bits, group, offset, step))
    return g.make(DequantizeOp, [codes, scale, minimum], {"format": format_})
