"""`batch-sequences`: let a model that generates text go on with several texts in one call.

    batch-sequences{count=2}

    func.func @main(%ids: [1, tokens])
      %c = kaoken.slice %table <[past, "past + tokens"]>
      kaoken.cache_append %k to %keys at <[past]>
      %all = kaoken.cache_read %keys to <["past + tokens"]>
      %a = kaoken.attention %q, %all, %all_values {causal = true}
->
    func.func @main(%ids: [1, "tokens_0 + tokens_1"])
      %c_0 = kaoken.slice %table <[past_0, "past_0 + tokens_0"]>
      %c_1 = kaoken.slice %table <[past_1, "past_1 + tokens_1"]>
      %c = kaoken.concat %c_0, %c_1 {dim = 0}
      %k_0 = kaoken.slice %k <[0, tokens_0]> {dim = 1}
      kaoken.cache_append %k_0 to %keys_0 at <[past_0]>
      ...                                                   # and so for %q, %v and sequence 1
      %a_0 = kaoken.attention %q_0, %all_0, %all_values_0 {causal = true}
      %a_1 = kaoken.attention %q_1, %all_1, %all_values_1 {causal = true}
      %a = kaoken.concat %a_0, %a_1 {dim = 1}

Each sequence has caches of its own, and any number of tokens in a call, 0 as well. Only what meets
other tokens (caches and attention) and what depends on positions is done for each by itself. All
other ops see the rows of all sequences, and read each weight once for them. Rows do not depend on
each other there, so a sequence's bits are those that it has alone.

Where an encoder reads what a text is made from, each sequence has the keys and values of its own
source, `source_0`, `source_1` ... tokens. `@encode` reads one source at a time and writes to caches
that are no sequence's (number `count`), so that the other sequences stay as they are; its caller
copies them to the sequence whose source it is.

    kaoken.cache_append %k to %cross_keys at <[0]>                      # in @encode
    %all = kaoken.cache_read %cross_keys to <[source]>                  # in @main
->
    kaoken.cache_append %k to %cross_keys_2 at <[0]>
    %all_0 = kaoken.cache_read %cross_keys_0 to <[source_0]>
    %all_1 = kaoken.cache_read %cross_keys_1 to <[source_1]>

Does nothing for one sequence, and where sequences are told apart already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from xdsl.builder import Builder
from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter
from xdsl.traits import SymbolTable

from kaoken.analysis.shapes import declared_maxima, substitute
from kaoken.dialect.attributes import ShapeAttr, int_attr
from kaoken.dialect.decoder import CacheAppendOp, CacheOp, CacheReadOp
from kaoken.dialect.dims import Dim
from kaoken.dialect.generation import (
    ENCODE,
    GENERATION,
    MAX_OUTPUTS,
    PAST,
    SOURCE,
    sequence_sizes,
    set_generation_sizes,
    source_symbol,
)
from kaoken.dialect.nn import AttentionOp
from kaoken.dialect.tensor import ConcatOp, SliceOp
from kaoken.errors import KaokenError


@dataclass(frozen=True)
class BatchSequencesPass(ModulePass):
    """Give a model that generates text several sequences, each with caches of its own."""

    name = "batch-sequences"

    count: int = 1
    """How many sequences a context holds."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        batch_sequences(op, self.count)


def batch_sequences(module: ModuleOp, count: int) -> None:
    """Rewrite @main for `count` sequences. KaokenError where it does not generate text."""
    function = SymbolTable.lookup_symbol(module, "main")
    facts = module.attributes.get(GENERATION)
    if not 1 <= count <= MAX_OUTPUTS:
        raise KaokenError(f"a batch is {count}, but must be from 1 to {MAX_OUTPUTS} sequences")
    if count == 1:
        return
    if not isinstance(function, FuncOp) or not isinstance(facts, DictionaryAttr):
        raise KaokenError("a batch of sequences is for models that generate text")
    if "batch" in facts.data:
        return
    _Batching(function, count).run()
    module.attributes[GENERATION] = DictionaryAttr({**facts.data, "batch": int_attr(count)})
    capacity = facts.data["capacity"].value.data  # pyright: ignore[reportAttributeAccessIssue]
    most_source = declared_maxima(function).get(SOURCE)
    set_generation_sizes(function, capacity, count, most_source)
    encode = SymbolTable.lookup_symbol(module, ENCODE)
    if isinstance(encode, FuncOp):
        _write_aside(encode, count)


def _write_aside(encode: FuncOp, count: int) -> None:
    """Let @encode write to caches of its own, as if it were one more sequence."""
    for op in encode.walk():
        if isinstance(op, CacheOp):
            op.key = StringAttr(f"{op.key.data}.{count}")
            op.sequence = int_attr(count)


