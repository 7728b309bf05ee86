"""Weights of few bits: those that come so are kept, others are rounded.

    %w = kaoken.dequantize %codes scale %s {format = #kaoken.format<4 bits, group 32, offset 8>}
    %y = kaoken.linear %x, %w bias %b : tensor<?x576xf32>, tensor<1536x576xf32> -> ...
->
    %xq = kaoken.quantize_blocks %x {block = 32} : tensor<?x576xf32> -> tensor<?x18x10xi32>
    %y = kaoken.linear %xq, %codes bias %b weight_scale %s {format = ...} : ...

    %x = kaoken.embedding %w, %ids                       # %w as above
->
    %rows = kaoken.embedding %codes, %ids
    %scales = kaoken.embedding %s, %ids
    %x = kaoken.dequantize %rows scale %scales {format = ...}

Joined weights stay few bits where their formats are equal. Inputs that the model itself rounds, row
by row, keep its rule of rounding; a norm without gain before an exact one goes into the scales, for
no factor of a row changes its codes:

    %n = kaoken.rms_norm %x, %ones {eps = 0.0}
    %f = kaoken.fake_quantize %n {rounding = exact}
    %y = kaoken.linear %f, %w                            # %w of a format without groups
->
    %xq = kaoken.quantize_blocks %x {block = 576, rounding = exact, eps = 0.0}
    %y = kaoken.linear %xq, %codes weight_scale %s {format = ...} : ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from xdsl.dialects.builtin import ModuleOp, f32
from xdsl.ir import Attribute, Block, BlockArgument, Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from kaoken.analysis.constants import is_constant
from kaoken.dialect.attributes import Rounding, int_attr
from kaoken.dialect.base import KaokenOp, shaped, tensor_type
from kaoken.dialect.canonicalization.rules import linear_like, splat
from kaoken.dialect.dims import Dim
from kaoken.dialect.formats import Format, FormatAttr
from kaoken.dialect.nn import EmbeddingOp, LinearOp, RmsNormOp, WeightOp
from kaoken.dialect.quant import DequantizeOp, FakeQuantizeOp, QuantizeBlocksOp
from kaoken.dialect.tensor import ConcatOp
from kaoken.dtypes import element_type
from kaoken.error_feedback import rounded_with_feedback
from kaoken.errors import KaokenError
from kaoken.passes.baking.folding import source_key, source_keys
from kaoken.passes.baking.workspace import Workspace
from kaoken.passes.quantizing.policy import GROUPED_INT8, Choice, Policy
from kaoken.quantized import Quantized
from kaoken.rounding import rounded

EDGE = GROUPED_INT8
"""What embeddings and the layer that gives logits are rounded to, whatever the others."""


@dataclass(frozen=True)
class Parts:
    """The values that a weight of few bits is made of."""

    format: Format
    codes: SSAValue
    scale: SSAValue
    minimum: SSAValue | None
    supers: SSAValue | None = None

    @property
    def values(self) -> list[SSAValue | None]:
        """The operands of `kaoken.dequantize`."""
        return [self.codes, self.scale, self.minimum, self.supers]


@dataclass
class FewBits:
    """Narrows the layers of one block for which one choice of a policy holds."""

    block: Block
    work: Workspace
    choice: Choice
    policy: Policy
    moments: Mapping[SSAValue, np.ndarray] = field(default_factory=dict)
    """Of weights whose inputs were seen, the mean products of each two channels, [K, K]."""
    inputs: dict[tuple[SSAValue, int], SSAValue] = field(default_factory=dict)
    known: dict[tuple[SSAValue, str], Parts] = field(default_factory=dict)

    @property
    def rounding(self) -> str | None:
        """What weights that are floats are rounded to, if to anything."""
        return self.choice.dtype if self.choice.has_codes else None

    @property
    def only_rounded(self) -> bool:
        """Keep codes where inputs are rounded by the model itself, and leave all else alone."""
        return self.choice.dtype != "auto" and self.rounding is None

    @property
    def edge(self) -> str:
        """What tables and the layer of logits are rounded to, where weights are rounded."""
        return self.choice.dtype if self.choice.is_named else EDGE

    def apply(self) -> None:
        edges = set(self._tables()) if self.rounding else set()
        for op in list(self.block.ops):
            if isinstance(op, LinearOp) and op.format is None and not op.is_packed:
                self._linear(op, edges)
            elif isinstance(op, EmbeddingOp) and not self.only_rounded:
                self._embedding(op)

    def _is_chosen(self, weight: SSAValue) -> bool:
        return is_constant(weight) and self.policy.of(source_keys(weight)) == self.choice

    def _tables(self) -> Iterator[SSAValue]:
        """What ids given to the function are looked up in."""
        for op in self.block.ops:
            if isinstance(op, EmbeddingOp) and is_given(op) and is_constant(op.table):
                yield op.table

    def _linear(self, op: LinearOp, tables: set[SSAValue]) -> None:
        if tensor_type(op.input).element_type != f32 or not self._is_chosen(op.weight):
            return
        if self.only_rounded and not isinstance(op.input.owner, FakeQuantizeOp):
            return
        parts = stored_parts(op.weight, op)
        if parts is None and self.rounding is not None:
            sizes = {tensor_type(table).get_shape()[0] for table in tables}
            is_edge = op.weight in tables or op.n in sizes
            parts = self._rounded(op.weight, op, self.edge if is_edge else self.rounding)
        if parts is None:
            return
        operands = {
            "input": self._blocks(op, parts.format.block(op.k)),
            "weight": parts.codes,
            "weight_scale": parts.scale,
            "weight_min": parts.minimum,
            "weight_supers": parts.supers,
        }
        properties = {"format": FormatAttr(parts.format)}
        Rewriter.replace_op(op, linear_like(op, op.result.type, operands, properties))

    def _blocks(self, op: LinearOp, block: int) -> SSAValue:
        """A layer's input in blocks, rounded once for all the layers that read it."""
        if (key := (op.input, block)) not in self.inputs:
            self.inputs[key] = _insert(op, _in_blocks(op.input, block))
        return self.inputs[key]

    def _embedding(self, op: EmbeddingOp) -> None:
        if not self._is_chosen(op.table):
            return
        parts = stored_parts(op.table, op)
        if parts is None and self.rounding is not None and is_given(op):
            if tensor_type(op.table).element_type == f32:
                parts = self._rounded(op.table, op, self.edge)
        if parts is None:
            return
        rows = [
            None if value is None else _insert(op, EmbeddingOp.make([value, op.indices]))
            for value in parts.values
        ]
        dequantize = DequantizeOp.make(rows, {"format": FormatAttr(parts.format)})
        dequantize.result.name_hint = op.result.name_hint
        Rewriter.replace_op(op, dequantize)

    def _rounded(self, weight: SSAValue, before: Operation, name: str) -> Parts:
        if (key := (weight, name)) not in self.known:
            source = source_key(weight)
            try:
                found = self._found(weight, name)
            except KaokenError as error:
                raise KaokenError(f'the weight "{source}" cannot be rounded: {error}') from None
            arrays = (found.codes, found.scale, found.minimum, found.supers)
            made = [
                None if array is None else self._weight(f"{source}.{name}{end}", array)
                for end, array in zip(("", ".scale", ".min", ".supers"), arrays, strict=True)
            ]
            first = self.block.first_op
            assert first is not None
            Rewriter.insert_op([op for op in made if op is not None], InsertPoint.before(first))
            codes, scale, *rest = (None if op is None else op.result for op in made)
            assert codes is not None
            assert scale is not None
            self.known[key] = Parts(found.format, codes, scale, *rest)
        return self.known[key]

    def _found(self, weight: SSAValue, name: str) -> Quantized:
        array, moments = self.work.value(weight), self.moments.get(weight)
        if moments is None or name == EDGE:
            return rounded(array, name, self.choice.group)
        return rounded_with_feedback(array, moments, name, self.choice.group)

    def _weight(self, key: str, array: object) -> WeightOp:
        name = self.work.add(key, array)  # pyright: ignore[reportArgumentType]
        array = self.work[name]
        return WeightOp(name, shaped(tuple(map(Dim.of, array.shape)), element_type(array.dtype)))


