"""Recognising in plain arithmetic the layers that it spells out.

Models bring their own GELU, norms, attention and masks, and torch's older decompositions take whole
layers apart. The rules put them together again:

    %e = kaoken.elementwise erf ...                      # x * 0.5 * (1 + erf(x / sqrt(2)))
    %y = kaoken.elementwise mul ...
->
    %y = kaoken.gelu %x : tensor<?x?x384xf32> -> tensor<?x?x384xf32>

They are run with canonicalization and cse until nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import (
    GreedyRewritePatternApplier,
    PatternRewriteWalker,
    RewritePattern,
)
from xdsl.transforms.canonicalize import CanonicalizePass
from xdsl.transforms.common_subexpression_elimination import CommonSubexpressionElimination

from kaoken.frontend.recognise import (
    activations,
    attention,
    indices,
    masks,
    movement,
    norms,
    positions,
    products,
    rotary,
)

_RULES: list[RewritePattern] = [
    *indices.RULES,
    *movement.RULES,
    *activations.RULES,
    *norms.RULES,
    *products.RULES,
    *attention.RULES,
    *masks.RULES,
    *rotary.RULES,
    *positions.RULES,
]
_MAX_ROUNDS = 8


def recognise(module: ModuleOp) -> None:
    """Rewrite a module's tensor ops to the layers that they spell out."""
    context = Context()
    _tidy(context, module)
    walker = PatternRewriteWalker(GreedyRewritePatternApplier(_RULES, dce_enabled=True))
    for _ in range(_MAX_ROUNDS):
        if not walker.rewrite_module(module):
            break
        _tidy(context, module)


def _tidy(context: Context, module: ModuleOp) -> None:
    CanonicalizePass().apply(context, module)
    CommonSubexpressionElimination().apply(context, module)


@dataclass(frozen=True)
class RecognisePass(ModulePass):
    """Rewrites arithmetic to the layers that it spells out: gelu, norms, attention, pooling."""

    name = "recognise"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        recognise(op)
