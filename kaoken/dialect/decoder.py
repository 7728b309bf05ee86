"""The `kaoken` ops of decoders: rotary positions, and caches of keys and values.

    %keys = kaoken.cache "layers.0.keys" : !kaoken.cache<[2048, 3, 64], f32, panels>
    kaoken.cache_append %k to %keys at <[past]> : tensor<1x?x192xf32>, !kaoken.cache<...>
    %all = kaoken.cache_read %keys to <["past + tokens"]> : ... -> tensor<1x?x192xf32>

A cache is state: it belongs to the context that runs the module, and keeps its rows from one call
to the next. It is a handle with effects, not a value: append writes, read reads, in the order of
the block. `past` is a symbol that no input's shape tells; who runs the module says it.

A cache of `bf16` or `i8` takes rows of f32 and gives them back as f32, rounded: `i8` keeps one
scale for each head of each row, a 127th of its largest magnitude (He et al., arXiv 2407.07304).
"""

from __future__ import annotations

from math import prod

from xdsl.dialects.builtin import (
    BoolAttr,
    FixedBitwidthType,
    IntAttr,
    IntegerAttr,
    StringAttr,
    bf16,
    f32,
    i8,
    i64,
)
from xdsl.ir import Attribute, Operation, ParametrizedAttribute, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    ParsePropInAttrDict,
    base,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.traits import MemoryReadEffect, MemoryWriteEffect, Pure
from xdsl.utils.exceptions import VerifyException

from kaoken.dialect.attributes import Shape, ShapeAttr
from kaoken.dialect.base import (
    AnyTensor,
    HandleType,
    KaokenOp,
    tensor_type,
    type_shape,
    unify,
)
from kaoken.dialect.dims import Dim

PANEL = 64
"""Keys of a panel: so many rows lie side by side where a cache is laid out in panels."""
_LINE = 64
LAYOUTS = ("rows", "panels")
ELEMENTS: tuple[Attribute, ...] = (f32, bf16, i8)


