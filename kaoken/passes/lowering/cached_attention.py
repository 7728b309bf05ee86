"""Attention that reads keys and values where a cache keeps them.

    parallel it:                              # token and key head
      parallel j0 in panels of 64 keys:       # only those that the token sees
        parallel r: parallel j1: s[r, j] = sum over d of q[i, r, d] * keys[g, j0, d, j1] * scale
      s[r, j] += bias[r, origin + j - past - i]    # where distances have a bias
      s[r, j] = -inf for keys behind the token, and before its window
      s[r, :] = exp(s[r, :] - max);  inverse[r] = 1 / sum
      parallel r: parallel e: o[i, r, e] = sum over j of s[r, j] * values[g, j, e] * inverse[r]

r are the query heads that share a key head: keys and values are read once for all of them. Each
token is on its own, so its result is the same whichever tokens are in the call. Causal attention
sees the tokens up to its own; any other, such as that of a decoder to its encoder, the whole cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xdsl.dialects import arith, math
from xdsl.dialects.builtin import MemRefType, f32
from xdsl.ir import SSAValue

from kaoken.dialect.base import tensor_type
from kaoken.dialect.decoder import PANEL, CacheReadOp, cache_type
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import AttentionOp
from kaoken.errors import KaokenError
from kaoken.passes.lowering.attention_plan import bias_buffer, columns_of
from kaoken.passes.lowering.decoder import cache_buffer, extent
from kaoken.passes.lowering.kernel import Kernel
from kaoken.passes.lowering.nest import Extent, Index
from kaoken.passes.lowering.rows import LOWEST

MINUS_INFINITY = float("-inf")
LAYOUTS = ("panels", "rows")
"""How keys and values must lie."""


def reads_caches(op: AttentionOp) -> bool:
    """Whether keys and values are read from caches that lie as this kernel needs them."""
    if op.mask is not None or op.bf16_products is not None:
        return False
    for value, layout in zip((op.key, op.value), LAYOUTS, strict=True):
        read = value.owner
        if not isinstance(read, CacheReadOp) or cache_type(read.cache).layout.data != layout:
            return False
    return _whole_heads(op)


def _whole_heads(op: AttentionOp) -> bool:
    """Whether the rows that hold the queries are heads of one size throughout."""
    part = columns_of(op.query)
    size = tensor_type(op.query).get_shape()[-1] // op.heads
    return part.offset % size == 0 == tensor_type(part.source).get_shape()[-1] % size


@dataclass
class _Plan:
    """The sizes and buffers of one kernel."""

    op: AttentionOp
    n: Kernel
    queries: Index
    keys_read: Index
    """How many keys there are."""
    q: SSAValue
    first_head: int
    """Where in the rows of q, counted in heads, the queries begin."""
    keys: SSAValue
    values: SSAValue
    y: SSAValue
    capacity: int
    bias: SSAValue | None

    @property
    def group(self) -> int:
        """Query heads of a key head."""
        return self.op.heads // self.op.kv_heads

    @property
    def size(self) -> int:
        return tensor_type(self.op.query).get_shape()[-1] // self.op.heads

    @property
    def value_size(self) -> int:
        return tensor_type(self.op.value).get_shape()[-1] // self.op.kv_heads


@dataclass
class _Token:
    """One token and key head: how many keys it sees, in how many panels, and its position."""

    i: SSAValue
    g: SSAValue
    seen: SSAValue
    panels: Extent
    position: SSAValue


def lower_cached_attention(op: AttentionOp, kernel: Kernel) -> None:
    kernel.name = f"cached_attention_{op.heads}x{tensor_type(op.query).get_shape()[-1] // op.heads}"
    kind = "causal " if op.causal.value.data else ""
    kernel.comment = f"{kind}softmax(q k^T) v of {op.heads} heads, keys and values from caches"
    p = _plan(op, kernel)
    n, heads = kernel, op.kv_heads
    with n.parallel("it", extent(lambda queries: queries * heads, p.queries)) as it:
        i, g = n.affine(lambda it: it // heads, it), n.affine(lambda it: it % heads, it)
        position = n.affine(lambda i, k, q: i + k - q, i, p.keys_read, p.queries)
        seen = n.index(p.keys_read)
        if op.causal.value.data:
            seen = n.affine(lambda i, k, q: i + k - q + 1, i, p.keys_read, p.queries)
        _token(p, _Token(i, g, seen, extent(lambda s: s.ceil_div(PANEL), seen), position))


def _plan(op: AttentionOp, kernel: Kernel) -> _Plan:
    read_keys, read_values = op.key.owner, op.value.owner
    assert isinstance(read_keys, CacheReadOp)
    assert isinstance(read_values, CacheReadOp)
    part = columns_of(op.query)
    batch, queries, _ = kernel.shape(part.source)
    if batch != Dim.of(1):
        raise KaokenError("attention over a cache takes one sequence")
    size = tensor_type(op.query).get_shape()[-1] // op.heads
    value_size = tensor_type(op.value).get_shape()[-1] // op.kv_heads
    capacity = cache_type(read_keys.cache).capacity.data
    return _Plan(
        op,
        kernel,
        kernel.size("queries", queries),
        kernel.size("keys_read", kernel.shape(op.key)[1]),
        _by_heads(kernel, "q", part.source, size),
        part.offset // size,
        cache_buffer(kernel, "keys", read_keys.cache),
        cache_buffer(kernel, "values", read_values.cache),
        _by_heads(kernel, "y", op.result, value_size),
        capacity,
        bias_buffer(op, kernel, capacity),
    )


def _by_heads(kernel: Kernel, name: str, value: SSAValue, size: int) -> SSAValue:
    """A kernel argument for rows of heads, [tokens, heads, size]."""
    _, tokens, width = kernel.shape(value)
    heads = width.divide(Dim.of(size))
    assert heads is not None
    return kernel.buffer(name, value, (tokens, heads, Dim.of(size)))


def _token(p: _Plan, t: _Token) -> None:
    n = p.n
    stride = (-(-p.capacity // PANEL) + 1) * PANEL
    scores = n.alloc(MemRefType(f32, [p.group, stride]), "s")
    inverse = n.alloc(MemRefType(f32, [p.group]), "inverse")
    _scores(p, t, scores)
    _add_bias(p, t, scores)
    _hide(p, t, scores)
    _softmax(p, t, scores, inverse)
    _output(p, t, scores, inverse)


def _head(p: _Plan, t: _Token, r: SSAValue, first: int = 0) -> SSAValue:
    """Query head r of the token's key head."""
    return p.n.affine(lambda g, r: g * p.group + r + first, t.g, r)


