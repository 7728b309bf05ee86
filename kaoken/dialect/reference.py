"""What every `kaoken` op means, in numpy: the specification, and the oracle that tests passes.

The rules that hold for all ops:

- A float op computes in float64 and rounds its result once to its element type. For sums, products,
  quotients and square roots of float32 this equals float32 arithmetic; reductions and
  transcendental functions are as exact as the element type allows.
- A fused linear layer rounds after each of its parts (product with bias, activation, residual,
  norm), so it equals the separate ops bit for bit. Weights of few bits are the exception: their
  products are float32 step by step (`kaoken.quantized`), which compiled code equals bit for bit.
  Attention rounds its scaled scores before it adds a float mask, to float32 at least.
- Integers are computed in their own type and wrap around.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from xdsl.dialects.arith import ConstantOp
from xdsl.dialects.builtin import FloatAttr, IntegerAttr, ModuleOp, TensorType, bf16
from xdsl.dialects.func import FuncOp
from xdsl.interpreter import (
    Interpreter,
    InterpreterFunctions,
    PythonValues,
    impl,
    impl_callable,
    register_impls,
)
from xdsl.interpreters.func import FuncFunctions
from xdsl.ir import Operation, SSAValue
from xdsl.traits import SymbolTable

from kaoken import quantized
from kaoken.analysis.shapes import argument_name, bind_symbols
from kaoken.dialect import decoder, nn, quant, tensor
from kaoken.dialect.attributes import Activation, Approximation, Function, Norm, Reduction, Shape
from kaoken.dialect.dims import DYNAMIC
from kaoken.dtypes import dense_array, numpy_dtype
from kaoken.errors import KaokenError
from kaoken.weights import store_of

Array = np.ndarray
Arrays = tuple[Array, ...]


def run_module(
    module: ModuleOp,
    inputs: Sequence[Array],
    function: str = "main",
    sizes: Mapping[str, int] | None = None,
    caches: dict[str, Array] | None = None,
    functions: KaokenFunctions | None = None,
) -> tuple[Array, ...]:
    """Run a function of a module on arrays.

    Sizes of symbols follow from the inputs, others are given by `sizes`; weights come from the
    module's store. `caches` holds the rows of each cache by name, and is changed; what it lacks
    begins as NaN. `functions` may be implementations of one's own. Raises KaokenError when inputs
    do not fit the function, or an index is out of range.
    """
    interpreter = Interpreter(module)
    interpreter.register_implementations(FuncFunctions())
    functions = functions or KaokenFunctions(sizes, caches)
    interpreter.register_implementations(functions, override=True)
    func = SymbolTable.lookup_symbol(module, function)
    if not isinstance(func, FuncOp):
        raise KaokenError(f"the module has no function @{function}")
    arrays = tuple(np.asarray(value) for value in inputs)
    _check_inputs(func, arrays)
    try:
        with np.errstate(all="ignore"):
            return tuple(interpreter.call_op(func, arrays))
    except Exception as error:
        raise _user_error(error) from None


def _user_error(error: BaseException) -> BaseException:
    """The KaokenError that xDSL wrapped into a diagnostic, or the error itself."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KaokenError):
        cause = cause.__cause__
    return cause or error


def _check_inputs(func: FuncOp, arrays: Arrays) -> None:
    types = func.function_type.inputs.data
    if len(arrays) != len(types):
        raise KaokenError(
            f"@{func.sym_name.data} takes {len(types)} inputs, but {len(arrays)} were given"
        )
    for i, (array, type_) in enumerate(zip(arrays, types, strict=True)):
        if not isinstance(type_, TensorType):
            continue
        if array.dtype != (wanted := numpy_dtype(type_.get_element_type())):
            name = argument_name(func, i)
            raise KaokenError(f"{name} holds {array.dtype.name}, but needs {wanted.name}")


