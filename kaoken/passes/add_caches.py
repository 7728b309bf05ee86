"""`add-caches`: make a causal model of whole texts into one that goes on where it left off.

    func.func @main(%ids: [1, tokens]) -> [1, tokens, 97] attributes {kaoken.max = {tokens = 64}} {
      %p = kaoken.slice %positions <[2, "tokens + 2"]>             # what depends on positions alone
      %c = kaoken.elementwise cos (%iota * %frequencies)
      %a = kaoken.attention %q, %k, %v {causal = true}
      ...
      %n = kaoken.layer_norm %x, %g bias %b
      %y = kaoken.linear %n, %head
->
    func.func @main(%ids: [1, tokens]) -> [1, outputs, 97]
        attributes {kaoken.max = {tokens = 64, past = 63, outputs = 8}} {
      %keys = kaoken.cache "layers.0.keys" : !kaoken.cache<[64, 4, 16], f32, panels>
      %p = kaoken.slice %positions <["past + 2", "past + tokens + 2"]>
      %c = kaoken.slice %table <[past, "past + tokens"]>           # a weight, for all positions
      kaoken.cache_append %k to %keys at <[past]>
      %all = kaoken.cache_read %keys to <["past + tokens"]>        # and so for %v
      %a = kaoken.attention %q, %all, %all_values {causal = true}
      ...
      %last = kaoken.slice %x <["-outputs + tokens", tokens]>
      %n = kaoken.layer_norm %last, %g bias %b
      %y = kaoken.linear %n, %head

The caches hold as many tokens as the text could have. What depends on positions alone (rotary
angles however scaled, learned or sinusoidal positions) is computed here, for all of them, and a
call reads its rows. So is a mask of positions: a window, or a bias for each distance (ALiBi; Press
et al., arXiv 2108.12409). The last rows are cut out before what follows the last sum of two rows.

It is sound where tokens meet in causal attention alone, which `kaoken.analysis.token_dims` proves;
for any other model the pass fails with the op that mixes them. One argument, `[1, tokens]`, holds
the tokens; others are the same for all of them. A module that has caches stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xdsl.context import Context
from xdsl.dialects.builtin import (
    ArrayAttr,
    BoolAttr,
    DictionaryAttr,
    FunctionType,
    IntegerAttr,
    ModuleOp,
    StringAttr,
    f32,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.traits import SymbolTable

from kaoken.analysis.shapes import argument_shapes, substitute
from kaoken.analysis.token_dims import Mixed, depends_on_arguments, token_dims
from kaoken.analysis.value_shapes import shape_of
from kaoken.dialect.attributes import ShapeAttr, int_attr
from kaoken.dialect.base import KaokenOp, shaped, tensor_type
from kaoken.dialect.decoder import CacheAppendOp, CacheOp, CacheReadOp, CacheType
from kaoken.dialect.dims import Dim
from kaoken.dialect.generation import GENERATION, OUTPUTS, PAST, TOKENS, set_generation_sizes
from kaoken.dialect.nn import AttentionOp, EmbeddingOp, WeightOp
from kaoken.dialect.tensor import GatherOp, SliceOp
from kaoken.errors import KaokenError
from kaoken.passes.baking.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np

    from kaoken.analysis.distances import Distances


@dataclass(frozen=True)
class AddCachesPass(ModulePass):
    """Give a causal model caches of keys and values, so that a text may come in pieces."""

    name = "add-caches"

    end_tokens: tuple[int, ...] = ()
    """The tokens that end a text, unless the module's `kaoken.generation` says it."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        add_caches(op, self.end_tokens)


