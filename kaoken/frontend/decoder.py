"""Decoders that generate text, as an L0 module: one function for prefill and for single steps.

    func.func @main(%input_ids: tensor<1x?xi64> {shape [1, tokens]}) -> tensor<1x?x49152xf32>
        attributes {kaoken.max = {tokens = 256, past = 2047, outputs = 8}} {
      %keys = kaoken.cache "model.layers.0.keys" : !kaoken.cache<[2048, 3, 64], f32, panels>
      ...

`past` tokens are in the caches; the call adds `tokens` and gives the logits that follow the last
`outputs` of them: 0 for all pieces of a prompt but the last, 1 for a step, more to check guesses.

What differs between architectures is a `DecoderConfig` and which weights there are. Weights have
the names that Hugging Face's Llama gives them; optional ones (biases, norms of queries and keys,
norms behind the blocks) are part of the model when the store has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from xdsl.builder import Builder
from xdsl.dialects.builtin import (
    ArrayAttr,
    BoolAttr,
    DictionaryAttr,
    FunctionType,
    ModuleOp,
    StringAttr,
    TensorType,
    f32,
    i64,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Region, SSAValue
from xdsl.rewriter import InsertPoint

from kaoken.dialect.attributes import (
    Activation,
    Approximation,
    ApproximationAttr,
    Function,
    Norm,
    Shape,
    ShapeAttr,
    float_attr,
    int_attr,
)
from kaoken.dialect.base import shaped
from kaoken.dialect.decoder import CacheAppendOp, CacheOp, CacheReadOp, CacheType, RopeOp
from kaoken.dialect.dims import Dim
from kaoken.dialect.formats import Format, FormatAttr
from kaoken.dialect.generation import OUTPUTS, PAST, TOKENS, set_generation_sizes
from kaoken.dialect.nn import (
    AttentionOp,
    EmbeddingOp,
    GeluOp,
    LayerNormOp,
    LinearOp,
    ReluOp,
    RmsNormOp,
    SiluOp,
    TanhOp,
    WeightOp,
)
from kaoken.dialect.quant import DequantizeOp
from kaoken.dtypes import element_type
from kaoken.errors import KaokenError
from kaoken.frontend.generation_config import generation_attribute
from kaoken.frontend.graph import ONE, Graph
from kaoken.frontend.rotary import Rotary, rotary_tables
from kaoken.weights import WeightStore, attach_store


@dataclass(frozen=True)
class DecoderConfig:
    """The sizes and constants of a decoder. Sizes count numbers, tokens, heads or layers."""

    name: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    eps: float
    rotary: Rotary | None
    """None: positions are rows of `model.embed_positions`, added to the tokens'."""
    context: int
    """The most tokens that the model was made for."""
    norm: Norm = Norm.RMS_NORM
    activation: Activation = Activation.SILU
    squared_activation: bool = False
    """Whether what the activation gives is squared."""
    score_scale: float | None = None
    """What attention scores are multiplied by; by default 1 / sqrt(head_size)."""
    windows: Sequence[int | None] = ()
    """For each layer how many of the last tokens it sees, None for all; () for all in all."""
    local_rotary: Rotary | None = None
    """The rotation of layers with a window, where it is another."""
    embedding_scale: float = 1.0
    logit_cap: float | None = None
    """Logits x become cap * tanh(x / cap)."""
    end_tokens: Sequence[int] = field(default_factory=tuple)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What the model wants of `generate` where nothing else is asked for."""

    def window(self, layer: int) -> int | None:
        return self.windows[layer] if self.windows else None


def build_decoder(
    config: DecoderConfig,
    store: WeightStore,
    capacity: int,
    formats: Mapping[str, Format] | None = None,
) -> ModuleOp:
    """The module of a decoder whose caches hold `capacity` tokens.

    Keys of `formats` name weights of few bits: under the key the store has codes, with `.scale` and
    perhaps `.min` and `.supers` behind it the rest.

    The store gains the rotary tables. Raises KaokenError when a weight is missing or has another
    shape than the configuration says.
    """
    if not 1 <= capacity <= config.context:
        raise KaokenError(
            f"a context of {capacity} tokens: {config.name} was made for 1 to {config.context}"
        )
    return _DecoderBuilder(config, store, capacity, formats or {}).module()


def widen_outputs(module: ModuleOp) -> None:
    """Let a call of a decoder give the logits behind all its tokens, as evaluating asks for.

    Before: `kaoken.max = {tokens = 256, past = 2047, outputs = 8}`; after: `outputs = 256`.
    """
    for function in module.walk():
        limits = function.attributes.get("kaoken.max")
        if isinstance(limits, DictionaryAttr) and {"tokens", "outputs"} <= limits.data.keys():
            wider = limits.data | {"outputs": limits.data["tokens"]}
            function.attributes["kaoken.max"] = DictionaryAttr(wider)


class _DecoderBuilder(Graph):
    """Builds `@main`; keeps what all layers read."""

    def __init__(
        self,
        config: DecoderConfig,
        store: WeightStore,
        capacity: int,
        formats: Mapping[str, Format],
    ):
        self.config, self.store, self.capacity = config, store, capacity
        self.formats = formats
        self.block = Block(arg_types=[shaped((ONE, TOKENS), i64)])
        super().__init__(Builder(InsertPoint.at_end(self.block)))
        self.block.args[0].name_hint = "input_ids"
        self.tables: dict[Rotary, tuple[SSAValue, SSAValue]] = {}

    def module(self) -> ModuleOp:
        function = FuncOp(
            "main",
            FunctionType.from_lists(self.block.arg_types, []),
            Region(self.block),
            arg_attrs=ArrayAttr([_input_attributes()]),
        )
        set_generation_sizes(function, self.capacity)
        logits = self._model(self.block.args[0])
        logits.name_hint = "logits"
        self.builder.insert(ReturnOp(logits))
        function.function_type = FunctionType.from_lists(self.block.arg_types, [logits.type])
        function.attributes["kaoken.results"] = ArrayAttr([StringAttr("logits")])
        module = ModuleOp([function])
        module.attributes["kaoken.name"] = StringAttr(self.config.name)
        module.attributes["kaoken.generation"] = generation_attribute(
            self.capacity, self.config.end_tokens, self.config.defaults
        )
        attach_store(module, self.store)
        return module

    # ---- weights ----

    def has(self, key: str) -> bool:
        return key in self.store

    def weight(self, key: str, *shape: int) -> SSAValue:
        """A weight of the store as f32 of that shape, of few bits where it is kept so."""
        found = self.store[key].shape
        if found != shape:
            raise KaokenError(f'weight "{key}" is {list(found)}, but the model needs {list(shape)}')
        hint = key.removesuffix(".weight").rpartition(".")[2]
        if (format_ := self.formats.get(key)) is None:
            value = self.add(WeightOp(key, TensorType(f32, shape)))
        else:
            parts = [key, *(f"{key}.{part}" for part in ("scale", "min", "supers"))]
            values = [self._stored(part) if self.has(part) else None for part in parts]
            value = self.make(DequantizeOp, values, {"format": FormatAttr(format_)})
        value.name_hint = hint
        return value

    def _stored(self, key: str) -> SSAValue:
        """An array of the store as it is."""
        array = self.store[key]
        return self.add(WeightOp(key, TensorType(element_type(array.dtype), array.shape)))

    def linear(self, x: SSAValue, name: str, k: int, n: int) -> SSAValue:
        """A linear layer, with a bias where the store has one."""
        weight = self.weight(f"{name}.weight", n, k)
        bias = self.weight(f"{name}.bias", n) if self.has(f"{name}.bias") else None
        return self.make(LinearOp, [x, weight, bias, None, None, None])

    def norm(self, x: SSAValue, name: str, size: int) -> SSAValue:
        weight, eps = self.weight(f"{name}.weight", size), {"eps": float_attr(self.config.eps)}
        if self.config.norm is Norm.RMS_NORM:
            return self.make(RmsNormOp, [x, weight], eps)
        bias = self.weight(f"{name}.bias", size) if self.has(f"{name}.bias") else None
        return self.make(LayerNormOp, [x, weight, bias], eps)

    def maybe_norm(self, x: SSAValue, name: str, size: int | None = None) -> SSAValue:
        """The norm of rows of `size`, by default the model's, where the store has its weight."""
        size = self.config.hidden if size is None else size
        return self.norm(x, name, size) if self.has(f"{name}.weight") else x

    # ---- the model ----

    def _model(self, ids: SSAValue) -> SSAValue:
        c = self.config
        self.caches = [self._caches(i) for i in range(c.layers)]
        table = self.weight("model.embed_tokens.weight", c.vocabulary, c.hidden)
        x = self.make(EmbeddingOp, [table, ids])
        if c.embedding_scale != 1.0:
            scale = self.full(c.embedding_scale, f32)
            x = self.elementwise(Function.MUL, x, scale)
        if c.rotary is None:
            positions = self.weight("model.embed_positions.weight", c.context, c.hidden)
            rows = self.slice(positions, 0, PAST, PAST + TOKENS)
            x = self.elementwise(Function.ADD, x, rows)
        else:
            for window in dict.fromkeys(c.windows or [None]):
                self._rotations(window)  # here, so that the first layer is like the others
        for i in range(c.layers):
            x = self._layer(x, i)
        last = self.slice(x, 1, TOKENS - OUTPUTS, TOKENS)
        last = self.norm(last, "model.norm", c.hidden)
        head = "lm_head" if self.has("lm_head.weight") else "model.embed_tokens"
        logits = self.linear(last, head, c.hidden, c.vocabulary)
        return logits if c.logit_cap is None else self._capped(logits, c.logit_cap)

    def _capped(self, x: SSAValue, cap: float) -> SSAValue:
        inner = self.elementwise(Function.DIV, x, self.full(cap, f32))
        return self.elementwise(Function.MUL, self.make(TanhOp, [inner]), self.full(cap, f32))

    def _caches(self, layer: int) -> tuple[SSAValue, SSAValue]:
        """The keys in panels, as products with queries read them; the values row by row."""
        c = self.config

        def cache(what: str, layout: str) -> SSAValue:
            type_ = CacheType.of(self.capacity, c.kv_heads, c.head_size, f32, layout)
            op = CacheOp(f"model.layers.{layer}.{what}", type_)
            op.result.name_hint = what
            self.builder.insert(op)
            return op.result

        return cache("keys", "panels"), cache("values", "rows")

    def _layer(self, x: SSAValue, i: int) -> SSAValue:
        name, c = f"model.layers.{i}", self.config
        y = self._attention(self.norm(x, f"{name}.input_layernorm", c.hidden), i)
        before_mlp = f"{name}.post_attention_layernorm"
        if self.has(f"{name}.pre_feedforward_layernorm.weight"):
            y = self.maybe_norm(y, before_mlp)
            before_mlp = f"{name}.pre_feedforward_layernorm"
        x = self.elementwise(Function.ADD, x, y)
        y = self._mlp(self.norm(x, before_mlp, c.hidden), f"{name}.mlp")
        y = self.maybe_norm(y, f"{name}.post_feedforward_layernorm")
        return self.elementwise(Function.ADD, x, y)

    def _attention(self, x: SSAValue, i: int) -> SSAValue:
        name, c = f"model.layers.{i}.self_attn", self.config
        window = c.window(i)
        q = self.linear(x, f"{name}.q_proj", c.hidden, c.heads * c.head_size)
        k = self.linear(x, f"{name}.k_proj", c.hidden, c.kv_heads * c.head_size)
        v = self.linear(x, f"{name}.v_proj", c.hidden, c.kv_heads * c.head_size)
        q = self._head_norm(q, f"{name}.q_norm", c.heads)
        k = self._head_norm(k, f"{name}.k_norm", c.kv_heads)
        q, k = self._rotate(q, c.heads, window), self._rotate(k, c.kv_heads, window)
        scale = c.head_size**-0.5 if c.score_scale is None else c.score_scale
        properties = {
            "num_heads": int_attr(c.heads),
            "num_kv_heads": None if c.kv_heads == c.heads else int_attr(c.kv_heads),
            "scale": float_attr(scale),
            "causal": BoolAttr.from_bool(True),
            "window": None if window is None else int_attr(window),
        }
        operands = [
            q,
            *(self._through(rows, at) for rows, at in zip((k, v), self.caches[i], strict=True)),
        ]
        mixed = self.make(AttentionOp, operands, properties)
        size = c.heads * c.head_size
        mixed = self.maybe_norm(mixed, f"{name}.attn_sub_norm", size)
        return self.linear(mixed, f"{name}.o_proj", size, c.hidden)

    def _through(self, rows: SSAValue, cache: SSAValue) -> SSAValue:
        """Append rows to a cache, and read all that it holds then."""
        self.builder.insert(CacheAppendOp(rows, cache, PAST))
        return self.make(CacheReadOp, [cache], {"length": ShapeAttr((PAST + TOKENS,))})

    def _head_norm(self, x: SSAValue, name: str, heads: int) -> SSAValue:
        """The norm of each head by itself, where the store has its weight."""
        if not self.has(f"{name}.weight"):
            return x
        size = self.config.head_size
        split: Shape = (ONE, TOKENS, Dim.of(heads), Dim.of(size))
        normed = self.norm(self.reshape(x, split), name, size)
        return self.reshape(normed, (ONE, TOKENS, Dim.of(heads * size)))

    def _rotate(self, x: SSAValue, heads: int, window: int | None) -> SSAValue:
        if self.config.rotary is None:
            return x
        cos, sin = self._rotations(window)
        interleaved = BoolAttr.from_bool(self._rotary(window).interleaved)
        properties = {"num_heads": int_attr(heads), "interleaved": interleaved}
        return self.make(RopeOp, [x, cos, sin], properties)

    def _rotary(self, window: int | None) -> Rotary:
        """How layers with that window rotate."""
        local = self.config.local_rotary if window is not None else None
        rotary = self.config.rotary if local is None else local
        assert rotary is not None
        return rotary

    def _rotations(self, window: int | None) -> tuple[SSAValue, SSAValue]:
        """The rows of the tables for the tokens of this call."""
        rotary = self._rotary(window)
        if rotary not in self.tables:
            name = "rotary" if rotary is self.config.rotary else "rotary.local"
            cos, sin = (
                self._rows_of(f"{name}.{part}", table)
                for part, table in zip(
                    ("cos", "sin"), rotary_tables(rotary, self.capacity), strict=True
                )
            )
            self.tables[rotary] = cos, sin
        return self.tables[rotary]

    def _rows_of(self, key: str, table: np.ndarray) -> SSAValue:
        weight = self.weight(self.store.add(key, table), *table.shape)
        weight.name_hint = key.rpartition(".")[2]
        return self.slice(weight, 0, PAST, PAST + TOKENS)

    def _mlp(self, x: SSAValue, name: str) -> SSAValue:
        c = self.config
        inner = self.store[f"{name}.up_proj.weight"].shape[0]
        layers = [f"{name}.{part}_proj" for part in ("gate", "up")]
        inputs = [self.linear(x, n, c.hidden, inner) for n in layers if self.has(f"{n}.weight")]
        value = self._activate(inputs[0])
        if len(inputs) > 1:
            value = self.elementwise(Function.MUL, value, inputs[1])
        value = self.maybe_norm(value, f"{name}.ffn_sub_norm", inner)
        return self.linear(value, f"{name}.down_proj", inner, c.hidden)

    def _activate(self, x: SSAValue) -> SSAValue:
        value = self._activation(x)
        if not self.config.squared_activation:
            return value
        return self.elementwise(Function.MUL, value, value)

    def _activation(self, x: SSAValue) -> SSAValue:
        if self.config.activation is Activation.RELU:
            return self.make(ReluOp, [x])
        if self.config.activation is Activation.SILU:
            return self.make(SiluOp, [x])
        if self.config.activation is Activation.GELU_TANH:
            return self.make(GeluOp, [x], {"approximate": ApproximationAttr(Approximation.TANH)})
        raise KaokenError(f"a decoder with the activation {self.config.activation} is unknown")


def _input_attributes() -> DictionaryAttr:
    shape = ShapeAttr((ONE, TOKENS))
    return DictionaryAttr({"kaoken.shape": shape, "kaoken.name": StringAttr("input_ids")})
