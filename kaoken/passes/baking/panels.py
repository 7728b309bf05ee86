"""Packing: weights of linear layers in panels of R columns, as the schedule's `panel(R)` says.

[N, K] becomes [ceil(N / R), K, R]: the R weights that one vector register (or a few) multiplies
with the same input lie side by side. Columns past N hold zeros.
"""

from __future__ import annotations

import numpy as np
from xdsl.ir import Block, Operation
from xdsl.rewriter import InsertPoint, Rewriter

from kaoken.dialect.base import shaped, tensor_type
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import LinearOp, WeightOp, int_attr
from kaoken.passes.baking.workspace import Workspace


def pack_panels(block: Block, work: Workspace) -> None:
    """Pack the weight of each linear whose schedule asks for it; each weight once a width."""
    packed: dict[tuple[Operation, int], WeightOp] = {}
    for op in block.ops:
        if not isinstance(op, LinearOp) or op.is_packed or not (width := panel_width(op)):
            continue
        if not isinstance(weight := op.weight.owner, WeightOp):
            continue
        if (weight, width) not in packed:
            packed[weight, width] = _packed(weight, width, work)
        op.out_features = int_attr(op.n)
        op.operands[1] = packed[weight, width].result


def panel_width(op: LinearOp) -> int | None:
    """R of the schedule's `panel(R)`, where there is one."""
    directives = op.schedule.all("panel") if op.schedule is not None else []
    width = directives[0].args[0] if directives else None
    return width if isinstance(width, int) else None


def _packed(weight: WeightOp, width: int, work: Workspace) -> WeightOp:
    panels = pack(work[weight.key.data], width)
    key = work.add(f"{weight.key.data}.panels{width}", panels)
    shape = tuple(map(Dim.of, panels.shape))
    op = WeightOp(key, shaped(shape, tensor_type(weight.result).element_type))
    op.result.name_hint = weight.result.name_hint
    Rewriter.insert_op(op, InsertPoint.after(weight))
    return op


def pack(weight: np.ndarray, width: int) -> np.ndarray:
    """[N, K] to [ceil(N / width), K, width], padded with zeros."""
    n, k = weight.shape
    count = -(-n // width)
    padded = np.zeros((count * width, k), weight.dtype)
    padded[:n] = weight
    return np.ascontiguousarray(padded.reshape(count, width, k).transpose(0, 2, 1))