@register_impls
class KaokenFunctions(InterpreterFunctions):
    """The implementations for xDSL's Interpreter; one object serves one run."""

    def __init__(
        self, sizes: Mapping[str, int] | None = None, caches: dict[str, Array] | None = None
    ) -> None:
        self._sizes: list[dict[str, int]] = [dict(sizes or {})]
        self._caches = {} if caches is None else caches

    @impl_callable(FuncOp)
    def call(self, interpreter: Interpreter, op: Operation, args: PythonValues) -> PythonValues:
        assert isinstance(op, FuncOp)
        bound = bind_symbols(op, [np.shape(value) for value in args])
        self._sizes.append({**self._sizes[-1], **bound})
        results = interpreter.run_ssacfg_region(op.body, args, op.sym_name.data)
        self._sizes.pop()
        return results

    def _shape(self, shape: Shape) -> tuple[int, ...]:
        try:
            return tuple(dim.evaluate(self._sizes[-1]) for dim in shape)
        except KeyError as error:
            raise KaokenError(f"no input tells the size {error.args[0]}") from None

    @impl(ConstantOp)
    def constant(self, interpreter: Interpreter, op: ConstantOp, args: Arrays) -> tuple[Any, ...]:
        value = op.value
        if isinstance(value, IntegerAttr | FloatAttr):
            return (value.value.data,)
        return (dense_array(value),)

    @impl(nn.WeightOp)
    def weight(self, interpreter: Interpreter, op: nn.WeightOp, args: Arrays) -> Arrays:
        key = op.key.data
        array = store_of(interpreter.module)[key]
        type_ = nn.tensor_type(op.result)
        if array.shape != type_.get_shape() or array.dtype != numpy_dtype(type_.element_type):
            raise KaokenError(
                f'weight "{key}" is {array.dtype.name} {list(array.shape)} in the store, '
                f"but the module says {type_}"
            )
        return (array,)

    @impl(nn.LinearOp)
    def linear(self, interpreter: Interpreter, op: nn.LinearOp, args: Arrays) -> Arrays:
        rest = list(args[2:])

        def optional(value: SSAValue | None) -> Array | None:
            return rest.pop(0) if value is not None else None

        bias, residual = optional(op.bias), optional(op.residual)
        norm_weight, norm_bias = optional(op.norm_weight), optional(op.norm_bias)
        input_scale, weight_scale = optional(op.input_scale), optional(op.weight_scale)
        if op.format is not None:
            assert weight_scale is not None
            numbers = (weight_scale, optional(op.weight_min), optional(op.weight_supers))
            y = _few_bits(op, args[0], args[1], numbers, bias)
            return self._epilogue(op, y, residual, norm_weight, norm_bias)
        weight = unpack_weight(args[1], op.n, op.k) if op.is_packed else args[1]
        if weight_scale is None:
            y = _wide(args[0]) @ _wide(weight).T
        else:
            steps = args[0].astype(np.int32) - op.input_zero_point.value.data
            y = (steps @ weight.astype(np.int32).T) * _wide(weight_scale)
            y = y if input_scale is None else y * _wide(input_scale)[..., None]
        y = _step(op, y if bias is None else y + _wide(bias))
        return self._epilogue(op, y, residual, norm_weight, norm_bias)

    def _epilogue(
        self,
        op: nn.LinearOp,
        y: Array,
        residual: Array | None,
        norm_weight: Array | None,
        norm_bias: Array | None,
    ) -> Arrays:
        """What a linear layer does after its product and bias."""
        if op.activation.data is not Activation.NONE:
            y = _step(op, _ACTIVATIONS[op.activation.data](_wide(y)))
        if residual is not None:
            y = _step(op, _wide(y) + _wide(residual))
        if op.norm.data is not Norm.NONE:
            assert norm_weight is not None
            assert op.eps is not None
            norm = layer_norm if op.norm.data is Norm.LAYER_NORM else rms_norm
            y = _result(op, norm(y, norm_weight, norm_bias, op.eps.value.data))
        return (_result(op, y),)

    @impl(quant.RowScaleOp)
    def row_scale(self, interpreter: Interpreter, op: quant.RowScaleOp, args: Arrays) -> Arrays:
        x = args[0] if op.factor is None else args[0] * args[1]
        zero_point = op.zero_point.value.data
        above, below = quant.steps_above(zero_point), quant.steps_below(zero_point)
        largest = np.maximum(x, x * np.float32(-above / below)).max(-1).astype(np.float32)
        return (np.maximum(largest * np.float32(1 / above), np.float32(quant.LEAST_SCALE)),)

    @impl(quant.ObserveOp)
    def observe(self, interpreter: Interpreter, op: quant.ObserveOp, args: Arrays) -> Arrays:
        return (args[0],)

    @impl(quant.QuantizeOp)
    def quantize(self, interpreter: Interpreter, op: quant.QuantizeOp, args: Arrays) -> Arrays:
        x, *rest = args
        if op.scale is None:
            by = rest[0]
        else:
            by = np.float32(1) / rest[0][..., None]
            x = x if op.factor is None else x * rest[1]
        steps = (_wide(x) * _wide(by) + op.zero_point.value.data).astype(np.float32)
        limits = np.iinfo(dtype := _result_dtype(op))
        return (np.clip(np.rint(steps), limits.min, limits.max).astype(dtype),)

    @impl(quant.DequantizeOp)
    def dequantize(self, interpreter: Interpreter, op: quant.DequantizeOp, args: Arrays) -> Arrays:
        codes, scale, *rest = args
        minimum = rest.pop(0) if op.min is not None else None
        supers = rest.pop(0) if op.supers is not None else None
        weight = quantized.Quantized(op.format.data, codes, scale, minimum, supers)
        return (_result(op, weight.dequantized()),)

    @impl(quant.QuantizeBlocksOp)
    def quantize_blocks(
        self, interpreter: Interpreter, op: quant.QuantizeBlocksOp, args: Arrays
    ) -> Arrays:
        eps = None if op.eps is None else op.eps.value.data
        block, rounding = op.block.value.data, op.rounding.data
        return (_result(op, quantized.quantize_blocks(args[0], block, rounding, eps)),)

    @impl(quant.FakeQuantizeOp)
    def fake_quantize(
        self, interpreter: Interpreter, op: quant.FakeQuantizeOp, args: Arrays
    ) -> Arrays:
        steps, scale = quantized.round_rows(args[0], op.rounding.data)
        return (steps * scale,)

    @impl(nn.MatmulOp)
    def matmul(self, interpreter: Interpreter, op: nn.MatmulOp, args: Arrays) -> Arrays:
        a, b = map(_wide, args)
        if op.transpose_rhs.value.data:
            b = np.swapaxes(b, -1, -2)
        return (_result(op, a @ b),)

    @impl(nn.AttentionOp)
    def attention(self, interpreter: Interpreter, op: nn.AttentionOp, args: Arrays) -> Arrays:
        rounded = _bf16 if op.bf16_products is not None else np.asarray
        query = rounded(_split_heads(args[0], op.heads))
        group = op.heads // op.kv_heads
        key, value = (rounded(np.repeat(_split_heads(x, op.kv_heads), group, 1)) for x in args[1:3])
        scores = query @ np.swapaxes(key, -1, -2) * op.scale.value.data
        narrow = scores.astype(np.promote_types(np.float32, _float_dtype(op)))
        if op.softcap is not None:
            cap = narrow.dtype.type(op.softcap.value.data)
            narrow = cap * np.tanh(narrow / cap)
        if op.mask is not None:
            narrow = _masked(narrow, args[3])
        if op.position_bias is not None and op.bias_origin is not None:
            narrow = narrow + _by_distance(args[-1], op.bias_origin.value.data, narrow.shape)
        if op.causal.value.data:
            window = op.window.value.data if op.window is not None else None
            narrow = np.where(_causal(narrow.shape, window), narrow, -np.inf)
        powers, total = _powers(narrow)
        mixed = rounded(powers) @ value / total
        rows = np.swapaxes(mixed, 1, 2)
        return (_result(op, rows.reshape(*rows.shape[:2], rows.shape[2] * rows.shape[3])),)

    @impl(decoder.CacheOp)
    def cache(self, interpreter: Interpreter, op: decoder.CacheOp, args: Arrays) -> Arrays:
        type_ = decoder.cache_type(op.result)
        empty = _empty_cache(type_)
        rows = self._caches.setdefault(op.key.data, empty)
        if rows.shape != empty.shape or rows.dtype != empty.dtype:
            raise KaokenError(
                f'cache "{op.key.data}" is {rows.dtype.name} {list(rows.shape)}, '
                f"but the module says {type_}"
            )
        return (rows,)

    @impl(decoder.CacheAppendOp)
    def cache_append(
        self, interpreter: Interpreter, op: decoder.CacheAppendOp, args: Arrays
    ) -> Arrays:
        new, rows = args
        (start,) = self._shape(op.start.data)
        if start < 0 or start + new.shape[1] > len(rows):
            raise KaokenError(f"the cache holds at most {len(rows)} rows")
        rows[start : start + new.shape[1]] = _to_cache(new[0], rows.dtype)
        return ()

    @impl(decoder.CacheReadOp)
    def cache_read(self, interpreter: Interpreter, op: decoder.CacheReadOp, args: Arrays) -> Arrays:
        (length,) = self._shape(op.length.data)
        if length > len(args[0]):
            raise KaokenError(f"the cache holds at most {len(args[0])} rows")
        return (_from_cache(args[0][:length])[None],)

    @impl(decoder.RopeOp)
    def rope(self, interpreter: Interpreter, op: decoder.RopeOp, args: Arrays) -> Arrays:
        x = _wide(args[0]).reshape(*args[0].shape[:2], op.heads, op.head_size)
        cos, sin = (_wide(table)[None, :, None, :] for table in args[1:])
        pairs = op.pairs
        if op.interleaved.value.data:
            first, second = np.s_[..., 0 : 2 * pairs : 2], np.s_[..., 1 : 2 * pairs : 2]
        else:
            first, second = np.s_[..., :pairs], np.s_[..., pairs : 2 * pairs]
        y = x.copy()
        y[first] = x[first] * cos - x[second] * sin
        y[second] = x[second] * cos + x[first] * sin
        return (_result(op, y.reshape(args[0].shape)),)

    @impl(nn.LayerNormOp)
    def layer_norm(self, interpreter: Interpreter, op: nn.LayerNormOp, args: Arrays) -> Arrays:
        bias = args[2] if op.bias is not None else None
        return (_result(op, layer_norm(args[0], args[1], bias, op.eps.value.data)),)

    @impl(nn.RmsNormOp)
    def rms_norm(self, interpreter: Interpreter, op: nn.RmsNormOp, args: Arrays) -> Arrays:
        return (_result(op, rms_norm(args[0], args[1], None, op.eps.value.data)),)

    @impl(nn.GeluOp)
    def gelu(self, interpreter: Interpreter, op: nn.GeluOp, args: Arrays) -> Arrays:
        tanh = op.approximate.data is Approximation.TANH
        return (_result(op, (gelu_tanh if tanh else gelu)(_wide(args[0]))),)

    @impl(nn.ReluOp)
    def relu(self, interpreter: Interpreter, op: nn.ReluOp, args: Arrays) -> Arrays:
        return (_result(op, relu(_wide(args[0]))),)

    @impl(nn.SiluOp)
    def silu(self, interpreter: Interpreter, op: nn.SiluOp, args: Arrays) -> Arrays:
        return (_result(op, silu(_wide(args[0]))),)

    @impl(nn.TanhOp)
    def tanh(self, interpreter: Interpreter, op: nn.TanhOp, args: Arrays) -> Arrays:
        return (_result(op, np.tanh(_wide(args[0]))),)

    @impl(nn.SigmoidOp)
    def sigmoid(self, interpreter: Interpreter, op: nn.SigmoidOp, args: Arrays) -> Arrays:
        return (_result(op, sigmoid(_wide(args[0]))),)

    @impl(nn.SoftmaxOp)
    def softmax(self, interpreter: Interpreter, op: nn.SoftmaxOp, args: Arrays) -> Arrays:
        x = _wide(args[0])
        powers = np.exp(x - x.max(-1, keepdims=True))
        return (_result(op, powers / powers.sum(-1, keepdims=True)),)

    @impl(nn.EmbeddingOp)
    def embedding(self, interpreter: Interpreter, op: nn.EmbeddingOp, args: Arrays) -> Arrays:
        table, indices = args
        _check_indices(op.indices, indices, op.table_shape[0])
        if op.format is not None:
            table = quantized.unpack_codes(table, op.format.data, *op.table_shape)
        elif op.is_packed:
            table = unpack_weight(table, *op.table_shape)
        return (table[indices],)

    @impl(nn.MeanPoolOp)
    def mean_pool(self, interpreter: Interpreter, op: nn.MeanPoolOp, args: Arrays) -> Arrays:
        kept = (args[1] != 0)[..., None]
        total = np.where(kept, _wide(args[0]), 0).sum(1)
        return (_result(op, total / np.maximum(kept.sum(1), 1)),)

    @impl(nn.NormalizeOp)
    def normalize(self, interpreter: Interpreter, op: nn.NormalizeOp, args: Arrays) -> Arrays:
        x = _wide(args[0])
        length = np.sqrt((x * x).sum(-1, keepdims=True))
        return (_result(op, x / np.maximum(length, op.eps.value.data)),)

    @impl(tensor.FullOp)
    def full(self, interpreter: Interpreter, op: tensor.FullOp, args: Arrays) -> Arrays:
        return (_result(op, np.full(self._shape(op.shape.data), op.value.value.data)),)

    @impl(tensor.IotaOp)
    def iota(self, interpreter: Interpreter, op: tensor.IotaOp, args: Arrays) -> Arrays:
        (size,) = self._shape(op.shape.data)
        return (_result(op, np.arange(size) + op.start.value.data),)

    @impl(tensor.ReshapeOp)
    def reshape(self, interpreter: Interpreter, op: tensor.ReshapeOp, args: Arrays) -> Arrays:
        return (_result(op, args[0].reshape(self._shape(op.shape.data))),)

    @impl(tensor.TransposeOp)
    def transpose(self, interpreter: Interpreter, op: tensor.TransposeOp, args: Arrays) -> Arrays:
        return (_result(op, args[0].transpose(op.permutation.get_values())),)

    @impl(tensor.SliceOp)
    def slice(self, interpreter: Interpreter, op: tensor.SliceOp, args: Arrays) -> Arrays:
        start, stop = self._shape(op.range.data)
        dim = op.dim.value.data
        if not 0 <= start <= stop <= args[0].shape[dim]:
            raise KaokenError(f"slice {start}..{stop} is outside a size of {args[0].shape[dim]}")
        part = np.s_[start : stop : op.step.value.data]
        return (_result(op, args[0][(np.s_[:],) * dim + (part,)]),)

    @impl(tensor.ConcatOp)
    def concat(self, interpreter: Interpreter, op: tensor.ConcatOp, args: Arrays) -> Arrays:
        return (_result(op, np.concatenate(args, op.dim.value.data)),)

    @impl(tensor.BroadcastOp)
    def broadcast(self, interpreter: Interpreter, op: tensor.BroadcastOp, args: Arrays) -> Arrays:
        return (_result(op, np.broadcast_to(args[0], self._shape(op.shape.data))),)

    @impl(tensor.GatherOp)
    def gather(self, interpreter: Interpreter, op: tensor.GatherOp, args: Arrays) -> Arrays:
        source, *indices = args
        dims = op.dims.get_values()
        for value, index, dim in zip(op.indices, indices, dims, strict=True):
            _check_indices(value, index, source.shape[dim])
        return (_result(op, source[(np.s_[:],) * dims[0] + tuple(indices)]),)

    @impl(tensor.CastOp)
    def cast(self, interpreter: Interpreter, op: tensor.CastOp, args: Arrays) -> Arrays:
        dtype = numpy_dtype(nn.tensor_type(op.result).element_type)
        return (args[0] != 0 if dtype == np.bool_ else args[0].astype(dtype),)

    @impl(tensor.ElementwiseOp)
    def elementwise(
        self, interpreter: Interpreter, op: tensor.ElementwiseOp, args: Arrays
    ) -> Arrays:
        return (_result(op, _FUNCTIONS[op.function.data](*map(_wide, args))),)

    @impl(tensor.ReduceOp)
    def reduce(self, interpreter: Interpreter, op: tensor.ReduceOp, args: Arrays) -> Arrays:
        axes = tuple(op.dims.get_values())
        function = _REDUCTIONS[op.reduction.data]
        kept = bool(op.keepdim.value.data)
        return (_result(op, function(_wide(args[0]), axis=axes, keepdims=kept)),)

    @impl(tensor.CumsumOp)
    def cumsum(self, interpreter: Interpreter, op: tensor.CumsumOp, args: Arrays) -> Arrays:
        return (_result(op, np.cumsum(_wide(args[0]), op.dim.value.data)),)


