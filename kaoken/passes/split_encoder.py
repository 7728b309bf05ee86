"""`split-encoder`: compute once for each source what a decoder needs of it, and keep it in caches.

    func.func @encode(%ids: [1, source]) -> [1, source, 64]
    func.func @main(%ids: [1, tokens], %hidden: [1, source, 64]) -> ... {
      %k = kaoken.linear %hidden, %wk
      %v = kaoken.linear %hidden, %wv
      %y = kaoken.attention %q, %k, %v
->
    func.func @encode(%ids: [1, source]) {
      %k = kaoken.linear %hidden, %wk
      %v = kaoken.linear %hidden, %wv
      kaoken.cache_append %k to %keys at <[0]>            # and so for %v
    func.func @main(%ids: [1, tokens]) -> ... {
      %k = kaoken.cache_read %keys to <[source]>
      %v = kaoken.cache_read %values to <[source]>
      %y = kaoken.attention %q, %k, %v

@main's argument `encoder_hidden_states` is what @encode gives. All that is computed of it alone, up
to the keys and values of attention, moves. A decoder that needs the source for anything else is an
error. A module whose @main has no such argument stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    FunctionType,
    IntegerAttr,
    ModuleOp,
    f32,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, BlockArgument, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter
from xdsl.traits import SymbolTable
from xdsl.transforms.dead_code_elimination import dce

from kaoken.analysis.constants import is_constant
from kaoken.analysis.shapes import MAX, argument_name
from kaoken.analysis.value_shapes import shape_of
from kaoken.dialect.attributes import ShapeAttr
from kaoken.dialect.base import KaokenOp, tensor_type
from kaoken.dialect.decoder import CacheAppendOp, CacheOp, CacheReadOp, CacheType
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import AttentionOp
from kaoken.errors import KaokenError

HIDDEN = "encoder_hidden_states"


@dataclass(frozen=True)
class SplitEncoderPass(ModulePass):
    """Move what a decoder computes of its source alone into the encoder, and on through caches."""

    name = "split-encoder"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        split_encoder(op)


def split_encoder(module: ModuleOp) -> None:
    """Rewrite @encode and @main of a module; see above."""
    encode, main = (SymbolTable.lookup_symbol(module, name) for name in ("encode", "main"))
    if not isinstance(encode, FuncOp) or not isinstance(main, FuncOp):
        return
    names = [argument_name(main, i) for i in range(len(main.args))]
    if HIDDEN not in names:
        return
    _Split(encode, main, main.args[names.index(HIDDEN)]).run()
    dce(module)


class _Split:
    def __init__(self, encode: FuncOp, main: FuncOp, hidden: BlockArgument):
        self.encode, self.main, self.hidden = encode, main, hidden
        end = encode.body.block.last_op
        assert isinstance(end, ReturnOp)
        self.end = end
        self.moved: dict[SSAValue, SSAValue] = {hidden: end.arguments[0]}
        self.source = shape_of(hidden)[1]
        self.capacity = self.source.evaluate(_maxima(encode))

    def run(self) -> None:
        of_source = self._of_source()
        layers = [
            op
            for op in self.main.body.block.ops
            if isinstance(op, AttentionOp) and op.key in of_source and op.value in of_source
        ]
        for i, op in enumerate(layers):
            for operand, what, layout in ((1, "keys", "panels"), (2, "values", "rows")):
                self._through_cache(op, operand, f"layers.{i}.cross_{what}", layout)
        self._drop_argument()
        self._drop_result()
        self.main.attributes[MAX] = _numbers(_maxima(self.encode) | _maxima(self.main))

    def _of_source(self) -> set[SSAValue]:
        """What @main computes of the source and of weights alone."""
        found: set[SSAValue] = {self.hidden}
        for op in self.main.body.block.ops:
            known = [v for v in op.operands if v in found]
            if known and all(v in found or is_constant(v) for v in op.operands):
                found.update(op.results)
        return found

    def _through_cache(self, op: AttentionOp, operand: int, key: str, layout: str) -> None:
        """Let @encode write an operand to a cache, and @main read it there."""
        rows = op.operands[operand]
        type_ = tensor_type(rows)
        if type_.element_type != f32:
            raise KaokenError(f"caches hold f32, not {type_.element_type}: load the model in f32")
        size = type_.get_shape()[-1] // op.kv_heads
        cache = CacheType.of(self.capacity, op.kv_heads, size, f32, layout)
        there, here = CacheOp(key, cache), CacheOp(key, cache)
        append = CacheAppendOp(self._move(rows), there, Dim.of(0))
        Rewriter.insert_op([there, append], InsertPoint.before(self.end))
        read = CacheReadOp.make([here], {"length": ShapeAttr((self.source,))})
        for new in (there, here):
            new.result.name_hint = key.rpartition(".")[2]
        Rewriter.insert_op(here, InsertPoint.at_start(self.main.body.block))
        Rewriter.insert_op(read, InsertPoint.before(op))
        op.operands[operand] = read.result

    def _move(self, value: SSAValue) -> SSAValue:
        """The value, computed at the end of @encode."""
        if value not in self.moved:
            op = value.owner
            assert isinstance(op, Operation)
            copy = op.clone({v: self._move(v) for v in op.operands})
            Rewriter.insert_op(copy, InsertPoint.before(self.end))
            self.moved[value] = copy.results[0]
        return self.moved[value]

    def _drop_argument(self) -> None:
        dead = [op for op in self.main.body.block.ops if isinstance(op, KaokenOp)]
        for op in reversed(dead):
            if not op.result.uses:
                Rewriter.erase_op(op)
        if self.hidden.uses:
            user = next(iter(self.hidden.uses)).operation.name
            raise KaokenError(
                f"a {user} of the decoder reads the source besides cross-attention: "
                "kaoken generates text with models whose tokens meet in attention alone"
            )
        given = self.main.arg_attrs
        if given is not None:
            kept = [a for i, a in enumerate(given) if i != self.hidden.index]
            self.main.arg_attrs = ArrayAttr(kept)
        block = self.main.body.block
        block.erase_arg(self.hidden)
        outputs = self.main.function_type.outputs.data
        self.main.function_type = FunctionType.from_lists(block.arg_types, list(outputs))

    def _drop_result(self) -> None:
        Rewriter.replace_op(self.end, ReturnOp())
        inputs = self.encode.function_type.inputs.data
        self.encode.function_type = FunctionType.from_lists(list(inputs), [])
        self.encode.attributes.pop("kaoken.results", None)


def _maxima(function: FuncOp) -> dict[str, int]:
    declared = function.attributes.get(MAX)
    values = declared.data if isinstance(declared, DictionaryAttr) else {}
    return {k: v.value.data for k, v in values.items() if isinstance(v, IntegerAttr)}


def _numbers(values: Mapping[str, int]) -> DictionaryAttr:
    found: dict[str, Attribute] = {k: IntegerAttr(v, 64) for k, v in values.items()}
    return DictionaryAttr(found)
