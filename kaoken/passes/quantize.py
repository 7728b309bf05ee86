"""`quantize`: narrow the products of linear layers to bf16 or to eight bits.

    %y = kaoken.linear %x, %w bias %b : tensor<?x384xf32>, tensor<1536x384xf32> -> ...
->  (dtype=int8)
    %ws = kaoken.row_scale %w : tensor<1536x384xf32> -> tensor<1536xf32>
    %wq = kaoken.quantize %w scale %ws : ... -> tensor<1536x384xi8>
    %xs = kaoken.row_scale %x : tensor<?x384xf32> -> tensor<?xf32>
    %xq = kaoken.quantize %x scale %xs {zero_point = 128} : ... -> tensor<?x384xui8>
    %y = kaoken.linear %xq, %wq bias %b input_scale %xs weight_scale %ws : ...
->  (activations=static: c is a step of the whole tensor, as `calibrate` saw it)
    %xq = kaoken.quantize %x factor %f {zero_point = 128} : ...            # %f = 1/c
    %y = kaoken.linear %xq, %wq bias %b weight_scale (%ws * c) : ...

->  (a target without an instruction for products of ui8 and i8, such as AVX2 and AVX-512 alone)
    %ws = kaoken.row_scale %w {bits = 7} : ...                             # codes of -63 .. 63
    %wq = kaoken.quantize %w scale %ws {bits = 7} : ... -> tensor<1536x384xi8>
    %y = kaoken.linear %xq, %wq ... {weight_bits = 7} : ...

Weights have one scale a column, activations one a token, taken while the program runs; each
activation is quantised once for all the layers that read it. What is said of weights alone `bake`
folds. Sums, epilogues and everything between linear layers stay f32 (i32 for the products of
eight bits). Attention's products take bf16 factors with either dtype. Layers whose weights are not
known, or whose inputs do not fill 32-bit lanes, stay as they are. With dtype=f32 nothing changes.
Where the target has no quick products of bf16, only weights become bf16: they take half the bytes,
and are multiplied as floats, which each of them is:

    %w2 = kaoken.cast %w : tensor<1536x384xf32> -> tensor<1536x384xbf16>
    %y = kaoken.linear %x, %w2 bias %b : tensor<?x384xf32>, tensor<1536x384xbf16> -> ...

With dtype=auto weights stay as they come: those that are `kaoken.dequantize` of codes are
multiplied as codes, all others as floats. int6 to int1 and ternary round those others too, a
scale for each group of inputs, and embeddings and the layer of logits to eight bits
(`quantizing/few_bits.py`); codes stay what they are, and `kaoken.notes` says so:

    %xq = kaoken.quantize_blocks %x {block = 32} : tensor<?x384xf32> -> tensor<?x12x10xi32>
    %y = kaoken.linear %xq, %codes bias %b weight_scale %ws
           {format = #kaoken.format<4 bits, group 32, offset 8>} : ...

With `policy` a file says of single weights what they become instead (`quantizing/policy.py`). With
dtype=mixed, as many lines as there are other weights are chosen within a `budget`
(`quantizing/widths.py`), and kept:

    builtin.module attributes {kaoken.policy = ["layers.0.mlp.down_proj.weight int5", ...]}

A table that is such a layer's weight too gives rows of the narrow numbers (`quantizing/tied.py`).

A layer whose result bf16 layers alone read rounds it itself:

    %y = kaoken.linear %x, %w {activation = gelu} : ... -> tensor<?x3072xf32>
    %z = kaoken.cast %y : tensor<?x3072xf32> -> tensor<?x3072xbf16>
->
    %z = kaoken.linear %x, %w {activation = gelu} : ... -> tensor<?x3072xbf16>

So does attention with bf16 factors. So do layers of bf16 or eight bits whose results are nothing
but queries, keys and values of such an attention, itself or through slices.

Layers whose inputs the model itself rounds (`kaoken.fake_quantize`: it was trained so) and whose
weights are of few bits are products of codes with every dtype but f32.

What `calibrate` and `migrate-scales` left is used up: the zero point of `kaoken.observe`, a product
with one number a channel (as `factor`), and the means, by which the rounding of the weights changes
the layer's sums on average, which its bias takes back (Nagel et al., "Data-Free Quantization
Through Weight Equalization and Bias Correction", 2019, section 4.2).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import inf

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, BoolAttr, ModuleOp, StringAttr, UnitAttr, bf16, f32
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter
from xdsl.traits import SymbolTable
from xdsl.transforms.dead_code_elimination import dce

from kaoken.analysis.constants import is_constant
from kaoken.analysis.value_shapes import shape_of
from kaoken.backend.machine import TargetMachine
from kaoken.calibration import Samples, read_samples
from kaoken.choices import ACTIVATIONS, DTYPES, FEW_BITS, MIXED
from kaoken.dialect.attributes import Function, FunctionAttr, Norm, ShapeAttr, int_attr
from kaoken.dialect.base import KaokenOp, shaped, tensor_type
from kaoken.dialect.canonicalization.rules import linear_like, number_attr, reshape_to, sole_owner
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import (
    BYTE_BITS,
    MIDDLE,
    NARROW,
    AttentionOp,
    EmbeddingOp,
    LinearOp,
    MatmulOp,
    WeightOp,
)
from kaoken.dialect.quant import (
    FakeQuantizeOp,
    ObserveOp,
    QuantizeOp,
    RowScaleOp,
    steps_above,
    steps_below,
)
from kaoken.dialect.tensor import CastOp, ElementwiseOp, FullOp, SliceOp
from kaoken.errors import KaokenError
from kaoken.modules import add_notes
from kaoken.passes.baking.folding import source_key, source_keys
from kaoken.passes.baking.scales import fold_attention_scale
from kaoken.passes.baking.workspace import Workspace
from kaoken.passes.lowering.cached_attention import reads_caches
from kaoken.passes.quantizing.few_bits import FewBits, stored_weights
from kaoken.passes.quantizing.moments import input_moments
from kaoken.passes.quantizing.policy import Choice, Policy, parse_policy, read_policy
from kaoken.passes.quantizing.tied import narrow_tied_tables, steps_of_rows
from kaoken.passes.quantizing.widths import Budget, choose_widths, summary

_GROUP = {"bf16": 2, "int8": 4}
_SHORT_BITS = 7
"""Of weights so short, two products with ui8 add up in 16 bits."""
_POLICY = "kaoken.policy"
"""Module attribute: the lines that dtype=mixed chose."""
_MIXED_DEFAULT = "int4"
"""What dtype=mixed takes as many bytes as, unless told otherwise."""


@dataclass(frozen=True)
class QuantizePass(ModulePass):
    """Narrow the inputs and weights of linear layers."""

    name = "quantize"

    dtype: str = "int8"
    """`f32`, `bf16`, `int8`, one of few bits, or `auto`: weights stay as they come."""

    group: int = 32
    """Few bits: how many weights along K share a scale; 0 for a whole row."""

    activations: str = "dynamic"
    """int8: scales of activations a token and taken at run time, or `static`, where calibrated."""

    policy: str | None = None
    """A file that says what single weights become instead (`quantizing/policy.py`)."""

    inputs: str | None = None
    """Few bits: a .npz file of sample inputs, for which layers are rounded (`error_feedback`)."""

    target: str | None = None
    """What runs the model, if it is known: without quick products of bf16 there are none, without
    those of ui8 and i8 weights have seven bits."""

    budget: str | None = None
    """mixed: bits a weight, `60MB` of weights or `60MB/token`; by default the bytes of int4."""

    @property
    def _multiplies_bf16(self) -> bool:
        return self.target is None or TargetMachine.parse(self.target).has_quick_bf16

    @property
    def _weight_bits(self) -> int:
        """Of int8: seven where the target adds up products of so few more quickly."""
        is_quick = self.target is None or TargetMachine.parse(self.target).has_quick_bytes
        return BYTE_BITS if is_quick else _SHORT_BITS

    def __post_init__(self) -> None:
        if self.activations not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise KaokenError(
                f"quantize has no activations {self.activations!r}: choose one of {known}"
            )
        if self.dtype not in DTYPES:
            known = ", ".join(DTYPES)
            raise KaokenError(f"quantize has no dtype {self.dtype!r}: choose one of {known}")
        Budget.parse(self.budget)

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if self.inputs is None:
            self.quantize(op)
            return
        main = SymbolTable.lookup_symbol(op, "main")
        if not isinstance(main, FuncOp):
            raise KaokenError(f"{self.inputs} are inputs of @main, but the module has none")
        self.quantize(op, read_samples(self.inputs, main))

    def quantize(self, op: ModuleOp, samples: Samples | None = None) -> None:
        """`apply` with the samples that few bits are to suit."""
        work = Workspace(op)
        before = stored_weights(op)
        policy = self._read_policy(op)
        blocks = [b for f in op.ops if isinstance(f, FuncOp) for b in f.body.blocks]
        if not any(isinstance(o, LinearOp) and o.format is not None for o in op.walk()):
            policy.check([name for block in blocks for name in _names(block)])
        if not {choice.dtype for choice in policy.choices} <= {"auto", "f32"}:
            for block in blocks:
                _narrow_products_of_attention(block, self._multiplies_bf16)
        is_seen = samples is not None and any(choice.has_codes for choice in policy.choices)
        moments = input_moments(op, blocks, samples) if is_seen and samples else {}
        if self.dtype == MIXED and _POLICY not in op.attributes:
            budget = Budget.parse(self.budget)
            policy = choose_widths(op, blocks, work, policy, moments, samples, budget)
            op.attributes[_POLICY] = ArrayAttr([StringAttr(str(rule)) for rule in policy.rules])
            add_notes(op, summary(policy))
        for choice in policy.choices:
            self._narrow_chosen(op, blocks, work, choice, policy, moments)
        for block in blocks:
            _round_before_attention(block)
            for observe in [o for o in block.ops if isinstance(o, ObserveOp)]:
                Rewriter.replace_op(observe, [], [observe.input])
        if before:
            dce(op)
        work.commit()
        _note(op, before, self.dtype)

    def _read_policy(self, module: ModuleOp) -> Policy:
        """What a file says, or the module, where widths are chosen already."""
        if self.dtype != MIXED:
            return read_policy(self.policy, Choice(self.dtype, self.group))
        default = Choice(_MIXED_DEFAULT, self.group)
        if (lines := chosen_policy(module)) is not None:
            return parse_policy(lines, "the module's policy", default)
        return read_policy(self.policy, default)

    def _narrow_chosen(
        self,
        module: ModuleOp,
        blocks: list[Block],
        work: Workspace,
        choice: Choice,
        policy: Policy,
        moments: dict[SSAValue, np.ndarray],
    ) -> None:
        """Narrow the layers for which one choice of the policy holds."""
        if choice.dtype == "f32":
            return

        def chosen(block: Block) -> list[LinearOp]:
            layers = narrow_layers(block, choice.dtype)
            return [op for op in layers if policy.of(source_keys(op.weight)) == choice]

        if choice.dtype in _GROUP:
            layers = [layer for block in blocks for layer in chosen(block)]
            narrow_tied_tables(module, layers, choice.dtype, self._weight_bits)
        for block in blocks:
            FewBits(block, work, choice, policy, moments).apply()
            if choice.dtype in _GROUP:
                self._narrow_layers(choice.dtype, block, chosen(block), work)

    def _narrow_layers(
        self, dtype: str, block: Block, layers: list[LinearOp], work: Workspace
    ) -> None:
        """Layers of a block, and those of them that round their own results."""
        narrowed: dict[SSAValue, _Input] = {}
        for layer in layers:
            if (x := layer.input) not in narrowed:
                narrowed[x] = self._narrow_input(dtype, x, layer, work)
            _narrow(dtype, self._weight_bits, layer, narrowed[x])
        if dtype == "bf16":
            _round_at_once(block)

    def _narrow_input(self, dtype: str, x: SSAValue, first: LinearOp, work: Workspace) -> _Input:
        """The narrow input, before the first layer that reads it."""
        if dtype == "bf16":
            seen = _seen(x)
            return _Input(_insert(first, CastOp.to(seen, bf16)) if self._multiplies_bf16 else seen)
        observe = x.owner if isinstance(x.owner, ObserveOp) else None
        value, factor = _without_factor(_seen(x))
        z = MIDDLE if observe is None else observe.zero_point.value.data
        zero_point = {"zero_point": int_attr(z)}
        if self.activations == "static" and observe is not None:
            step = _static_step(work.value(observe.range), z)
            factor = _static_factor(first, first.k, factor, step, work)
            quantized = _insert(first, QuantizeOp.make([value, None, factor], zero_point))
            return _Input(quantized, None, step, z, observe)
        scale = _insert(first, RowScaleOp.make([value, factor], zero_point))
        quantized = _insert(first, QuantizeOp.make([value, scale, factor], zero_point))
        return _Input(quantized, scale, 1.0, z, observe)


def chosen_policy(module: ModuleOp) -> list[str] | None:
    """The lines of the policy that dtype=mixed chose for a module; None where it did not."""
    lines = module.attributes.get(_POLICY)
    if not isinstance(lines, ArrayAttr):
        return None
    return [line.data for line in lines if isinstance(line, StringAttr)]


def _narrow(dtype: str, bits: int, op: LinearOp, x: _Input) -> None:
    """A layer with its input narrowed, and now its weight, to so many bits where it is int8."""
    if dtype == "bf16":
        operands = {"input": x.value, "weight": _insert(op, CastOp.to(op.weight, bf16))}
        Rewriter.replace_op(op, linear_like(op, op.result.type, operands))
        return
    scale, weight = (_insert(op, new) for new in steps_of_rows(op.weight, bits))
    bias = _corrected_bias(op, weight, scale, x.observe)
    if x.step != 1.0:
        scale = _multiply(op, scale, _full(op, x.step))
    operands = {
        "input": x.value,
        "weight": weight,
        "bias": bias,
        "input_scale": x.scale,
        "weight_scale": scale,
    }
    properties = {"input_zero_point": int_attr(x.zero_point), "weight_bits": int_attr(bits)}
    Rewriter.replace_op(op, linear_like(op, op.result.type, operands, properties))


def _names(block: Block) -> list[str]:
    """What the weights of the layers of a block, and the tables, are called."""
    layers = [op.weight for op in block.ops if isinstance(op, LinearOp)]
    tables = [op.table for op in block.ops if isinstance(op, EmbeddingOp)]
    return [name for value in (*layers, *tables) for name in source_keys(value)]


def _note(module: ModuleOp, before: dict[str, str], dtype: str) -> None:
    """Say which weights of few bits stay so, and which do not."""
    if not before:
        return
    kept = {key: text for key, text in before.items() if key not in stored_weights(module)}
    lost = {key: text for key, text in before.items() if key not in kept}
    why = f": {dtype} is for weights that come as floats" if dtype in (*FEW_BITS, MIXED) else ""
    notes = [
        f"{n} weights stay codes of {text}{why}" for text, n in Counter(kept.values()).most_common()
    ]
    if lost:
        to = "f32" if dtype == "auto" else dtype
        names = ", ".join(list(lost)[:3]) + (", ..." if len(lost) > 3 else "")
        notes.append(f"{len(lost)} weights of few bits become {to}: {names}")
    add_notes(module, notes)


@dataclass(frozen=True)
class _Input:
    """A narrow input of layers: its scale a row, or the one step of all rows, and more."""

    value: SSAValue
    scale: SSAValue | None = None
    step: float = 1.0
    zero_point: int = MIDDLE
    observe: ObserveOp | None = None


def narrow_layers(block: Block, dtype: str) -> list[LinearOp]:
    """The linear layers of a block that can be narrowed to a dtype."""
    group = _GROUP[dtype]
    return [op for op in block.ops if isinstance(op, LinearOp) and _can_narrow(op, group)]


def _can_narrow(op: LinearOp, group: int) -> bool:
    if isinstance(op.input.owner, FakeQuantizeOp):
        return False
    is_f32 = tensor_type(op.input).element_type == tensor_type(op.weight).element_type == f32
    return is_f32 and not op.is_packed and op.k % group == 0 and is_constant(op.weight)


def _narrow_products_of_attention(block: Block, is_quick: bool) -> None:
    """In bf16 with either dtype, where that is quick; scales go into weights while these still are
    f32."""
    for op in list(block.ops):
        if not isinstance(op, AttentionOp):
            continue
        fold_attention_scale(op)
        head_size = tensor_type(op.query).get_shape()[-1] // op.heads
        if is_quick and head_size % 2 == 0 and not reads_caches(op):
            op.bf16_products = UnitAttr()


def _round_at_once(block: Block) -> None:
    """Layers and attention that round their results, where all that reads these is a cast."""
    for cast in [op for op in block.ops if isinstance(op, CastOp)]:
        attention = sole_owner(cast.input, AttentionOp)
        if attention is not None and attention.bf16_products is not None:
            if tensor_type(cast.result).element_type == bf16:
                Rewriter.replace_op(cast, [], [attention.result])
                Rewriter.replace_value_with_new_type(attention.result, cast.result.type)
            continue
        linear = sole_owner(cast.input, LinearOp)
        if linear is None or linear.norm.data is not Norm.NONE:
            continue
        types = [tensor_type(v).element_type for v in (linear.input, cast.result)]
        if types == [bf16, bf16]:
            Rewriter.replace_op(linear, rounded := linear_like(linear, cast.result.type))
            Rewriter.replace_op(cast, [], [rounded.result])


def _round_before_attention(block: Block) -> None:
    """Layers that round queries, keys and values themselves, where only products of bf16 read
    them: half as many bytes are written and read, and no bit of the products changes."""
    for attention in [op for op in block.ops if isinstance(op, AttentionOp)]:
        if attention.bf16_products is None:
            continue
        factors = (attention.query, attention.key, attention.value)
        slices = [x.owner for x in dict.fromkeys(factors) if isinstance(x.owner, SliceOp)]
        whole = [x for x in factors if not isinstance(x.owner, SliceOp)]
        read = dict.fromkeys([*whole, *(part.input for part in slices)])
        layers = [x.owner for x in read if isinstance(x.owner, LinearOp)]
        readers = {attention, *slices}
        if len(layers) == len(read) and all(_may_round(op, readers) for op in (*layers, *slices)):
            for layer in layers:
                type_ = shaped(shape_of(layer.result), bf16)
                Rewriter.replace_op(layer, linear_like(layer, type_))
            for part in slices:
                properties = {"dim": part.dim, "range": part.range, "step": part.step}
                Rewriter.replace_op(part, SliceOp.make([part.input], properties))


def _may_round(op: LinearOp | SliceOp, readers: set[Operation]) -> bool:
    """Whether only these ops read a narrow layer, or a part of one."""
    if any(use.operation not in readers for use in op.result.uses):
        return False
    if isinstance(op, SliceOp):
        return True
    is_narrow = tensor_type(op.input).element_type in NARROW and op.format is None
    return is_narrow and op.norm.data is Norm.NONE


def _seen(x: SSAValue) -> SSAValue:
    return x.owner.input if isinstance(x.owner, ObserveOp) else x


def _without_factor(value: SSAValue) -> tuple[SSAValue, SSAValue | None]:
    """A value, or what is multiplied by one known number a channel, and these numbers."""
    op = value.owner
    if not isinstance(op, ElementwiseOp) or op.function.data is not Function.MUL:
        return value, None
    x, factor = op.inputs
    channels = shape_of(value)[-1:]
    if shape_of(factor) == channels and shape_of(x) == shape_of(value) and is_constant(factor):
        return x, factor
    return value, None


# ---- static scales ----


def _static_step(range_: np.ndarray, zero_point: int) -> float:
    """What a step is worth, so that all that was seen fits: as row_scale, for the whole tensor."""
    least, largest = float(range_[0].min()), float(range_[1].max())
    step = max(largest / steps_above(zero_point), -least / steps_below(zero_point))
    return step if 0.0 < step < inf else 1.0


def _static_factor(
    before: LinearOp, width: int, factor: SSAValue | None, step: float, work: Workspace
) -> SSAValue:
    array = np.ones(width, np.float32) if factor is None else work.value(factor)
    key = work.add(f"{source_key(before.weight)}.input_factor", (array / np.float32(step)))
    return _insert(before, WeightOp(key, shaped((Dim.of(width),), f32)))


# ---- bias correction ----


def _corrected_bias(
    op: LinearOp, weight: SSAValue, scale: SSAValue, observe: ObserveOp | None
) -> SSAValue | None:
    """The bias plus what rounding the weights takes from the layer's mean sums."""
    if op.bias is None or observe is None or tensor_type(observe.range).get_shape()[0] < 3:
        return op.bias
    n = Dim.of(op.n)
    rows = {"dim": int_attr(0), "range": ShapeAttr((Dim.of(2), Dim.of(3)))}
    means = _insert(op, SliceOp.make([observe.range], rows))
    column = _insert(op, reshape_to(scale, (n, Dim.of(1))))
    rounded = _multiply(op, _insert(op, CastOp.to(weight, f32)), column)
    lost = _apply(op, Function.SUB, op.weight, rounded)
    sums = _insert(op, MatmulOp.make([means, lost], {"transpose_rhs": BoolAttr.from_bool(True)}))
    return _apply(op, Function.ADD, op.bias, _insert(op, reshape_to(sums, (n,))))


def _multiply(before: LinearOp, a: SSAValue, b: SSAValue) -> SSAValue:
    return _apply(before, Function.MUL, a, b)


def _apply(before: LinearOp, function: Function, a: SSAValue, b: SSAValue) -> SSAValue:
    properties = {"function": FunctionAttr(function)}
    return _insert(before, ElementwiseOp.make([[a, b]], properties))


def _full(before: LinearOp, value: float) -> SSAValue:
    properties = {"value": number_attr(value, f32), "shape": ShapeAttr(())}
    return _insert(before, FullOp.make([], properties))


def _insert(before: LinearOp, op: KaokenOp) -> SSAValue:
    Rewriter.insert_op(op, InsertPoint.before(before))
    return op.result
