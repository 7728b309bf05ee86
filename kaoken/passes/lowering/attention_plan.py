"""The sizes and buffers of an attention kernel."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects import arith, math
from xdsl.dialects.builtin import f32
from xdsl.ir import SSAValue

from kaoken.dialect.attributes import ScheduleAttr, Shape
from kaoken.dialect.base import tensor_type
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import AttentionOp
from kaoken.dialect.tensor import SliceOp
from kaoken.errors import KaokenError
from kaoken.passes.lowering.kernel import Kernel
from kaoken.passes.lowering.nest import Index
from kaoken.passes.lowering.panels import panelled_buffer


@dataclass(frozen=True)
class Columns:
    """A tensor [B, S, W] that is columns `offset ..` of a wider one, read in place."""

    source: SSAValue
    offset: int


def columns_of(value: SSAValue) -> Columns:
    """See through a slice of the last dimension."""
    op = value.owner
    if not isinstance(op, SliceOp) or op.step.value.data != 1:
        return Columns(value, 0)
    rank = tensor_type(op.input).get_num_dims()
    start, stop = op.range.data
    if op.dim.value.data != rank - 1 or start.constant is None or stop.constant is None:
        return Columns(value, 0)
    return Columns(op.input, start.constant)


@dataclass
class Plan:
    """The sizes and buffers of one attention kernel."""

    op: AttentionOp
    n: Kernel
    rows: int
    panel: int
    queries: Index
    keys: Index
    max_keys: int
    q: tuple[SSAValue, int]
    k: tuple[SSAValue, int]
    v: tuple[SSAValue, int]
    y: SSAValue
    mask: SSAValue | None
    bias: SSAValue | None
    """What distances add to scores, [heads, distances]."""
    is_tensor: bool
    """Whether the schedule leaves the products to the matrix unit."""

    @property
    def head_size(self) -> int:
        return tensor_type(self.op.query).get_shape()[-1] // self.op.heads

    @property
    def value_size(self) -> int:
        return tensor_type(self.op.value).get_shape()[-1] // self.op.kv_heads

    @property
    def value_panel(self) -> int:
        """Columns of the values that are summed together."""
        return self.panel if self.value_size % self.panel == 0 else self.value_size

    @property
    def value_panels(self) -> int:
        return self.value_size // self.value_panel

    def value_column(self, e0: SSAValue, e1: SSAValue) -> SSAValue:
        """The number in a head's values that is column e1 of panel e0."""
        return self.n.affine(lambda e0, e1: e0 * self.value_panel + e1, e0, e1)

    @property
    def stride(self) -> int:
        """Floats of a score row: whole panels, and one more to spread rows over cache sets."""
        return (-(-self.max_keys // self.panel) + 1) * self.panel

    @property
    def mask_shape(self) -> Shape:
        assert self.op.mask is not None
        shape = self.n.shape(self.op.mask)
        return (Dim.of(1),) * (4 - len(shape)) + shape

    @property
    def has_key_mask(self) -> bool:
        """Whether the mask says the same for all heads and queries."""
        return self.mask is not None and self.mask_shape[1] == self.mask_shape[2] == Dim.of(1)


def plan_attention(op: AttentionOp, kernel: Kernel) -> Plan:
    """The plan of an op's kernel, whose arguments this adds."""
    schedule = op.schedule or ScheduleAttr(())
    tiles = {d.args[0]: d.args[1] for d in schedule.all("tile")}
    panel = next((d.args[0] for d in schedule.all("panel")), 1)
    queries = kernel.shape(op.query)[1]
    keys = kernel.shape(op.key)[1]
    seen: dict[SSAValue, SSAValue] = {}

    def rows_of(name: str, value: SSAValue) -> tuple[SSAValue, int]:
        part = columns_of(value)
        if part.source not in seen:
            b, s, w = kernel.shape(part.source)
            seen[part.source] = kernel.buffer(name, part.source, (b * s, w))
        return seen[part.source], part.offset

    q, k, v = rows_of("q", op.query), rows_of("k", op.key), rows_of("v", op.value)
    mask = None if op.mask is None else kernel.buffer("mask", op.mask)
    bias = bias_buffer(op, kernel, keys.evaluate(kernel.maxima))
    y = panelled_buffer(kernel, "y", op.result)
    return Plan(
        op,
        kernel,
        int(tiles.get("i", 1)),
        int(panel),
        kernel.size("queries", queries),
        kernel.size("keys", keys),
        keys.evaluate(kernel.maxima),
        q,
        k,
        v,
        y,
        mask,
        bias,
        bool(schedule.all("tensorize")),
    )


def final_score(op: AttentionOp, n: Kernel, product: SSAValue) -> SSAValue:
    """A score, before masks and biases, of the product of a query and a key."""
    scale, score = op.scale.value.data, product
    if op.softcap is None:
        return score if scale == 1.0 else _times(n, score, scale)
    cap = op.softcap.value.data
    return _times(n, n.insert(math.TanhOp(_times(n, score, scale / cap))), cap)


def power(op: AttentionOp, n: Kernel, exponent: SSAValue) -> SSAValue:
    """What softmax makes of a score less the largest: a power of e, or of two."""
    return n.insert((math.ExpOp if op.base_two is None else math.Exp2Op)(exponent))


def _times(n: Kernel, value: SSAValue, factor: float) -> SSAValue:
    return n.insert(arith.MulfOp(value, n.constant(factor, f32)))


def bias_buffer(op: AttentionOp, kernel: Kernel, keys: int) -> SSAValue | None:
    """A kernel argument for the bias of distances, where there is one.

    Raises KaokenError when the table is too short for the most queries of a call, and `keys` keys.
    """
    if op.position_bias is None or op.bias_origin is None:
        return None
    origin, columns = op.bias_origin.value.data, tensor_type(op.position_bias).get_shape()[1]
    queries = kernel.shape(op.query)[1].evaluate(kernel.maxima)
    ahead = 0 if op.causal.value.data else queries - 1
    if not keys - 1 <= origin < columns - ahead:
        raise KaokenError(
            f"a position bias of {columns} distances, with distance 0 at {origin}, "
            f"does not reach over {keys} keys"
        )
    return kernel.buffer("bias", op.position_bias)
