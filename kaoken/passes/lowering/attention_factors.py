"""What attention's two products multiply: numbers of f32, or words of two bf16."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects import arith, math
from xdsl.dialects.builtin import MemRefType, bf16, f32, i32
from xdsl.ir import SSAValue

from kaoken.dialect.kaoken_loop import ConvertOp, DotKind, DotOp, ViewOp
from kaoken.passes.lowering.attention_masks import Keys
from kaoken.passes.lowering.attention_plan import Plan
from kaoken.passes.lowering.nest import Bounds, Extent, Index


@dataclass(frozen=True)
class Head:
    """Which rows and which head a pass over one head reads."""

    query_row: Index
    key_row: Index
    head: SSAValue
    kv_head: SSAValue


class Factors:
    """What the two products multiply, and how the exponentials between them are kept."""

    def __init__(self, plan: Plan, at: Head, scores: SSAValue):
        self.plan, self.at, self.scores = plan, at, scores
        self.n = plan.n
        self.panels = plan.stride // plan.panel

    @property
    def depth(self) -> int:
        """Steps of the sum over a head's numbers."""
        return self.plan.head_size

    def steps(self, keys: Keys) -> Bounds:
        """Bounds of the sum over keys."""
        return keys.steps()

    def pack(self, keys: Keys) -> None:
        """Before the first block of a head: bring its keys, and maybe values, into shape."""
        raise NotImplementedError

    def start_block(self, first: Index, rows: Extent) -> None:
        """Before the rows of a block."""

    def query(self, i: SSAValue, row: Index, d: SSAValue) -> SSAValue:
        """Step d of query i of the block, which is row `row` of all."""
        raise NotImplementedError

    def key(self, j0: SSAValue, j1: SSAValue, d: SSAValue) -> SSAValue:
        """Step d of key j1 of panel j0."""
        raise NotImplementedError

    def keep(self, value: SSAValue, i: SSAValue, j: SSAValue) -> None:
        """Keep the exponential of query i and key j."""
        raise NotImplementedError

    def probability(self, i: SSAValue, j: SSAValue) -> SSAValue:
        """Step j of query i's exponentials."""
        raise NotImplementedError

    def value(self, j: SSAValue, e0: SSAValue, e1: SSAValue) -> SSAValue:
        """Step j of column e1 of panel e0 of the values."""
        raise NotImplementedError

    def multiply(self, a: SSAValue, b: SSAValue, acc: SSAValue) -> SSAValue:
        """One step of a sum."""
        raise NotImplementedError

    def column(self, head: SSAValue, d: Index, size: int, offset: int) -> SSAValue:
        """The column of number d of a head."""
        return self.n.affine(lambda h, d: h * size + d + offset, head, d)

    def key_at(self, j: SSAValue, d: Index) -> SSAValue:
        """Number d of key j."""
        n, (k, offset) = self.n, self.plan.k
        column = self.column(self.at.kv_head, d, self.plan.head_size, offset)
        return n.load(k, n.add_index(self.at.key_row, j), column)

    def or_last(self, j: SSAValue) -> SSAValue:
        """Key j; for one beyond the last, which its addend hides, the last."""
        last = self.n.add_index(self.plan.keys, -1)
        return self.n.insert(arith.MinSIOp(j, self.n.index(last)))


class FloatFactors(Factors):
    """f32: queries where they are, keys and values in panels, exponentials over the scores."""

    def pack(self, keys: Keys) -> None:
        n, p = self.n, self.plan
        self.vp = n.alloc(MemRefType(f32, [p.value_panels, p.stride, p.value_panel]), "vp")
        with n.parallel("p0", p.value_panels) as e0, n.parallel("p1", keys.steps()) as j:
            with n.parallel("lane", p.value_panel) as e1:
                n.store(self._value_at(j, p.value_column(e0, e1)), self.vp, e0, j, e1)
        self.kt = n.alloc(MemRefType(f32, [self.panels, p.head_size, p.panel]), "kt")
        with n.parallel("p0", keys.whole_panels()) as j0, n.parallel("p1", p.panel) as j1:
            j = n.affine(lambda j0, j1: j0 * p.panel + j1, j0, j1)
            self._pack_key(j, j0, j1)
        if not keys.may_end_within_a_panel:
            return
        last, rest = keys.last_panel()
        with n.parallel("d", p.head_size) as d, n.parallel("lane", p.panel) as j1:
            n.store(n.constant(0.0, f32), self.kt, last, d, j1)
        with n.parallel("p1", rest) as j1:
            j = n.affine(lambda j0, j1: j0 * p.panel + j1, last, j1)
            self._pack_key(j, last, j1)

    def _pack_key(self, j: SSAValue, j0: Index, j1: SSAValue) -> None:
        with self.n.parallel("d", self.plan.head_size) as d:
            self.n.store(self.key_at(j, d), self.kt, j0, d, j1)

    def query(self, i: SSAValue, row: Index, d: SSAValue) -> SSAValue:
        q, offset = self.plan.q
        return self.n.load(q, row, self.column(self.at.head, d, self.plan.head_size, offset))

    def key(self, j0: SSAValue, j1: SSAValue, d: SSAValue) -> SSAValue:
        return self.n.load(self.kt, j0, d, j1)

    def keep(self, value: SSAValue, i: SSAValue, j: SSAValue) -> None:
        self.n.store(value, self.scores, i, j)

    def probability(self, i: SSAValue, j: SSAValue) -> SSAValue:
        return self.n.load(self.scores, i, j)

    def value(self, j: SSAValue, e0: SSAValue, e1: SSAValue) -> SSAValue:
        return self.n.load(self.vp, e0, j, e1)

    def _value_at(self, j: SSAValue, column: SSAValue) -> SSAValue:
        v, offset = self.plan.v
        at = self.column(self.at.kv_head, column, self.plan.value_size, offset)
        return self.n.load(v, self.n.add_index(self.at.key_row, j), at)

    def multiply(self, a: SSAValue, b: SSAValue, acc: SSAValue) -> SSAValue:
        return self.n.insert(math.FmaOp(a, b, acc))