@irdl_attr_definition
class CacheType(ParametrizedAttribute, HandleType):
    """A cache of up to `capacity` rows, each of `heads` heads of `head_size` numbers.

    `layout` says how lowering places them: `rows` [heads, capacity, head_size], as a sum over
    rows reads them; `panels` [heads, capacity/64, head_size, 64], as products with rows do. Numbers
    of i8 have their scales behind them, f32 [heads, capacity/64, 64].
    """

    name = "kaoken.cache"

    capacity: IntAttr
    heads: IntAttr
    head_size: IntAttr
    element_type: Attribute
    layout: StringAttr

    @staticmethod
    def of(
        capacity: int, heads: int, head_size: int, element_type: Attribute, layout: str
    ) -> CacheType:
        sizes = IntAttr(capacity), IntAttr(heads), IntAttr(head_size)
        return CacheType(*sizes, element_type, StringAttr(layout))

    def verify(self) -> None:
        if min(self.capacity.data, self.heads.data, self.head_size.data) < 1:
            raise VerifyException("a cache's sizes are at least 1")
        if self.layout.data not in LAYOUTS:
            raise VerifyException(f"a cache's layout is one of {', '.join(LAYOUTS)}")
        if self.element_type not in ELEMENTS:
            raise VerifyException(f"a cache holds {', '.join(map(str, ELEMENTS))}")

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return self.heads.data * self.head_size.data

    @property
    def shape(self) -> Shape:
        """All rows: [capacity, heads * head_size]."""
        return (Dim.of(self.capacity.data), Dim.of(self.width))

    @property
    def element(self) -> Attribute:
        return self.element_type

    @property
    def has_scales(self) -> bool:
        return self.element_type == i8

    @property
    def panels(self) -> int:
        """Panels that hold all rows."""
        return -(-self.capacity.data // PANEL)

    @property
    def memory_shape(self) -> tuple[int, ...]:
        """The shape of the numbers in memory: that of `layout`, with whole panels."""
        heads, size = self.heads.data, self.head_size.data
        if self.layout.data == "rows":
            return (heads, self.capacity.data, size)
        return (heads, self.panels, size, PANEL)

    @property
    def scales_shape(self) -> tuple[int, ...]:
        """The shape of the scales in memory."""
        return (self.heads.data, self.panels, PANEL)

    @property
    def scales_offset(self) -> int:
        """How many bytes the numbers take: scales begin there, on a cache line."""
        element = self.element_type
        assert isinstance(element, FixedBitwidthType)
        return -(-element.size * prod(self.memory_shape) // _LINE) * _LINE

    @property
    def scales_bytes(self) -> int:
        return 4 * prod(self.scales_shape)

    @property
    def parts(self) -> tuple[tuple[int, ...], ...]:
        """Which bytes of its memory belong to how many rows; see `kaoken_loop.state`."""
        element = self.element_type
        assert isinstance(element, FixedBitwidthType)
        rows = 1 if self.layout.data == "rows" else PANEL
        bytes_ = rows * self.head_size.data * element.size
        stride = bytes_ * self.memory_shape[1]
        numbers = (0, self.heads.data, stride, rows, bytes_)
        if not self.has_scales:
            return (numbers,)
        return numbers, (self.scales_offset, self.heads.data, self.panels * PANEL * 4, 1, 4)

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> list[Attribute]:
        with parser.in_angle_brackets():
            sizes = parser.parse_comma_separated_list(
                parser.Delimiter.SQUARE, lambda: parser.parse_integer(allow_boolean=False)
            )
            if len(sizes) != 3:
                parser.raise_error("a cache has three sizes: [capacity, heads, head size]")
            parser.parse_punctuation(",")
            element = parser.parse_type()
            parser.parse_punctuation(",")
            layout = parser.parse_identifier("layout")
        return [*map(IntAttr, sizes), element, StringAttr(layout)]

    def print_parameters(self, printer: Printer) -> None:
        sizes = ", ".join(str(n.data) for n in (self.capacity, self.heads, self.head_size))
        printer.print_string(f"<[{sizes}], ")
        printer.print_attribute(self.element_type)
        printer.print_string(f", {self.layout.data}>")


AnyCache = base(CacheType)


def cache_type(value: SSAValue) -> CacheType:
    """The type of a value that the verifier has proved to be a cache."""
    type_ = value.type
    assert isinstance(type_, CacheType)
    return type_


@irdl_op_definition
class CacheOp(IRDLOperation):
    """A cache of the context by name. It is empty when a context begins.

    `sequence` says whose it is where a context has several sequences.
    """

    name = "kaoken.cache"

    key = prop_def(StringAttr)
    sequence = opt_prop_def(IntegerAttr)
    result = result_def(AnyCache)

    traits = traits_def(Pure())
    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$key attr-dict `:` type($result)"

    def __init__(self, key: str, type_: Attribute, sequence: int | None = None):
        number = None if sequence is None else IntegerAttr(sequence, i64)
        super().__init__(
            properties={"key": StringAttr(key), "sequence": number}, result_types=[type_]
        )


@irdl_op_definition
class CacheAppendOp(IRDLOperation):
    """Write the rows of `input` [1, S, heads * head_size], of f32, at `start` .. `start + S`.

    Rows behind them count no longer. More rows than the cache holds are an error at run time.
    """

    name = "kaoken.cache_append"

    input = operand_def(AnyTensor)
    cache = operand_def(AnyCache)
    start = prop_def(ShapeAttr)

    traits = traits_def(MemoryWriteEffect())
    assembly_format = "$input `to` $cache `at` $start attr-dict `:` type($input) `,` type($cache)"

    def __init__(self, input_: SSAValue | Operation, cache: SSAValue | Operation, start: Dim):
        super().__init__(operands=[input_, cache], properties={"start": ShapeAttr((start,))})

    def verify_(self) -> None:
        shape, type_ = type_shape(tensor_type(self.input)), cache_type(self.cache)
        if len(shape) != 3:
            raise VerifyException("input is [1, tokens, heads * head size]")
        unify(shape[0], Dim.of(1), "a cache holds one sequence, input's batch")
        unify(shape[2], Dim.of(type_.width), "numbers of a row")
        if tensor_type(self.input).element_type != f32:
            raise VerifyException("a cache takes rows of f32")
        _one_size(self.start, "start")


@irdl_op_definition
class CacheReadOp(KaokenOp):
    """The first `length` rows of a cache, as a tensor [1, length, heads * head_size] of f32.

    Attention reads them in place, without a copy.
    """

    name = "kaoken.cache_read"

    cache = operand_def(AnyCache)
    length = prop_def(ShapeAttr)

    traits = traits_def(MemoryReadEffect())
    """Besides those of all ops: it may move and vanish, but not past an append."""
    assembly_format = "$cache `to` $length attr-dict `:` type($cache) `->` type($result)"

    def infer_shape(self, *operands: Shape) -> Shape:
        return (Dim.of(1), _one_size(self.length, "length"), Dim.of(cache_type(self.cache).width))

    def infer_element_type(self) -> Attribute:
        return f32


@irdl_op_definition
class RopeOp(KaokenOp):
    """Rotary position embedding (Su et al., arXiv 2104.09864) of each head of each row.

    input is [B, S, H*D]; cos and sin are [S, R/2], the rotation of each pair in each row. Pair p of
    a head is its numbers p and p + R/2, or with `interleaved` 2p and 2p + 1:
    (a, b) becomes (a cos - b sin, b cos + a sin). Numbers R .. D stay.
    """

    name = "kaoken.rope"

    input = operand_def(AnyTensor)
    cos = operand_def(AnyTensor)
    sin = operand_def(AnyTensor)
    num_heads = prop_def(IntegerAttr)
    interleaved = prop_def(BoolAttr, default_value=BoolAttr.from_bool(False))

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = (
        "$input `,` $cos `,` $sin attr-dict "
        "`:` type($input) `,` type($cos) `,` type($sin) `->` type($result)"
    )

    @property
    def heads(self) -> int:
        return self.num_heads.value.data

    @property
    def head_size(self) -> int:
        return tensor_type(self.input).get_shape()[-1] // self.heads

    @property
    def pairs(self) -> int:
        """R/2: how many pairs of a head rotate."""
        return tensor_type(self.cos).get_shape()[-1]

    def infer_shape(self, *operands: Shape) -> Shape:
        x, cos, sin = operands
        if len(x) != 3 or len(cos) != 2 or len(sin) != 2:
            raise VerifyException("input has three dimensions, cos and sin [tokens, pairs]")
        unify(x[1], cos[0], "rows of input and cos")
        unify(cos[0], sin[0], "rows of cos and sin")
        pairs = unify(cos[1], sin[1], "pairs of cos and sin").constant
        width = x[2].constant
        if width is None or width % self.heads:
            raise VerifyException(f"input's row of {x[2]} does not split into {self.heads} heads")
        if pairs is None or 2 * pairs > width // self.heads:
            raise VerifyException(f"{cos[1]} pairs do not fit a head of {width // self.heads}")
        return x


def _one_size(attr: ShapeAttr, what: str) -> Dim:
    if len(attr.data) != 1:
        raise VerifyException(f"{what} is one size")
    return attr.data[0]


DECODER_OPS = [CacheOp, CacheAppendOp, CacheReadOp, RopeOp]