def add_caches(module: ModuleOp, end_tokens: Sequence[int] = ()) -> None:
    """Rewrite @main of a module; see above. KaokenError when it is no causal model of tokens."""
    function = SymbolTable.lookup_symbol(module, "main")
    if not isinstance(function, FuncOp) or any(isinstance(op, CacheOp) for op in function.walk()):
        return
    tokens, capacity = _text_size(function)
    rewriting = _Rewriting(module, function, tokens, capacity)
    rewriting.run()
    rewriting.work.commit()
    set_generation_sizes(function, capacity)
    if GENERATION not in module.attributes:
        ends = ArrayAttr([int_attr(token) for token in end_tokens])
        facts = {"capacity": int_attr(capacity), "end_tokens": ends}
        module.attributes[GENERATION] = DictionaryAttr(facts)
    for name in ("kaoken.input_tree", "kaoken.output_tree"):
        module.attributes.pop(name, None)


def _text_size(function: FuncOp) -> tuple[Dim, int]:
    """The number of tokens that @main is given, and the most that it may be."""
    maxima = function.attributes.get("kaoken.max")
    for shape in argument_shapes(function):
        symbols = [] if shape is None or len(shape) != 2 else sorted(shape[1].symbols)
        if not symbols or shape is None or shape[0] != Dim.of(1):
            continue
        limit = getattr(maxima, "data", {}).get(symbols[0])
        if shape[1] == Dim.symbol(symbols[0]) and limit is not None:
            return shape[1], limit.value.data
    raise KaokenError(
        "add-caches needs a model of token ids [1, tokens], the number of tokens open and bounded"
    )


