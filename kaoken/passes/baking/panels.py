"""Packing: weights of linear layers in panels of R columns, as the schedule's `panel(R)` says.

[N, K] becomes [ceil(N / R), K, R]: the R weights that one vector register (or a few) multiplies
with the same input lie side by side. Columns past N hold zeros. Where a 32-bit lane takes two bf16
or four i8 at once, these stand together: [ceil(N / R), K / 2, R, 2] and [ceil(N / R), 1 + K / 4, R,
4]. The first of the latter's rows is each column's sum times the input's negated zero point, as
i32: where the sum of products starts, so that inputs count from their zero point. Weights with a
format become bytes full of codes, [ceil(N / R), words, R, 4], their scales and minima
[ceil(N / R), G, R] (`kaoken.quantized.pack_codes`).
"""

from __future__ import annotations

import numpy as np
from xdsl.ir import Block, Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from kaoken.dialect.base import shaped
from kaoken.dialect.canonicalization.rules import linear_like
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import MIDDLE, LinearOp, WeightOp, int_attr
from kaoken.dtypes import element_type
from kaoken.passes.baking.workspace import Workspace
from kaoken.quantized import pack_codes, pack_groups


def pack_panels(block: Block, work: Workspace) -> None:
    """Pack the weight of each linear whose schedule asks for it; each weight once a width."""
    packed: dict[tuple[Operation, int, int], WeightOp] = {}
    few_bits: dict[tuple[Operation, int], WeightOp] = {}
    for op in list(block.ops):
        if not isinstance(op, LinearOp) or op.is_packed or not (width := panel_width(op)):
            continue
        if not isinstance(weight := op.weight.owner, WeightOp):
            continue
        if op.format is not None:
            _pack_few_bits(op, width, few_bits, work)
            continue
        zero_point = op.input_zero_point.value.data
        if (key := (weight, width, zero_point)) not in packed:
            packed[key] = _packed(*key, work)
        op.out_features = int_attr(op.n)
        op.operands[1] = packed[key].result


def _pack_few_bits(
    op: LinearOp, width: int, packed: dict[tuple[Operation, int], WeightOp], work: Workspace
) -> None:
    """Codes by words, and a scale (and a minimum) for each group of each column."""
    assert op.format is not None
    format_ = op.format.data
    parts = {"weight": op.weight, "weight_scale": op.weight_scale, "weight_min": op.weight_min}
    new: dict[str, SSAValue] = {}
    for name, value in parts.items():
        if value is None or not isinstance(weight := value.owner, WeightOp):
            continue
        if (key := (weight, width)) not in packed:
            array = work[weight.key.data]
            is_codes = name == "weight"
            panels = pack_codes(array, format_, width) if is_codes else pack_groups(array, width)
            packed[key] = _stored(weight, panels, width, work)
        new[name] = packed[key].result
    features = {"out_features": int_attr(op.n)}
    Rewriter.replace_op(op, linear_like(op, op.result.type, new, features))


def panel_width(op: LinearOp) -> int | None:
    """R of the schedule's `panel(R)`, where there is one."""
    directives = op.schedule.all("panel") if op.schedule is not None else []
    width = directives[0].args[0] if directives else None
    return width if isinstance(width, int) else None


def _packed(weight: WeightOp, width: int, zero_point: int, work: Workspace) -> WeightOp:
    return _stored(weight, pack(work[weight.key.data], width, zero_point), width, work)


def _stored(weight: WeightOp, panels: np.ndarray, width: int, work: Workspace) -> WeightOp:
    """Panels as a weight, right after the one that they are made of."""
    key = work.add(f"{weight.key.data}.panels{width}", panels)
    shape = tuple(map(Dim.of, panels.shape))
    op = WeightOp(key, shaped(shape, element_type(panels.dtype)))
    op.result.name_hint = weight.result.name_hint
    Rewriter.insert_op(op, InsertPoint.after(weight))
    return op


def pack(weight: np.ndarray, width: int, zero_point: int = MIDDLE) -> np.ndarray:
    """[N, K] to panels of `width` columns, padded with zeros. K must fill the 32-bit lanes.

    `zero_point` is that of the inputs that meet a weight of i8.
    """
    n, k = weight.shape
    count = -(-n // width)
    padded = np.zeros((count * width, k), weight.dtype)
    padded[:n] = weight
    group = 4 // weight.itemsize
    panels = padded.reshape(count, width, k // group, group).transpose(0, 2, 1, 3)
    if weight.dtype == np.int8:
        return np.concatenate([_starts(padded, width, zero_point), panels], axis=1)
    return np.ascontiguousarray(panels if group > 1 else panels[..., 0])


def _starts(padded: np.ndarray, width: int, zero_point: int) -> np.ndarray:
    """-zero_point times each column's sum, [count, 1, width] of i32 seen as [.., 4] of i8."""
    sums = padded.sum(1, dtype=np.int32) * np.int32(-zero_point)
    return sums.reshape(-1, 1, width, 1).view(np.int8)