@dataclass
class _Batching:
    function: FuncOp
    count: int
    caches: dict[SSAValue, list[SSAValue]] = field(default_factory=dict)
    """The cache of each sequence, for each cache that there was."""

    def run(self) -> None:
        self.sizes = sequence_sizes(self.count)
        self.own = [
            {"tokens": tokens, "past": past, SOURCE: source_symbol(n, self.count)}
            for n, (tokens, past) in enumerate(self.sizes)
        ]
        self.all_tokens = sum((tokens for tokens, _ in self.sizes), Dim.of(0))
        self._rename_arguments()
        for op in list(self.function.body.block.ops):
            self._rewrite(op)
        for op in reversed(list(self.function.body.block.ops)):
            if isinstance(op, CacheReadOp | CacheOp) and not any(op.results[0].uses):
                Rewriter.erase_op(op)

    def _rename_arguments(self) -> None:
        named: list[DictionaryAttr] = []
        for one in self.function.arg_attrs or ():
            shape = one.data.get("kaoken.shape")
            assert isinstance(shape, ShapeAttr)
            named.append(DictionaryAttr({**one.data, "kaoken.shape": self._shape_of_all(shape)}))
        self.function.arg_attrs = ArrayAttr(named)

    def _shape_of_all(self, shape: ShapeAttr) -> ShapeAttr:
        return ShapeAttr(tuple(substitute(d, {"tokens": self.all_tokens}) for d in shape.data))

    def _rewrite(self, op: Operation) -> None:
        if isinstance(op, CacheOp):
            self._split_cache(op)
        elif isinstance(op, CacheAppendOp):
            self._split_append(op)
        elif isinstance(op, AttentionOp) and isinstance(op.key.owner, CacheReadOp):
            self._split_attention(op)
        elif isinstance(op, SliceOp) and _depends_on_sequence(op):
            self._split_positions(op)
        elif not isinstance(op, CacheReadOp):
            if _depends_on_sequence(op):
                raise KaokenError(f"batch-sequences knows no {op.name} that depends on positions")
            for key, value in op.properties.items():
                if isinstance(value, ShapeAttr):
                    op.properties[key] = self._shape_of_all(value)

    def _split_cache(self, op: CacheOp) -> None:
        builder = Builder(InsertPoint.before(op))
        copies: list[SSAValue] = []
        for n in range(self.count):
            copy = builder.insert(CacheOp(f"{op.key.data}.{n}", op.result.type, n))
            copy.result.name_hint = f"{op.result.name_hint or 'cache'}_{n}"
            copies.append(copy.result)
        self.caches[op.result] = copies

    def _split_append(self, op: CacheAppendOp) -> None:
        builder = Builder(InsertPoint.before(op))
        parts = self._parts(builder, op.input)
        for (_, past), rows, cache in zip(self.sizes, parts, self.caches[op.cache], strict=True):
            builder.insert(CacheAppendOp(rows, cache, past))
        Rewriter.erase_op(op)

    def _split_attention(self, op: AttentionOp) -> None:
        builder = Builder(InsertPoint.before(op))
        parts = self._parts(builder, op.query)
        results: list[SSAValue] = []
        for n, query in enumerate(parts):
            operands = list(op.operands)
            operands[0] = query
            for at in (1, 2):
                operands[at] = self._read(builder, op.operands[at], n)
            part = AttentionOp.create(
                operands=operands,
                result_types=[op.result.type],
                properties=dict(op.properties),
                attributes=dict(op.attributes),
            )
            results.append(builder.insert(part).results[0])
        self._replace(op, builder, results, 1)

    def _read(self, builder: Builder, value: SSAValue, sequence: int) -> SSAValue:
        read = value.owner
        assert isinstance(read, CacheReadOp)
        cache = self.caches[read.cache][sequence]
        length = self._of_sequence(read.length, sequence)
        return builder.insert(CacheReadOp.make([cache], {"length": length})).result

    def _of_sequence(self, shape: ShapeAttr, sequence: int) -> ShapeAttr:
        return ShapeAttr(tuple(substitute(d, self.own[sequence]) for d in shape.data))

    def _split_positions(self, op: SliceOp) -> None:
        """Rows of a table for the tokens of a call, from where each sequence is."""
        builder = Builder(InsertPoint.before(op))
        results: list[SSAValue] = []
        for n in range(self.count):
            bounds = self._of_sequence(op.range, n)
            part = SliceOp.make([op.input], {"dim": op.dim, "range": bounds})
            results.append(builder.insert(part).result)
        self._replace(op, builder, results, op.dim.value.data)

    def _parts(self, builder: Builder, rows: SSAValue) -> list[SSAValue]:
        """The rows [1, tokens, width] of each sequence."""
        parts, first = [], Dim.of(0)
        for tokens, _ in self.sizes:
            bounds = ShapeAttr((first, first + tokens))
            part = SliceOp.make([rows], {"dim": int_attr(1), "range": bounds})
            parts.append(builder.insert(part).result)
            first = first + tokens
        return parts

    def _replace(
        self, op: Operation, builder: Builder, parts: Sequence[SSAValue], dim: int
    ) -> None:
        joined = builder.insert(ConcatOp.make([list(parts)], {"dim": int_attr(dim)}))
        joined.result.name_hint = op.results[0].name_hint
        Rewriter.replace_op(op, [], [joined.result])


def _depends_on_sequence(op: Operation) -> bool:
    shapes = [value.data for value in op.properties.values() if isinstance(value, ShapeAttr)]
    return any((PAST.symbols | {SOURCE}) & d.symbols for shape in shapes for d in shape)