def _scores(p: _Plan, t: _Token, scores: SSAValue) -> None:
    n, scale = p.n, p.op.scale.value.data
    with (
        n.parallel("j0", t.panels) as j0,
        n.parallel("r", p.group) as r,
        n.parallel("j1", PANEL) as j1,
    ):

        def step(d: SSAValue, acc: SSAValue) -> SSAValue:
            query = n.load(p.q, t.i, _head(p, t, r, p.first_head), d)
            return n.insert(math.FmaOp(query, n.load(p.keys, t.g, j0, d, j1), acc))

        score = n.fold("d", p.size, n.constant(0.0, f32), step)
        if scale != 1.0:
            score = n.insert(arith.MulfOp(score, n.constant(scale, f32)))
        n.store(score, scores, r, n.affine(lambda j0, j1: j0 * PANEL + j1, j0, j1))


def _add_bias(p: _Plan, t: _Token, scores: SSAValue) -> None:
    """What distances say: whole panels, then the keys of the last one."""
    if p.bias is None or p.op.bias_origin is None:
        return
    n, bias, origin = p.n, p.bias, p.op.bias_origin.value.data

    def add(r: SSAValue, j0: SSAValue, j1: SSAValue) -> None:
        j = n.affine(lambda j0, j1: j0 * PANEL + j1, j0, j1)
        column = n.affine(
            lambda j0, j1, position: j0 * PANEL + j1 + origin - position, j0, j1, t.position
        )
        addend = n.load(bias, _head(p, t, r), column)
        n.store(n.insert(arith.AddfOp(n.load(scores, r, j), addend)), scores, r, j)

    with n.parallel("row", p.group) as r:
        whole = extent(lambda seen: seen // PANEL, t.seen)
        with n.parallel("j0", whole) as j0, n.parallel("lane", PANEL) as j1:
            add(r, j0, j1)
        last = n.affine(lambda seen: seen // PANEL, t.seen)
        with n.parallel("j", extent(lambda seen: seen % PANEL, t.seen)) as j1:
            add(r, last, j1)


def _hide(p: _Plan, t: _Token, scores: SSAValue) -> None:
    """Minus infinity for the rest of the last panel, and for what lies before the window."""
    n, hidden = p.n, p.n.constant(MINUS_INFINITY, f32)
    rest = extent(lambda seen: seen.ceil_div(PANEL) * PANEL - seen, t.seen)
    with n.parallel("row", p.group) as r, n.parallel("j", rest) as j:
        n.store(hidden, scores, r, n.affine(lambda seen, j: seen + j, t.seen, j))
    if p.op.window is not None:
        window = p.op.window.value.data
        before = extent(lambda seen: seen - window, t.seen)
        with n.parallel("row", p.group) as r, n.parallel("j", before) as j:
            n.store(hidden, scores, r, j)


def _softmax(p: _Plan, t: _Token, scores: SSAValue, inverse: SSAValue) -> None:
    n = p.n

    def over_keys(init: float, body: Callable[[SSAValue, SSAValue], SSAValue]) -> SSAValue:
        def panel(j0: SSAValue, acc: SSAValue) -> SSAValue:
            def key(j1: SSAValue, acc: SSAValue) -> SSAValue:
                return body(n.affine(lambda j0, j1: j0 * PANEL + j1, j0, j1), acc)

            return n.fold("lane", PANEL, acc, key)

        return n.fold("j0", t.panels, n.constant(init, f32), panel)

    with n.parallel("row", p.group) as r:
        largest = over_keys(
            LOWEST,
            lambda j, acc: n.insert(arith.MaximumfOp(acc, n.load(scores, r, j))),
        )

        def exponential(j: SSAValue, acc: SSAValue) -> SSAValue:
            value = n.insert(math.ExpOp(n.insert(arith.SubfOp(n.load(scores, r, j), largest))))
            n.store(value, scores, r, j)
            return n.insert(arith.AddfOp(acc, value))

        total = over_keys(0.0, exponential)
        n.store(n.insert(arith.DivfOp(n.constant(1.0, f32), total)), inverse, r)


def _output(p: _Plan, t: _Token, scores: SSAValue, inverse: SSAValue) -> None:
    n = p.n
    with n.parallel("r", p.group) as r, n.parallel("e", p.value_size) as e:

        def step(j: SSAValue, acc: SSAValue) -> SSAValue:
            return n.insert(math.FmaOp(n.load(scores, r, j), n.load(p.values, t.g, j, e), acc))

        total = n.fold("j", Extent.of(t.seen), n.constant(0.0, f32), step)
        result = n.insert(arith.MulfOp(total, n.load(inverse, r)))
        n.store(result, p.y, t.i, _head(p, t, r), e)