def erf(x: Array) -> Array:
    """The error function of float64, exact to the last bit or two."""
    return _each(math.erf, x)


def _each(function: Callable[[float], float], x: Array) -> Array:
    flat = np.fromiter(map(function, x.ravel().tolist()), np.float64, x.size)
    return flat.reshape(x.shape)


def relu(x: Array) -> Array:
    """max(x, 0), NaN staying NaN."""
    return np.maximum(x, 0)


def gelu(x: Array) -> Array:
    """x * Phi(x); erfc keeps the digits that 1 + erf loses for negative x."""
    return x * 0.5 * _each(math.erfc, x * -math.sqrt(0.5))


def gelu_tanh(x: Array) -> Array:
    """GELU's tanh approximation."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    """x * sigmoid(x)."""
    return x * sigmoid(x)


def layer_norm(x: Array, weight: Array, bias: Array | None, eps: float) -> Array:
    """Layer normalisation of the last dimension, in float64."""
    x = _wide(x)
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    y = centred / np.sqrt(variance + eps) * _wide(weight)
    return y if bias is None else y + _wide(bias)


def rms_norm(x: Array, weight: Array, bias: Array | None, eps: float) -> Array:
    """Root-mean-square normalisation of the last dimension, in float64."""
    x = _wide(x)
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * _wide(weight)
    return y if bias is None else y + _wide(bias)


def unpack_weight(panels: Array, n: int, k: int) -> Array:
    """Panels of any element type (see kaoken.linear) back to the weight [n, k]."""
    if panels.ndim == 3:
        panels = panels[..., None]
    if panels.dtype == np.int8:
        panels = panels[:, 1:]
    count, _, width, _ = panels.shape
    return panels.transpose(0, 2, 1, 3).reshape(count * width, -1)[:n, :k]


def _few_bits(
    op: nn.LinearOp,
    blocks: Array,
    codes: Array,
    numbers: tuple[Array, Array | None, Array | None],
    bias: Array | None,
) -> Array:
    """The product of a weight of few bits, with the bias that its sums start at; `numbers` are its
    scales, minima and what both are worth."""
    assert op.format is not None
    format_ = op.format.data
    if op.is_packed:
        codes = quantized.unpack_codes(codes, format_, op.n, op.k)
    scale, minimum, supers = (
        None if a is None else quantized.unpack_groups(a, op.n) if op.is_packed else a
        for a in numbers
    )
    assert scale is not None
    scale, minimum = quantized.group_numbers(scale, minimum, supers, format_)
    return _result(op, quantized.multiply(blocks, codes, scale, minimum, format_, bias))


def _result_dtype(op: Operation) -> np.dtype:
    return numpy_dtype(nn.tensor_type(op.results[0]).element_type)


def _wide(x: Array) -> Array:
    """Floats (bf16 too, whose numpy kind is V) as float64, anything else as it is."""
    return x.astype(np.float64) if x.dtype.kind in "fV" else x


def _step(op: nn.LinearOp, value: Array) -> Array:
    """What comes before a linear layer's result: in its type, or f32 where that is rounded."""
    return value.astype(np.float32) if op.is_rounded else _result(op, value)