class Bf16Factors(Factors):
    """Words of two bf16: neighbours in a head for the scores, neighbouring keys for the output."""

    @property
    def depth(self) -> int:
        return self.plan.head_size // 2

    def steps(self, keys: Keys) -> Bounds:
        """A matrix unit adds up some steps before they meet the sum: it takes whole panels, so that
        these are the same ones wherever the keys begin."""
        return keys.steps_of_panels(2) if self.plan.is_tensor else keys.steps(2)

    def pack(self, keys: Keys) -> None:
        p, half = self.plan, self.plan.head_size // 2
        kt, self.kt = self._words([self.panels, half, p.panel], "kt")
        vt, self.vt = self._words([p.stride // 2, p.value_size], "vt")
        q16, self.q = self._words([p.rows, half], "q16")
        self.flat_q = self._flat(q16, p.head_size)
        p16, self.p = self._words([p.rows, p.stride // 2], "p16")
        self.flat_p = self._flat(p16, p.stride)
        self._pack_keys(keys, kt)
        self._pack_values(keys, vt)

    def _words(self, shape: list[int], name: str) -> tuple[SSAValue, SSAValue]:
        """Memory for words, as pairs of bf16 and as i32."""
        pairs = self.n.alloc(MemRefType(bf16, [*shape, 2]), name)
        words = self.n.insert(ViewOp(pairs, MemRefType(i32, shape)))
        words.name_hint = f"{name}_words"
        return pairs, words

    def _pack_keys(self, keys: Keys, kt: SSAValue) -> None:
        """A panel is rounded along its rows, in vectors; then its pairs change places."""
        n, p = self.n, self.plan
        rounded = n.alloc(MemRefType(bf16, [p.panel, p.head_size]), "k16")
        with n.parallel("p0", keys.steps(p.panel)) as j0:
            with n.parallel("p1", p.panel) as j1:
                j = self.or_last(n.affine(lambda j0, j1: j0 * p.panel + j1, j0, j1))
                with n.parallel("lane", p.head_size) as d:
                    self._store(self.key_at(j, d), rounded, j1, d)
            with n.parallel("p1", p.panel) as j1, n.parallel("d", p.head_size // 2) as d:
                with n.parallel("half", 2) as part:
                    number = n.affine(lambda d, part: d * 2 + part, d, part)
                    n.store(n.load(rounded, j1, number), kt, j0, d, j1, part)

    def _pack_values(self, keys: Keys, vt: SSAValue) -> None:
        """Two rows are rounded in vectors, and then interleaved."""
        n, p, (v, offset) = self.n, self.plan, self.plan.v
        rounded = n.alloc(MemRefType(bf16, [2, p.value_size]), "v16")
        with n.parallel("p0", self.steps(keys)) as j:
            with n.parallel("p1", 2) as part:
                key = n.affine(lambda j, part: j * 2 + part, j, part)
                row = n.add_index(self.at.key_row, self.or_last(key))
                with n.parallel("lane", p.value_size) as e:
                    at = self.column(self.at.kv_head, e, p.value_size, offset)
                    self._store(n.load(v, row, at), rounded, part, e)
            with n.parallel("e", p.value_size) as e, n.parallel("half", 2) as part:
                n.store(n.load(rounded, part, e), vt, j, e, part)

    def start_block(self, first: Index, rows: Extent) -> None:
        """Round the block's queries."""
        n, p, (q, offset) = self.n, self.plan, self.plan.q
        with n.parallel("row", rows) as i, n.parallel("lane", p.head_size) as d:
            at = self.column(self.at.head, d, p.head_size, offset)
            self._store(n.load(q, n.add_index(first, i), at), self.flat_q, i, d)

    def _flat(self, pairs: SSAValue, width: int) -> SSAValue:
        """Rows of pairs as rows of single numbers."""
        return self.n.insert(ViewOp(pairs, MemRefType(bf16, [self.plan.rows, width])))

    def _store(self, value: SSAValue, target: SSAValue, *at: Index) -> None:
        """Rounded, unless it was when it was made."""
        if value.type != bf16:
            value = self.n.insert(ConvertOp(value, bf16))
        self.n.store(value, target, *at)

    def query(self, i: SSAValue, row: Index, d: SSAValue) -> SSAValue:
        return self.n.load(self.q, i, d)

    def key(self, j0: SSAValue, j1: SSAValue, d: SSAValue) -> SSAValue:
        return self.n.load(self.kt, j0, d, j1)

    def keep(self, value: SSAValue, i: SSAValue, j: SSAValue) -> None:
        self._store(value, self.flat_p, i, j)

    def probability(self, i: SSAValue, j: SSAValue) -> SSAValue:
        return self.n.load(self.p, i, j)

    def value(self, j: SSAValue, e0: SSAValue, e1: SSAValue) -> SSAValue:
        return self.n.load(self.vt, j, self.plan.value_column(e0, e1))

    def multiply(self, a: SSAValue, b: SSAValue, acc: SSAValue) -> SSAValue:
        return self.n.insert(DotOp(DotKind.BF16, a, b, acc))