class _Rewriting:
    """@main on its way to its new block; `values` says what old values have become."""

    def __init__(self, module: ModuleOp, function: FuncOp, tokens: Dim, capacity: int):
        self.work, self.function = Workspace(module), function
        self.tokens, self.capacity = tokens, capacity
        self.dims = token_dims(function, tokens)
        self.varying = depends_on_arguments(function)
        self.old = function.body.block
        self.block = Block(arg_types=self.old.arg_types)
        self.values: dict[SSAValue, SSAValue] = dict(
            zip(self.old.args, self.block.args, strict=True)
        )
        self.head: list[Operation] = []
        """Caches and rows of tables, which come first so that equal layers stay equal."""
        self.distances: dict[SSAValue, Distances | None] = {}
        self.symbol = TOKENS
        """What the number of tokens is called: `outputs` behind the cut."""
        self.layers = 0

    def run(self) -> None:
        end = self.old.last_op
        assert isinstance(end, ReturnOp)
        self._check_result(end)
        cut = self._last_sum(end.arguments[0])
        for argument, new in zip(self.old.args, self.block.args, strict=True):
            new.name_hint = argument.name_hint
        for op in self.old.ops:
            if op is not end and self._is_emitted(op):
                self._emit(op)
            if cut in op.results:
                self._cut(cut)
        self._finish(end)

    def _check_result(self, end: ReturnOp) -> None:
        if len(end.arguments) != 1:
            raise KaokenError("add-caches needs a model with one result, the logits")
        (logits,) = end.arguments
        dim = self.dims.get(logits)
        if isinstance(dim, Mixed):
            raise KaokenError(_refusal(dim))
        if dim != 1 or len(shape_of(logits)) != 3:
            raise KaokenError("the model gives no logits [1, tokens, vocabulary]: see its class")

    def _is_emitted(self, op: Operation) -> bool:
        """Whether an op stays; what depends on positions alone becomes rows of tables."""
        (result,) = op.results
        dim = self.dims[result]
        return not isinstance(dim, Mixed) and (dim is None or result in self.varying)

    def _emit(self, op: Operation) -> None:
        for value in op.operands:
            is_mask = isinstance(op, AttentionOp) and value is op.mask
            if value not in self.values and not is_mask:
                self.values[value] = self._rows_of_table(value)
        if isinstance(op, AttentionOp) and self.dims[op.key] == 1:
            self._through_caches(op)
            return
        copy = op.clone(self.values)
        self._rename_sizes(copy)
        self.block.add_op(copy)

    def _rename_sizes(self, op: Operation) -> None:
        names = {name: self.symbol for name in self.tokens.symbols}
        for key, value in op.properties.items():
            if isinstance(value, ShapeAttr):
                op.properties[key] = ShapeAttr(tuple(substitute(d, names) for d in value.data))

    # ---- what depends on positions alone ----

    def _rows_of_table(self, value: SSAValue) -> SSAValue:
        """The rows of this call, of a value that is known for every position."""
        dim = self.dims[value]
        assert isinstance(dim, int)
        if (rows := self._rows_of_weight(value)) is None:
            rows = self._slice(self._table(value), dim, Dim.of(0))
        rows.name_hint = value.name_hint
        return rows

    def _rows_of_weight(self, value: SSAValue) -> SSAValue | None:
        """The same for a slice of a stored table, which is a table itself."""
        op = value.owner
        if not isinstance(op, SliceOp) or not isinstance(op.input.owner, WeightOp):
            return None
        weight = self.values[op.input].owner
        assert isinstance(weight, WeightOp)
        if weight not in self.head:
            weight.detach()
            self.head.append(weight)
        return self._slice(weight.result, op.dim.value.data, op.range.data[0])

    def _slice(self, table: SSAValue, dim: int, first: Dim) -> SSAValue:
        bounds = ShapeAttr((PAST + first, PAST + TOKENS + first))
        op = SliceOp.make([table], {"dim": int_attr(dim), "range": bounds})
        self.head.append(op)
        return op.result

    def _table(self, value: SSAValue) -> SSAValue:
        """The value for all positions that the caches have room for, as a weight."""
        sizes = dict.fromkeys(self.tokens.symbols, self.capacity)
        array = self.work.value(value, sizes)
        type_ = shaped(tuple(map(Dim.of, array.shape)), tensor_type(value).element_type)
        op = WeightOp(self.work.add(f"positions.{value.name_hint or 'table'}", array), type_)
        self.head.append(op)
        return op.result

    # ---- attention ----

    def _through_caches(self, op: AttentionOp) -> None:
        heads, layer = op.kv_heads, self.layers
        self.layers += 1
        read = [
            self._through_cache(self.values[rows], heads, f"layers.{layer}.{what}", layout)
            for rows, what, layout in (
                (op.key, "keys", "panels"),
                (op.value, "values", "rows"),
            )
        ]
        properties = {k: v for k, v in op.properties.items() if k != "operandSegmentSizes"}
        bias = None if op.position_bias is None else self.values[op.position_bias]
        if op.mask is not None:
            bias = self._apply_mask(op, properties)
        copy = AttentionOp.make([self.values[op.query], *read, None, bias], properties)
        self.values[op.result] = copy.result
        self.block.add_op(copy)

    def _apply_mask(self, op: AttentionOp, properties: dict[str, Attribute]) -> SSAValue | None:
        """A mask of positions as what the properties say, and the bias of distances besides."""
        from kaoken.analysis.distances import distances_of

        assert op.mask is not None
        if op.position_bias is not None:
            raise KaokenError("attention with both a mask and a bias of distances has no caches")
        if op.mask not in self.distances:
            sizes = dict.fromkeys(self.tokens.symbols, self.capacity)
            self.distances[op.mask] = distances_of(self.work.value(op.mask, sizes))
        found = self.distances[op.mask]
        if found is None:
            raise KaokenError(
                "attention has a mask that is not one of distances, as causal masks, windows and "
                "ALiBi are: kaoken has no caches for it"
            )
        properties["causal"] = BoolAttr.from_bool(True)
        if found.window is not None:
            before = properties.get("window")
            least = before.value.data if isinstance(before, IntegerAttr) else found.window
            properties["window"] = int_attr(min(least, found.window))
        return None if found.bias is None else self._bias(op, found.bias, properties)

    def _bias(
        self, op: AttentionOp, bias: np.ndarray, properties: dict[str, Attribute]
    ) -> SSAValue:
        import numpy as np

        properties["bias_origin"] = int_attr(self.capacity - 1)
        rows = np.broadcast_to(bias, (op.heads, self.capacity)).astype("f4")
        type_ = shaped(tuple(map(Dim.of, rows.shape)), f32)
        weight = WeightOp(self.work.add("positions.bias", rows), type_)
        self.head.append(weight)
        return weight.result

    def _through_cache(self, rows: SSAValue, heads: int, key: str, layout: str) -> SSAValue:
        """Append rows to a cache, and read all that it holds then."""
        type_ = tensor_type(rows)
        if type_.element_type != f32:
            raise KaokenError(f"caches hold f32, not {type_.element_type}: load the model in f32")
        size = type_.get_shape()[-1] // heads
        cache = CacheOp(key, CacheType.of(self.capacity, heads, size, f32, layout))
        cache.result.name_hint = key.rpartition(".")[2]
        self.head.append(cache)
        append = CacheAppendOp(rows, cache, PAST)
        read = CacheReadOp.make([cache], {"length": ShapeAttr((PAST + TOKENS,))})
        self.block.add_ops([append, read])
        return read.result

    # ---- the last rows ----

    def _last_sum(self, value: SSAValue) -> SSAValue:
        """Where the rows that give logits are cut out: what comes after reads one row alone."""
        while (before := self._only_rows(value)) is not None:
            value = before
        return value

    def _only_rows(self, value: SSAValue) -> SSAValue | None:
        """The one operand with tokens of the op that makes a value, where nothing else reads it."""
        op = value.owner
        if isinstance(op, AttentionOp | EmbeddingOp | GatherOp) or not isinstance(op, KaokenOp):
            return None
        rows = list(dict.fromkeys(v for v in op.operands if self.dims[v] is not None))
        if len(rows) != 1 or any(use.operation is not op for use in rows[0].uses):
            return None
        return rows[0] if rows[0] in self.varying else None

    def _cut(self, value: SSAValue) -> None:
        dim = self.dims[value]
        assert isinstance(dim, int)
        bounds = ShapeAttr((TOKENS - OUTPUTS, TOKENS))
        op = SliceOp.make([self.values[value]], {"dim": int_attr(dim), "range": bounds})
        self.block.add_op(op)
        self.values[value] = op.result
        self.symbol = OUTPUTS

    # ---- the function ----

    def _finish(self, end: ReturnOp) -> None:
        if not self.layers:
            raise KaokenError(
                "the model has no causal attention: there is nothing to keep in caches"
            )
        logits = self.values[end.arguments[0]]
        logits.name_hint = "logits"
        self.block.add_op(ReturnOp(logits))
        first = self.block.first_op
        assert first is not None
        self.block.insert_ops_before(self.head, first)
        function = self.function
        self._rename_arguments()
        region = function.body
        region.detach_block(self.old)
        region.add_block(self.block)
        self.old.erase()
        inputs: list[Attribute] = list(self.block.arg_types)
        function.function_type = FunctionType.from_lists(inputs, [logits.type])
        function.attributes["kaoken.results"] = ArrayAttr([StringAttr("logits")])

    def _rename_arguments(self) -> None:
        names = {name: TOKENS for name in self.tokens.symbols}
        given = self.function.arg_attrs
        if given is None:
            return
        renamed: list[DictionaryAttr] = []
        for one in given:
            shape = one.data.get("kaoken.shape")
            assert isinstance(shape, ShapeAttr)
            dims = tuple(substitute(d, names) for d in shape.data)
            renamed.append(DictionaryAttr({**one.data, "kaoken.shape": ShapeAttr(dims)}))
        self.function.arg_attrs = ArrayAttr(renamed)


def _refusal(mixed: Mixed) -> str:
    op = mixed.op
    sizes = ", ".join(map(str, shape_of(op.result)))
    return (
        f"a {op.name} with the result [{sizes}] {mixed.reason}: kaoken generates text with models "
        "whose tokens meet in causal attention alone"
    )
