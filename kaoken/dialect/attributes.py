"""Attributes of the `kaoken` dialect: shapes, schedules and the small enumerations."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects.builtin import FloatAttr, IntegerAttr, f64, i64
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import Data, SpacedOpaqueSyntaxAttribute
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.str_enum import StrEnum

from kaoken.dialect.dims import Dim

Shape = tuple[Dim, ...]


@irdl_attr_definition
class ShapeAttr(Data[Shape]):
    """A shape whose open sizes have names: `<[batch, tokens, "2*tokens", 384]>`."""

    name = "kaoken.shape"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Shape:
        with parser.in_angle_brackets():
            dims = parser.parse_comma_separated_list(
                parser.Delimiter.SQUARE, lambda: _parse_dim(parser)
            )
        return tuple(dims)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string("<[" + ", ".join(map(_dim_text, self.data)) + "]>")


def _parse_dim(parser: AttrParser) -> Dim:
    if (number := parser.parse_optional_integer(allow_boolean=False)) is not None:
        return Dim.of(number)
    if (name := parser.parse_optional_identifier()) is not None:
        return Dim.symbol(name)
    try:
        return Dim.of(parser.parse_str_literal("size"))
    except ValueError as error:
        parser.raise_error(str(error))


def _dim_text(dim: Dim) -> str:
    text = str(dim)
    return text if text.isidentifier() or dim.constant is not None else f'"{text}"'


@dataclass(frozen=True)
class Directive:
    """One step of a schedule: `tile(m, 8)` is `Directive("tile", ("m", 8))`."""

    name: str
    args: tuple[str | int, ...]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.args))})"


@irdl_attr_definition
class ScheduleAttr(Data[tuple[Directive, ...]]):
    """How an op's loops are to be rewritten: `<tile(m, 8), order(n0, m), vectorize(m, n1)>`.

    `choose-schedule` writes it, people may edit it, the loop passes obey it.
    """

    name = "kaoken.schedule"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[Directive, ...]:
        return tuple(
            parser.parse_comma_separated_list(
                parser.Delimiter.ANGLE, lambda: _parse_directive(parser)
            )
        )

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string("<" + ", ".join(map(str, self.data)) + ">")

    def all(self, name: str) -> list[Directive]:
        """The directives called `name`, in order."""
        return [d for d in self.data if d.name == name]


def _parse_directive(parser: AttrParser) -> Directive:
    name = parser.parse_identifier("directive")
    args = parser.parse_comma_separated_list(
        parser.Delimiter.PAREN, lambda: _parse_directive_argument(parser)
    )
    return Directive(name, tuple(args))


def _parse_directive_argument(parser: AttrParser) -> str | int:
    if (number := parser.parse_optional_integer(allow_boolean=False)) is not None:
        return number
    return parser.parse_identifier("loop name")


class Activation(StrEnum):
    """What a linear layer's epilogue applies to each element."""

    NONE = "none"
    RELU = "relu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    SILU = "silu"
    TANH = "tanh"
    SIGMOID = "sigmoid"


@irdl_attr_definition
class ActivationAttr(EnumAttribute[Activation], SpacedOpaqueSyntaxAttribute):
    name = "kaoken.activation"


class Norm(StrEnum):
    """Which normalisation of the last dimension an epilogue applies."""

    NONE = "none"
    LAYER_NORM = "layer_norm"
    RMS_NORM = "rms_norm"


@irdl_attr_definition
class NormAttr(EnumAttribute[Norm], SpacedOpaqueSyntaxAttribute):
    name = "kaoken.norm"


class Rounding(StrEnum):
    """How numbers x that share a scale, m the largest magnitude, become steps of -127 .. 127.

    Halves go to even. They agree but for numbers that lie within a millionth of a half.
    """

    STEP = "step"
    """`round(x * (1 / s))`, a step is worth s = `m * (1 / 127)`."""
    BITNET = "bitnet"
    """`round(x * f)`, f = `(1 / max(m, 1e-5)) * 127`, a step is worth 1 / f: BitNet b1.58, as
    transformers.integrations.bitnet and torch compute it."""
    EXACT = "exact"
    """The integer nearest to the quotient 127 * x / m itself; a step is worth m / 127."""


@irdl_attr_definition
class RoundingAttr(EnumAttribute[Rounding], SpacedOpaqueSyntaxAttribute):
    name = "kaoken.rounding"


class Approximation(StrEnum):
    """GELU's form: `none` is x*Phi(x) by erf, `tanh` the tanh formula; they differ by 5e-4."""

    NONE = "none"
    TANH = "tanh"


@irdl_attr_definition
class ApproximationAttr(EnumAttribute[Approximation], SpacedOpaqueSyntaxAttribute):
    name = "kaoken.approximation"


class Function(StrEnum):
    """The scalar functions of `kaoken.elementwise`, with their number of operands."""

    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"
    POW = "pow"
    MAXIMUM = "maximum"
    MINIMUM = "minimum"
    REMAINDER = "remainder"
    FLOOR_DIV = "floor_div"
    NEG = "neg"
    ABS = "abs"
    EXP = "exp"
    LOG = "log"
    SQRT = "sqrt"
    RSQRT = "rsqrt"
    ERF = "erf"
    SIN = "sin"
    COS = "cos"
    FLOOR = "floor"
    CEIL = "ceil"
    ROUND = "round"
    EQ = "eq"
    NE = "ne"
    LT = "lt"
    LE = "le"
    GT = "gt"
    GE = "ge"
    AND = "and"
    OR = "or"
    XOR = "xor"
    NOT = "not"
    SELECT = "select"

    @property
    def arity(self) -> int:
        if self is Function.SELECT:
            return 3
        return 1 if self in _UNARY else 2

    @property
    def is_comparison(self) -> bool:
        return self in _COMPARISONS


_UNARY = frozenset(
    {
        Function.NEG,
        Function.ABS,
        Function.EXP,
        Function.LOG,
        Function.SQRT,
        Function.RSQRT,
        Function.ERF,
        Function.SIN,
        Function.COS,
        Function.FLOOR,
        Function.CEIL,
        Function.ROUND,
        Function.NOT,
    }
)
_COMPARISONS = frozenset(
    {Function.EQ, Function.NE, Function.LT, Function.LE, Function.GT, Function.GE}
)


@irdl_attr_definition
class FunctionAttr(EnumAttribute[Function], SpacedOpaqueSyntaxAttribute):
    name = "kaoken.function"


class Reduction(StrEnum):
    """What `kaoken.reduce` computes over the dimensions it removes."""

    SUM = "sum"
    MEAN = "mean"
    MAX = "max"
    MIN = "min"
    PROD = "prod"
    ANY = "any"
    ALL = "all"


@irdl_attr_definition
class ReductionAttr(EnumAttribute[Reduction], SpacedOpaqueSyntaxAttribute):
    name = "kaoken.reduction"


def float_attr(value: float) -> FloatAttr:
    """A scalar parameter such as eps or scale, kept in double precision."""
    return FloatAttr(value, f64)


def int_attr(value: int) -> IntegerAttr:
    return IntegerAttr(value, i64)
