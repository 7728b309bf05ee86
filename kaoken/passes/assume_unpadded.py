"""`assume-unpadded{padding=1}`: texts hold no padding, which is token 1, so nothing asks for it.

    %pad = kaoken.full 1 to <[]> : tensor<i64>
    %is_text = kaoken.elementwise ne %input_ids, %pad     # positions count these
->
    %is_text = kaoken.full true to <[1, tokens]> : tensor<1x?xi1>

Models such as M2M100 and XLM-RoBERTa number the tokens that are not padding. A model that generates
is given one text at a time, without padding, so that the running sum of these is a position like
any other. A padding token that a text has nevertheless counts as any other one here.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.builder import Builder
from xdsl.context import Context
from xdsl.dialects.builtin import IntegerType, ModuleOp, i1
from xdsl.ir import BlockArgument, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from kaoken.analysis.value_shapes import shape_of
from kaoken.dialect.attributes import Function
from kaoken.dialect.base import tensor_type
from kaoken.dialect.canonicalization.rules import splat
from kaoken.dialect.tensor import ElementwiseOp
from kaoken.frontend.graph import Graph


@dataclass(frozen=True)
class AssumeUnpaddedPass(ModulePass):
    """Take it that texts hold no padding token."""

    name = "assume-unpadded"

    padding: int
    """The token that fills texts up."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        assume_unpadded(op, self.padding)


def assume_unpadded(module: ModuleOp, padding: int | None) -> bool:
    """Rewrite a module; see above. Whether anything changed: nothing does without such a token."""
    compared = [op for op in module.walk() if isinstance(op, ElementwiseOp)]
    found = [op for op in compared if padding is not None and _asks_for(op, padding)]
    for op in found:
        answer = Graph(Builder(InsertPoint.before(op))).full(
            op.function.data is Function.NE, i1, shape_of(op.result)
        )
        Rewriter.replace_op(op, [], [answer])
    return bool(found)


def _asks_for(op: ElementwiseOp, token: int) -> bool:
    """Whether an op compares the tokens that a function is given with that one."""
    if op.function.data not in (Function.EQ, Function.NE):
        return False
    return any(
        _are_tokens(value) and splat(other) == token
        for value, other in (tuple(op.inputs), tuple(reversed(op.inputs)))
    )


def _are_tokens(value: SSAValue) -> bool:
    return isinstance(value, BlockArgument) and isinstance(
        tensor_type(value).element_type, IntegerType
    )