def _result(op: Operation, value: Array) -> Array:
    """The value in the element type of the op's result; its sizes must be those of the type."""
    type_ = nn.tensor_type(op.results[0])
    sizes = type_.get_shape()
    if len(sizes) != value.ndim or any(
        n not in (size, DYNAMIC) for n, size in zip(sizes, value.shape, strict=True)
    ):
        raise KaokenError(f"{op.name} gives sizes {list(value.shape)}, but its type is {type_}")
    return value.astype(numpy_dtype(type_.element_type), copy=False)


def _float_dtype(op: Operation) -> np.dtype:
    dtype = numpy_dtype(nn.tensor_type(op.results[0]).element_type)
    return np.dtype(np.float32) if dtype.kind == "V" else dtype


def _split_heads(x: Array, heads: int) -> Array:
    """[B, S, heads * D] to [B, heads, S, D], in float64."""
    rows = _wide(x).reshape(*x.shape[:2], heads, x.shape[2] // heads)
    return np.swapaxes(rows, 1, 2)


def _masked(scores: Array, mask: Array) -> Array:
    if mask.dtype == np.bool_:
        return np.where(mask, scores, -np.inf).astype(scores.dtype)
    return scores + mask.astype(scores.dtype)


def _causal(scores: Sequence[int], window: int | None) -> Array:
    """Which keys [keys] each query [queries, 1] sees, for scores [..., queries, keys]."""
    queries, keys = scores[-2:]
    last = np.arange(queries)[:, None] + keys - queries
    seen = np.arange(keys) <= last
    return seen if window is None else seen & (np.arange(keys) > last - window)


def _by_distance(bias: Array, origin: int, scores: Sequence[int]) -> Array:
    """The bias of each query and key [heads, queries, keys]; 0 where the table has no column."""
    queries, keys = scores[-2:]
    column = origin + np.arange(keys) - (np.arange(queries)[:, None] + keys - queries)
    known = (column >= 0) & (column < bias.shape[1])
    return np.where(known, bias[:, np.where(known, column, 0)], np.float32(0))


def _powers(scores: Array) -> tuple[Array, Array]:
    """exp(score - max) of the last dimension and their sums, in float64.

    A row of -inf alone has powers of 0 and the sum 1.
    """
    scores = scores.astype(np.float64)
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    powers = np.exp(scores - np.where(np.isneginf(top), 0, top))
    total = powers.sum(-1, keepdims=True)
    return powers, np.where(total == 0, 1, total)


def _empty_cache(type_: decoder.CacheType) -> Array:
    """Rows that hold nothing yet; those of i8 are numbers with a scale for each head."""
    if not type_.has_scales:
        shape = (type_.capacity.data, type_.width)
        return np.full(shape, np.nan, numpy_dtype(type_.element_type))
    heads = type_.heads.data
    row = [("numbers", np.int8, (heads, type_.head_size.data)), ("scales", np.float32, (heads,))]
    empty = np.zeros(type_.capacity.data, np.dtype(row))
    empty["scales"] = np.nan
    return empty


def _to_cache(rows: Array, dtype: np.dtype) -> Array:
    """Rows [S, heads * head_size] of f32 as a cache keeps them."""
    if dtype.names is None:
        return rows.astype(dtype)
    kept = np.empty(len(rows), dtype)
    by_head = rows.reshape(kept["numbers"].shape)
    largest = np.abs(by_head).max(-1, keepdims=True)
    scales = np.maximum(largest * np.float32(1 / quant.LIMIT), np.float32(quant.LEAST_SCALE))
    kept["numbers"] = np.clip(np.rint(by_head * (np.float32(1) / scales)), -128, quant.LIMIT)
    kept["scales"] = scales[..., 0]
    return kept


def _from_cache(kept: Array) -> Array:
    """Rows of a cache as [S, heads * head_size] of f32."""
    if kept.dtype.names is None:
        return kept.astype(np.float32)
    rows = kept["numbers"].astype(np.float32) * kept["scales"][..., None]
    return rows.reshape(len(kept), -1)


def _bf16(x: Array) -> Array:
    """Rounded to bf16, halves to even."""
    return x.astype(np.float32).astype(numpy_dtype(bf16)).astype(np.float64)


def _check_indices(value: SSAValue, indices: Array, size: int) -> None:
    wrong = indices[(indices < 0) | (indices >= size)]
    if wrong.size:
        name = value.name_hint or "an index"
        raise KaokenError(f"{name} holds {wrong.flat[0]}, which is outside 0..{size - 1}")


def _divide(a: Array, b: Array) -> Array:
    """Quotient; of integers, rounded toward zero as in C."""
    if a.dtype.kind == "f":
        return a / b
    return np.where((a < 0) ^ (b < 0), -(np.abs(a) // np.abs(b)), np.abs(a) // np.abs(b))


_ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    Activation.RELU: relu,
    Activation.GELU: gelu,
    Activation.GELU_TANH: gelu_tanh,
    Activation.SILU: silu,
    Activation.TANH: np.tanh,
    Activation.SIGMOID: sigmoid,
}

_FUNCTIONS: dict[Function, Callable[..., Array]] = {
    Function.ADD: np.add,
    Function.SUB: np.subtract,
    Function.MUL: np.multiply,
    Function.DIV: _divide,
    Function.POW: np.power,
    Function.MAXIMUM: np.maximum,
    Function.MINIMUM: np.minimum,
    Function.REMAINDER: np.remainder,
    Function.FLOOR_DIV: np.floor_divide,
    Function.NEG: np.negative,
    Function.ABS: np.abs,
    Function.EXP: np.exp,
    Function.LOG: np.log,
    Function.SQRT: np.sqrt,
    Function.RSQRT: lambda x: 1 / np.sqrt(x),
    Function.ERF: erf,
    Function.SIN: np.sin,
    Function.COS: np.cos,
    Function.FLOOR: np.floor,
    Function.CEIL: np.ceil,
    Function.ROUND: np.rint,
    Function.EQ: np.equal,
    Function.NE: np.not_equal,
    Function.LT: np.less,
    Function.LE: np.less_equal,
    Function.GT: np.greater,
    Function.GE: np.greater_equal,
    Function.AND: np.bitwise_and,
    Function.OR: np.bitwise_or,
    Function.XOR: np.bitwise_xor,
    Function.NOT: np.invert,
    Function.SELECT: np.where,
}

_REDUCTIONS: dict[Reduction, Callable[..., Array]] = {
    Reduction.SUM: np.sum,
    Reduction.MEAN: np.mean,
    Reduction.MAX: np.max,
    Reduction.MIN: np.min,
    Reduction.PROD: np.prod,
    Reduction.ANY: np.any,
    Reduction.ALL: np.all,
}
