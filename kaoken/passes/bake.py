"""`bake`: what is known before the program runs is computed and laid out now.

    %q = kaoken.weight "attn.q.weight"                             # 2. fold
    %k = kaoken.weight "attn.k.weight"
    %w = kaoken.concat %q, %k {dim = 0}
    %y = kaoken.linear %x, %w {schedule = #kaoken.schedule<panel(48), ...>}
    %z = kaoken.attention (%y sliced) {scale = 0.125}              # 1. scales
->
    %w = kaoken.weight "attn.qk.weight.scaled.panels48" : tensor<16x384x48xf32> # 3. pack
    %y = kaoken.linear %x, %w {out_features = 768, schedule = ...}
    %z = kaoken.attention (%y sliced) {scale = 1.0}

With `mode=literal` weights become constants of the IR instead, and each linear layer
straight-line code (see `kaoken.passes.literal`):

    %w = arith.constant dense<[[0.25, 0.0], [1.0, 2.0]]> : tensor<2x2xf32>
    %y = kaoken.linear %x, %w {schedule = #kaoken.schedule<literal()>}

Weights that reach a layer as an argument of its function, as `outline` makes them, stay as they
are: bake comes before outline.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import (
    GreedyRewritePatternApplier,
    PatternRewriteWalker,
    RewritePattern,
)
from xdsl.transforms.canonicalize import CanonicalizationRewritePattern
from xdsl.transforms.dead_code_elimination import dce

from kaoken.dialect.canonicalization.rules import Rule
from kaoken.dialect.nn import AttentionOp, EmbeddingOp, LinearOp
from kaoken.dialect.tensor import ElementwiseOp
from kaoken.errors import KaokenError
from kaoken.passes.baking.embeddings import lift_movement_of_ids
from kaoken.passes.baking.folding import fold_constants, merge_equal_weights
from kaoken.passes.baking.panels import PanelPacker
from kaoken.passes.baking.scales import fold_attention_scale, fold_factor_after_linear
from kaoken.passes.baking.workspace import Workspace
from kaoken.passes.choose_schedule import ChooseSchedulePass
from kaoken.passes.literal import make_literal

MODES = ("pack", "literal")


@dataclass(frozen=True)
class BakePass(ModulePass):
    """Fold constants and scales into weights, and lay weights out as the schedules want."""

    name = "bake"

    mode: str = "pack"
    """`pack`: weights in panels, in the weights file; `literal`: weights as numbers in the code."""

    literal_limit: int = 4096
    """The most weights of one layer that `mode=literal` may write into the code."""

    target: str | None = None
    """The target to schedule for, where ops have no schedule yet (see choose-schedule)."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise KaokenError(f"bake has no mode {self.mode!r}: choose one of {', '.join(MODES)}")

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        work = Workspace(op)
        blocks = [b for f in op.ops if isinstance(f, FuncOp) for b in f.body.blocks]
        _simplify(ctx, op)
        for block in blocks:
            _fold_scales(block)
            fold_constants(block, work)
            merge_equal_weights(block)
        dce(op)
        for block in blocks:
            only_asked = self.mode != "literal"
            make_literal(block, work.__getitem__, self.literal_limit, only_asked)
        if self.mode == "pack" and any(
            isinstance(o, LinearOp) and o.schedule is None for o in op.walk()
        ):
            ChooseSchedulePass(self.target).apply(ctx, op)
        packer = PanelPacker(work)
        for block in blocks:
            packer.layers(block)
        for block in blocks:
            packer.look_ups(block)
        dce(op)
        work.commit()


def _simplify(ctx: Context, module: ModuleOp) -> None:
    """Scales behind linears and known look-ups; then what that leaves is canonicalized."""
    rules: list[RewritePattern] = [
        Rule(fold_factor_after_linear, ElementwiseOp),
        Rule(lift_movement_of_ids, EmbeddingOp),
    ]
    if PatternRewriteWalker(GreedyRewritePatternApplier(rules)).rewrite_module(module):
        canonicalize = GreedyRewritePatternApplier([CanonicalizationRewritePattern()])
        PatternRewriteWalker(canonicalize).rewrite_module(module)


def _fold_scales(block: Block) -> None:
    for op in list(block.ops):
        if isinstance(op, AttentionOp):
            fold_attention_scale(op)
