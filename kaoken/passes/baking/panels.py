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

from dataclasses import dataclass, field

import numpy as np
from xdsl.ir import Block, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from kaoken.dialect.attributes import int_attr
from kaoken.dialect.base import shaped
from kaoken.dialect.dims import Dim
from kaoken.dialect.formats import FormatAttr
from kaoken.dialect.nn import MIDDLE, EmbeddingOp, LinearOp, WeightOp
from kaoken.dialect.quant import largest_code
from kaoken.dtypes import element_type
from kaoken.errors import KaokenError
from kaoken.passes.baking.workspace import Workspace
from kaoken.quantized import pack_codes, pack_groups


@dataclass
class PanelPacker:
    """Packs what linear layers and look-ups read, each weight once a width in all of a module."""

    work: Workspace
    packed: dict[tuple[str, int, int | None], str] = field(default_factory=dict)
    """Keys of panels, by the weight's key, their width and the zero point of sums of eight bits."""
    tables: dict[str, tuple[str, FormatAttr | None]] = field(default_factory=dict)
    """Keys of panels that a row can be looked up in, with what their codes mean."""
    named: dict[tuple[WeightOp, str], SSAValue] = field(default_factory=dict)

    def layers(self, block: Block) -> None:
        """Pack the weight of each linear whose schedule asks for it."""
        for op in list(block.ops):
            if not isinstance(op, LinearOp) or op.is_packed or not (width := panel_width(op)):
                continue
            if not isinstance(op.weight.owner, WeightOp):
                continue
            groups = () if op.format is None else (op.weight_scale, op.weight_min, op.weight_supers)
            op.out_features = int_attr(op.n)
            new = {
                value: self._panels(value.owner, width, op, value is op.weight)
                for value in (op.weight, *groups)
                if value is not None and isinstance(value.owner, WeightOp)
            }
            for i, value in enumerate(op.operands):
                op.operands[i] = new.get(value, value)

    def look_ups(self, block: Block) -> None:
        """Read rows in the panels that layers multiply, so that no second copy is stored.

            %w = kaoken.weight "wte"
            %x = kaoken.embedding %w, %ids
            %y = kaoken.linear %h, %w {schedule = #kaoken.schedule<panel(16), ...>}
        ->
            %w = kaoken.weight "wte.panels16"
            %x = kaoken.embedding %w, %ids {rows = 50257, columns = 768}
            %y = kaoken.linear %h, %w {out_features = 50257, ...}
        """
        for op in list(block.ops):
            if not isinstance(op, EmbeddingOp) or not isinstance(op.table.owner, WeightOp):
                continue
            if (found := self.tables.get(op.table.owner.key.data)) is None:
                continue
            key, format_ = found
            rows, columns = map(int_attr, op.table_shape)
            sizes = {"rows": rows, "columns": columns, "format": format_}
            panels = self._weight(op.table.owner, key)
            look_up = EmbeddingOp.make([panels, op.indices], sizes)
            look_up.attributes.update(op.attributes)
            look_up.result.name_hint = op.result.name_hint
            Rewriter.replace_op(op, look_up)

    def _panels(self, weight: WeightOp, width: int, op: LinearOp, is_weight: bool) -> SSAValue:
        source = weight.key.data
        zero_point = op.input_zero_point.value.data if is_weight and op.format is None else None
        if zero_point is not None:
            _check_codes(self.work[source], op.weight_bits.value.data, source)
        if (key := (source, width, zero_point)) not in self.packed:
            array, format_ = self.work[source], None
            if zero_point is not None:
                panels = pack(array, width, zero_point)
            elif is_weight and op.format is not None:
                format_, panels = op.format, pack_codes(array, op.format.data, width)
            else:
                panels = pack_groups(array, width)
            self.packed[key] = self.work.add(f"{source}.panels{width}", panels)
            self.tables.setdefault(source, (self.packed[key], format_))
        return self._weight(weight, self.packed[key])

    def _weight(self, source: WeightOp, key: str) -> SSAValue:
        """Panels as a weight, right after the one that they are made of."""
        if (source, key) not in self.named:
            panels = self.work[key]
            shape = tuple(map(Dim.of, panels.shape))
            op = WeightOp(key, shaped(shape, element_type(panels.dtype)))
            op.result.name_hint = source.result.name_hint
            Rewriter.insert_op(op, InsertPoint.after(source))
            self.named[source, key] = op.result
        return self.named[source, key]


def _check_codes(array: np.ndarray, bits: int, source: str) -> None:
    """Refuse codes that a layer promises not to have: sums of their products would overflow."""
    largest = largest_code(bits)
    if array.dtype == np.int8 and not -largest - 1 <= array.min() <= array.max() <= largest:
        raise KaokenError(f"weight {source} has codes of more than the {bits} bits of weight_bits")


def panel_width(op: LinearOp) -> int | None:
    """R of the schedule's `panel(R)`, where there is one."""
    directives = op.schedule.all("panel") if op.schedule is not None else []
    width = directives[0].args[0] if directives else None
    return width if isinstance(width, int) else None


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