def _in_blocks(x: SSAValue, block: int) -> QuantizeBlocksOp:
    """Rows in blocks, by the rule that the model rounds them with where a block is a row."""
    properties: dict[str, Attribute | None] = {"block": int_attr(block)}
    model_rounds = x.owner
    if isinstance(model_rounds, FakeQuantizeOp) and block >= tensor_type(x).get_shape()[-1]:
        x, properties["rounding"] = model_rounds.input, model_rounds.rounding
        norm = x.owner
        if model_rounds.rounding.data is Rounding.EXACT and isinstance(norm, RmsNormOp):
            if splat(norm.weight) == 1:
                x, properties["eps"] = norm.input, norm.eps
    return QuantizeBlocksOp.make([x], properties)


def stored_weights(module: ModuleOp) -> dict[str, str]:
    """The keys of the weights of few bits that the module reads as numbers, with their formats."""
    return {
        op.input.owner.key.data: str(op.format.data)
        for op in module.walk()
        if isinstance(op, DequantizeOp) and isinstance(op.input.owner, WeightOp) and op.result.uses
    }


def stored_parts(value: SSAValue, before: Operation) -> Parts | None:
    """What a constant of few bits is made of; ops that join its parts go before `before`."""
    if (format_ := stored_format(value)) is None:
        return None
    owner = value.owner
    if isinstance(owner, DequantizeOp):
        return Parts(format_, owner.input, owner.scale, owner.min, owner.supers)
    assert isinstance(owner, ConcatOp)
    pieces = [stored_parts(part, before) for part in owner.inputs]

    def joined(values: list[SSAValue | None]) -> SSAValue | None:
        present = [v for v in values if v is not None]
        if not present:
            return None
        return _insert(before, ConcatOp.make([present], {"dim": int_attr(0)}))

    known = [piece.values for piece in pieces if piece is not None]
    codes, scale, *rest = (joined(list(values)) for values in zip(*known, strict=True))
    assert codes is not None
    assert scale is not None
    return Parts(format_, codes, scale, *rest)


def stored_format(value: SSAValue) -> Format | None:
    """The format of a constant of few bits, or of several that are joined and are alike."""
    owner = value.owner
    if isinstance(owner, DequantizeOp):
        return owner.format.data
    if isinstance(owner, ConcatOp) and owner.dim.value.data == 0:
        kinds = {_kind(part) for part in owner.inputs}
        return stored_format(owner.inputs[0]) if len(kinds) == 1 else None
    return None


def _kind(value: SSAValue) -> object:
    """What must be equal of weights that are to be joined; a float has a kind of its own."""
    owner = value.owner
    if not isinstance(owner, DequantizeOp):
        return stored_format(value) or value
    return owner.format, tensor_type(owner.scale).element_type, owner.min is None


def is_given(op: EmbeddingOp) -> bool:
    """Whether the ids are an argument, so that the table is a vocabulary."""
    return isinstance(op.indices, BlockArgument)


def _insert(before: Operation, op: KaokenOp) -> SSAValue:
    Rewriter.insert_op(op, InsertPoint.before(before))
    return op.result
