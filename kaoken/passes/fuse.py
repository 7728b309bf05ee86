"""`fuse`: fewer, larger ops: linear layers take over what follows them, and join their siblings.

    %h = kaoken.linear %x, %w bias %b                        # 1. epilogues
    %g = kaoken.gelu %h
->
    %g = kaoken.linear %x, %w bias %b {activation = #kaoken.activation<gelu>}

    %h = kaoken.linear %x, %w bias %b
    %s = kaoken.elementwise add %h, %r
    %y = kaoken.layer_norm %s, %n {eps = 1.0e-12}
->
    %y = kaoken.linear %x, %w bias %b residual %r norm_weight %n {norm = layer_norm, eps = 1.0e-12}

    %q = kaoken.linear %x, %wq                               # 2. siblings
    %k = kaoken.linear %x, %wk
->
    %w = kaoken.concat %wq, %wk {dim = 0}                    # `bake` folds it
    %qk = kaoken.linear %x, %w
    %q = kaoken.slice %qk <[0, 384]> {dim = 2}
    %k = kaoken.slice %qk <[384, 768]> {dim = 2}

Sums with weights become biases, and products with numbers go into the weights. Linears that have
a schedule stay as they are: fuse comes before choose-schedule.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Block, Operation
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import GreedyRewritePatternApplier, PatternRewriteWalker, RewritePattern
from xdsl.rewriter import InsertPoint, Rewriter

from kaoken.analysis.constants import hoist_constants, is_constant
from kaoken.dialect.attributes import (
    Activation,
    ActivationAttr,
    Approximation,
    Function,
    Norm,
    NormAttr,
    ShapeAttr,
    int_attr,
)
from kaoken.dialect.base import KaokenOp, tensor_type
from kaoken.dialect.canonicalization.layers import absorb_bias, has_no_epilogue
from kaoken.dialect.canonicalization.rules import (
    Replacement,
    Rule,
    linear_like,
    number_attr,
    same_shape,
    sole_owner,
)
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import (
    ActivationOp,
    AttentionOp,
    GeluOp,
    LayerNormOp,
    LinearOp,
    ReluOp,
    RmsNormOp,
    SigmoidOp,
    SiluOp,
    TanhOp,
)
from kaoken.dialect.tensor import ConcatOp, ElementwiseOp, FullOp, SliceOp
from kaoken.passes.baking.scales import fold_factor_after_linear
from kaoken.passes.quantizing.few_bits import stored_format

_ACTIVATIONS: dict[type[Operation], Activation] = {
    ReluOp: Activation.RELU,
    SiluOp: Activation.SILU,
    TanhOp: Activation.TANH,
    SigmoidOp: Activation.SIGMOID,
}


@dataclass(frozen=True)
class FusePass(ModulePass):
    """Fuse activations, residuals, norms and sibling layers into linear layers."""

    name = "fuse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        rules: list[RewritePattern] = [
            Rule(fuse_activation, ActivationOp),
            Rule(fold_factor_after_linear, ElementwiseOp),
            Rule(absorb_bias, ElementwiseOp),
            Rule(fuse_residual, ElementwiseOp),
        ]
        PatternRewriteWalker(GreedyRewritePatternApplier(rules)).rewrite_module(op)
        for function in op.ops:
            if isinstance(function, FuncOp):
                for block in function.body.blocks:
                    fuse_norms(block)
                    join_siblings(block)


def _is_open(op: LinearOp) -> bool:
    """Whether a linear may still change: it has no schedule and is not packed."""
    return op.schedule is None and not op.is_packed


def fuse_activation(op: ActivationOp) -> Replacement:
    """An activation of a linear that nothing else reads."""
    linear = sole_owner(op.input, LinearOp)
    if isinstance(op, GeluOp):
        tanh = op.approximate.data is Approximation.TANH
        activation = Activation.GELU_TANH if tanh else Activation.GELU
    else:
        activation = _ACTIVATIONS.get(type(op))
    if linear is None or activation is None or not _is_open(linear) or not has_no_epilogue(linear):
        return None
    changed = {"activation": ActivationAttr(activation)}
    return [linear_like(linear, op.result.type, properties=changed)]


def fuse_residual(op: ElementwiseOp) -> Replacement:
    """The sum of a linear that nothing else reads and a tensor of its shape.

    The linear moves to the place of the sum, where the other operand is known. Where both
    operands are such linears, the later one takes the sum.
    """
    if op.function.data is not Function.ADD:
        return None
    choices = [
        (linear, other)
        for value, other in ((op.inputs[1], op.inputs[0]), (op.inputs[0], op.inputs[1]))
        if (linear := sole_owner(value, LinearOp)) is not None
        and _is_open(linear)
        and linear.residual is None
        and linear.norm.data is Norm.NONE
        and linear.parent is op.parent
        and same_shape(value, other)
        and same_shape(value, op.result)
    ]
    if not choices:
        return None
    if len(choices) == 2 and choices[0][0].is_before_in_block(choices[1][0]):
        choices.reverse()
    linear, residual = choices[0]
    return [linear_like(linear, op.result.type, {"residual": residual})]


def fuse_norms(block: Block) -> None:
    """Norms of linears that nothing else reads; a linear moves to its norm's place.

    In pre-norm models only the last layer's output goes into a norm alone. Taking that one over
    would make the last layer unlike the others, so layers of one kind fuse all or none.
    """
    linears = [op for op in block.ops if isinstance(op, LinearOp) and _is_open(op)]
    linears = [op for op in linears if op.norm.data is Norm.NONE]
    kinds = [(op.weight.type, op.residual is None, op.activation) for op in linears]
    norms = [_only_norm(op) for op in linears]
    mixed = {kind for kind, norm in zip(kinds, norms, strict=True) if norm is None}
    for linear, kind, norm in zip(linears, kinds, norms, strict=True):
        if norm is not None and kind not in mixed:
            _fuse_norm(linear, norm)


def _only_norm(linear: LinearOp) -> LayerNormOp | RmsNormOp | None:
    """The norm that alone reads a linear."""
    use = linear.result.get_unique_use()
    norm = use.operation if use is not None and use.index == 0 else None
    if not isinstance(norm, LayerNormOp | RmsNormOp) or norm.parent is not linear.parent:
        return None
    return norm


def _fuse_norm(linear: LinearOp, op: LayerNormOp | RmsNormOp) -> None:
    is_layer_norm = isinstance(op, LayerNormOp)
    operands = {"norm_weight": op.weight, "norm_bias": op.bias if is_layer_norm else None}
    norm = NormAttr(Norm.LAYER_NORM if is_layer_norm else Norm.RMS_NORM)
    properties: dict[str, Attribute | None] = {"norm": norm, "eps": op.eps}
    Rewriter.replace_op(op, linear_like(linear, op.result.type, operands, properties))
    Rewriter.erase_op(linear)


def join_siblings(block: Block) -> None:
    """Make one linear of those that read one input, and slices of its result."""
    if groups := _sibling_groups(block):
        hoist_constants(block)
    for group in groups:
        _join(group)


def _sibling_groups(block: Block) -> list[list[LinearOp]]:
    """Linears of one input with no other layer between them: query, key and value, say."""
    groups: list[list[LinearOp]] = []
    open_group: list[LinearOp] = []
    for op in block.ops:
        if not isinstance(op, LinearOp | AttentionOp):
            continue
        if not isinstance(op, LinearOp) or not _can_join(op):
            open_group = []
        elif open_group and _are_siblings(open_group[0], op):
            open_group.append(op)
        else:
            open_group = [op]
            groups.append(open_group)
    return [group for group in groups if len(group) > 1]


def _can_join(op: LinearOp) -> bool:
    is_plain = has_no_epilogue(op) and _is_open(op)
    return is_plain and is_constant(op.weight) and (op.bias is None or is_constant(op.bias))


def _are_siblings(a: LinearOp, b: LinearOp) -> bool:
    types = {(tensor_type(op.weight).element_type, stored_format(op.weight)) for op in (a, b)}
    return a.input is b.input and len(types) == 1


def _join(group: list[LinearOp]) -> None:
    first = group[0]
    concat = {"dim": int_attr(0)}
    weight = ConcatOp.make([[op.weight for op in group]], concat)
    new_ops: list[KaokenOp] = [weight]
    bias = None
    if any(op.bias is not None for op in group):
        biases = [op.bias or _zeros(op) for op in group]
        new_ops += [b for b in biases if isinstance(b, FullOp)]
        new_ops.append(bias := ConcatOp.make([biases], concat))
    linear = LinearOp.make([first.input, weight, bias, None, None, None])
    Rewriter.insert_op([*new_ops, linear], InsertPoint.before(first))
    start = 0
    dim = int_attr(len(tensor_type(linear.result).get_shape()) - 1)
    for op in group:
        bounds = ShapeAttr((Dim.of(start), Dim.of(start + op.n)))
        part = SliceOp.make([linear], {"dim": dim, "range": bounds})
        start += op.n
        Rewriter.replace_op(op, part)


def _zeros(op: LinearOp) -> FullOp:
    element_type = tensor_type(op.result).element_type
    value = number_attr(0, element_type)
    return FullOp.make([], {"value": value, "shape": ShapeAttr((Dim.of(op.n),))})
