"""What each arithmetic op does to one element, as a scalar and as a register.

One table from op class to a function that describes it; adding an op to the C backend is one line
here, plus a line in a target's instruction table where the CPU has an instruction for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from xdsl.dialects import arith, math, vector
from xdsl.dialects.arith import CMPF_COMPARISON_OPERATIONS, CMPI_COMPARISON_OPERATIONS
from xdsl.ir import Operation

from kaoken.backend.printer.text import UNARY, add, binary, fill, multiply, unary, wrap
from kaoken.backend.printer.types import c_name, element_type, short_name
from kaoken.dialect.kaoken_loop import CompareOp, ConvertOp, DotOp, LookupOp, SelectOp


@dataclass(frozen=True)
class Element:
    """One operation on elements. `key` names it in instruction tables: `add.f32`."""

    key: str
    result: str
    """The short name of the result's type."""
    scalar: Callable[..., str]
    """The C expression, given those of the operands."""
    operator: str | None = None
    """An operator that C has for scalars and GCC's vectors alike."""
    register: str | None = None
    """A template for registers that fits every target."""


Describe = Callable[[Operation], Element]


def describe(op: Operation) -> Element | None:
    """What an op does to its elements, or None when it is not an op on elements."""
    function = _TABLE.get(type(op))
    return function(op) if function else None


def _operand_type(op: Operation, index: int = -1) -> str:
    return short_name(element_type(op.operands[index]))


def _result_type(op: Operation) -> str:
    return short_name(element_type(op.results[0]))


_INDEX_ARITHMETIC = {"+": add, "*": multiply}


def _operator(name: str, operator: str) -> Describe:
    def describe_operator(op: Operation) -> Element:
        short = _result_type(op)
        vector_operator = operator if short != "i1" or operator in "&|^" else None

        def scalar(a: str, b: str) -> str:
            if short == "i64" and operator in _INDEX_ARITHMETIC:
                return _INDEX_ARITHMETIC[operator](a, b)
            return _narrow(short, binary(operator, a, b))

        return Element(f"{name}.{short}", short, scalar, vector_operator)

    return describe_operator


def _narrow(short: str, text: str) -> str:
    """C computes small integers as int: cut the result back to its type."""
    if short in ("i8", "i16", "u8", "u16"):
        return unary(f"({c_name(short)})", text)
    return text


def _unsigned_operator(name: str, operator: str) -> Describe:
    """An operator whose operands and result C must take as unsigned."""

    def describe_unsigned(op: Operation) -> Element:
        short = _result_type(op)
        cast, back = f"(uint{short[1:]}_t)", f"({c_name(short)})"

        def scalar(a: str, b: str) -> str:
            return unary(back, f"({binary(operator, unary(cast, a), unary(cast, b))})")

        register = (
            f"(kk_{short}x{{lanes}})((kk_u{short[1:]}x{{lanes}}){{0!u}} {operator} "
            f"(kk_u{short[1:]}x{{lanes}}){{1!u}})"
        )
        return Element(f"{name}.{short}", short, scalar, register=register)

    return describe_unsigned


def _helper(name: str, unsigned: bool = False) -> Describe:
    """`kk_max_f32(a, b)`: a function that the printer writes when it is used."""

    def describe_helper(op: Operation) -> Element:
        short = _result_type(op)
        kind = f"u{short[1:]}" if unsigned else short
        table_name = name if short.startswith("f") else ("u" if unsigned else "s") + name
        return Element(
            f"{table_name}.{short}", short, lambda *args: f"kk_{name}_{kind}({', '.join(args)})"
        )

    return describe_helper


def _function(name: str, c_function: str | None = None) -> Describe:
    """A function of <math.h>."""

    def describe_function(op: Operation) -> Element:
        short = _result_type(op)
        suffix = "" if short == "f64" else "f"
        function = (c_function or name) + suffix
        return Element(f"{name}.{short}", short, lambda *args: f"{function}({', '.join(args)})")

    return describe_function


def _rsqrt(op: Operation) -> Element:
    short = _result_type(op)
    one, root = ("1.0", "sqrt") if short == "f64" else ("1.0f", "sqrtf")
    return Element(f"rsqrt.{short}", short, lambda a: f"{one} / {root}({a})")


def _fma(op: Operation) -> Element:
    short = _result_type(op)
    return Element(f"fma.{short}", short, lambda a, b, c: f"kk_fma_{short}({a}, {b}, {c})")


def _negate(op: Operation) -> Element:
    short = _result_type(op)
    return Element(f"neg.{short}", short, lambda a: unary("-", a), register="-{0!u}")


_C_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def _compare_floats(op: Operation) -> Element:
    assert isinstance(op, arith.CmpfOp)
    name = CMPF_COMPARISON_OPERATIONS[op.predicate.value.data]
    return _float_comparison(name, _operand_type(op))


def _compare_integers(op: Operation) -> Element:
    assert isinstance(op, arith.CmpiOp)
    name = CMPI_COMPARISON_OPERATIONS[op.predicate.value.data]
    return _integer_comparison(name, _operand_type(op))


def _compare(op: Operation) -> Element:
    assert isinstance(op, CompareOp)
    short = _operand_type(op)
    compare = _float_comparison if short in ("f32", "f64", "f16") else _integer_comparison
    return compare(op.predicate.data, short)


def _float_comparison(name: str, short: str) -> Element:
    return Element(f"{name}.{short}", "i1", lambda a, b: _float_comparison_text(name, a, b))


def _float_comparison_text(name: str, a: str, b: str) -> str:
    """C for MLIR's ordered (o...) and unordered (u...) comparisons."""
    if name in ("true", "false"):
        return name
    if name in ("ord", "uno"):
        text = f"isunordered({a}, {b})"
        return text if name == "uno" else f"!{text}"
    order, kind = name[0], name[1:]
    if name == "one":
        return f"{a} < {b} || {a} > {b}"
    if name == "ueq":
        return f"!({a} < {b} || {a} > {b})"
    if order == "o" or name == "une":
        return binary(_C_COMPARISONS[kind], a, b)
    opposite = {"lt": ">=", "le": ">", "gt": "<=", "ge": "<"}[kind]
    return f"!({binary(opposite, a, b)})"


def _integer_comparison(name: str, short: str) -> Element:
    operator = _C_COMPARISONS[name[-2:]]
    cast = f"(uint{short[1:]}_t)" if name[0] == "u" else ""

    def scalar(a: str, b: str) -> str:
        return binary(operator, unary(cast, a), unary(cast, b)) if cast else binary(operator, a, b)

    return Element(f"{name}.{short}", "i1", scalar)


def _select(op: Operation) -> Element:
    short = _result_type(op)

    def scalar(condition: str, a: str, b: str) -> str:
        return f"{wrap(condition, 4)} ? {wrap(a, 4)} : {wrap(b, 3)}"

    return Element(f"select.{short}", short, scalar)


def _convert(op: Operation) -> Element:
    """Between numbers: floats, signed integers, indices."""
    source, target = _operand_type(op), _result_type(op)
    register = f"__builtin_convertvector({{0}}, kk_{target}x{{lanes}})"
    if source == "i8" and target == "f32":
        wide = "__builtin_convertvector({0}, kk_i32x{lanes})"
        register = f"__builtin_convertvector({wide}, kk_f32x{{lanes}})"
    if source == "bf16":
        shifted = "__builtin_convertvector({0}, kk_i32x{lanes}) << 16"
        register = f"(kk_f32x{{lanes}})({shifted})" if target == "f32" else None
    elif target == "bf16" or "i1" in (source, target) or "f16" in (source, target):
        register = None
    if source == target:
        register = "{0}"
    return Element(
        f"convert.{source}.{target}", target, lambda a: _cast(source, target, a), register=register
    )


def _cast(source: str, target: str, text: str) -> str:
    if source == target or ({source, target} == {"i64", "i32"} and target == "i64"):
        return text
    if source in ("bf16", "f16"):
        single = f"kk_f32_from_{source}({text})"
        return single if target == "f32" else unary(f"({c_name(target)})", single)
    if target in ("bf16", "f16"):
        return f"kk_{target}_from_f32({text})"
    return unary(f"({c_name(target)})", text)


def _round(op: Operation) -> Element:
    """kaoken_loop.convert: to integers by rounding, else as arith converts."""
    source, target = _operand_type(op), _result_type(op)
    if source != "f32" or target not in ("u8", "i8"):
        return _convert(op)
    return Element(f"round.{source}.{target}", target, lambda a: f"kk_round_{source}_{target}({a})")


def _dot(op: Operation) -> Element:
    assert isinstance(op, DotOp)
    kind = op.kind.data
    return Element(
        f"dot.{kind}", _result_type(op), lambda a, b, acc: f"kk_dot_{kind}({a}, {b}, {acc})"
    )


def _lookup(op: Operation) -> Element:
    assert isinstance(op, LookupOp)
    name = f"lookup.{op.part.data}.{op.nibble.value.data}"
    function = f"kk_lookup_{op.part.data}"

    def scalar(table: str, at: str, word: str, acc: str) -> str:
        return f"{function}(&{table}[{at}], {word}, {acc}, {4 * op.nibble.value.data})"

    return Element(name, _result_type(op), scalar)


def _sign_extend(op: Operation) -> Element:
    source, target = _operand_type(op), _result_type(op)
    if source != "i1":
        return _convert(op)
    return Element(
        f"sign_extend.i1.{target}", target, lambda a: unary("-", unary(f"({c_name(target)})", a))
    )


def _from_unsigned(op: Operation) -> Element:
    """The operand's bits taken as unsigned: extui, uitofp."""
    source, target = _operand_type(op), _result_type(op)
    if source == "i1":
        return Element(
            f"zero_extend.i1.{target}", target, lambda a: unary(f"({c_name(target)})", a)
        )
    middle = f"(uint{source[1:]}_t)"
    register = (
        f"__builtin_convertvector((kk_u{source[1:]}x{{lanes}}){{0!u}}, kk_{target}x{{lanes}})"
    )
    return Element(
        f"from_unsigned.{source}.{target}",
        target,
        lambda a: unary(f"({c_name(target)})", unary(middle, a)),
        register=register,
    )


def _to_unsigned(op: Operation) -> Element:
    source, target = _operand_type(op), _result_type(op)
    inner = "uint64_t" if target == "i64" else "int64_t"
    return Element(
        f"to_unsigned.{source}.{target}",
        target,
        lambda a: unary(f"({c_name(target)})", unary(f"({inner})", a)),
    )


def _truncate(op: Operation) -> Element:
    source, target = _operand_type(op), _result_type(op)
    if target != "i1":
        return _convert(op)
    return Element(f"truncate.{source}.i1", "i1", lambda a: f"({wrap(a, UNARY)} & 1) != 0")


def _bitcast(op: Operation) -> Element:
    source, target = _operand_type(op), _result_type(op)
    return Element(
        f"bitcast.{source}.{target}",
        target,
        lambda a: a if source == target else f"kk_bits_{source}_{target}({a})",
        register=f"(kk_{target}x{{lanes}}){{0!u}}",
    )


_TABLE: dict[type[Operation], Describe] = {
    arith.AddfOp: _operator("add", "+"),
    arith.SubfOp: _operator("sub", "-"),
    arith.MulfOp: _operator("mul", "*"),
    arith.DivfOp: _operator("div", "/"),
    arith.NegfOp: _negate,
    arith.MaximumfOp: _helper("max"),
    arith.MinimumfOp: _helper("min"),
    arith.MaxnumfOp: _helper("max"),
    arith.MinnumfOp: _helper("min"),
    arith.AddiOp: _operator("add", "+"),
    arith.SubiOp: _operator("sub", "-"),
    arith.MuliOp: _operator("mul", "*"),
    arith.DivSIOp: _operator("div", "/"),
    arith.RemSIOp: _operator("rem", "%"),
    arith.DivUIOp: _unsigned_operator("divu", "/"),
    arith.RemUIOp: _unsigned_operator("remu", "%"),
    arith.FloorDivSIOp: _helper("floordiv"),
    arith.CeilDivSIOp: _helper("ceildiv"),
    arith.MaxSIOp: _helper("max"),
    arith.MinSIOp: _helper("min"),
    arith.MaxUIOp: _helper("max", unsigned=True),
    arith.MinUIOp: _helper("min", unsigned=True),
    arith.AndIOp: _operator("and", "&"),
    arith.OrIOp: _operator("or", "|"),
    arith.XOrIOp: _operator("xor", "^"),
    arith.ShLIOp: _unsigned_operator("shl", "<<"),
    arith.ShRUIOp: _unsigned_operator("shru", ">>"),
    arith.ShRSIOp: _operator("shrs", ">>"),
    arith.CmpfOp: _compare_floats,
    arith.CmpiOp: _compare_integers,
    arith.SelectOp: _select,
    arith.SIToFPOp: _convert,
    arith.FPToSIOp: _convert,
    arith.UIToFPOp: _from_unsigned,
    arith.FPToUIOp: _to_unsigned,
    arith.ExtFOp: _convert,
    arith.TruncFOp: _convert,
    arith.ExtSIOp: _sign_extend,
    arith.ExtUIOp: _from_unsigned,
    arith.TruncIOp: _truncate,
    arith.IndexCastOp: _convert,
    arith.BitcastOp: _bitcast,
    vector.BitcastOp: _bitcast,
    CompareOp: _compare,
    SelectOp: _select,
    ConvertOp: _round,
    DotOp: _dot,
    LookupOp: _lookup,
    vector.FMAOp: _fma,
    math.FmaOp: _fma,
    math.AbsFOp: _function("abs", "fabs"),
    math.AbsIOp: _helper("abs"),
    math.CeilOp: _function("ceil"),
    math.FloorOp: _function("floor"),
    math.TruncOp: _function("trunc"),
    math.RoundOp: _function("round"),
    math.RoundEvenOp: _function("round_even", "rint"),
    math.CopySignOp: _function("copysign"),
    math.SqrtOp: _function("sqrt"),
    math.RsqrtOp: _rsqrt,
    math.ExpOp: _function("exp"),
    math.Exp2Op: _function("exp2"),
    math.ExpM1Op: _function("expm1"),
    math.LogOp: _function("log"),
    math.Log2Op: _function("log2"),
    math.Log10Op: _function("log10"),
    math.Log1pOp: _function("log1p"),
    math.ErfOp: _function("erf"),
    math.SinOp: _function("sin"),
    math.CosOp: _function("cos"),
    math.TanOp: _function("tan"),
    math.SinhOp: _function("sinh"),
    math.CoshOp: _function("cosh"),
    math.TanhOp: _function("tanh"),
    math.AsinOp: _function("asin"),
    math.AcosOp: _function("acos"),
    math.AtanOp: _function("atan"),
    math.Atan2Op: _function("atan2"),
    math.PowFOp: _function("pow"),
}


def register_expression(
    element: Element, operands: list[str], instructions: Mapping[str, str], lanes: int
) -> str | None:
    """The C expression over whole registers, or None when the lanes must be taken one by one."""
    if (template := instructions.get(element.key)) is not None:
        return fill(template, *operands)
    if element.operator is not None:
        return binary(element.operator, *operands)
    if element.register is not None:
        return fill(element.register, *operands, lanes=lanes)
    return None


ELEMENT_OPS = tuple(_TABLE)
"""The ops that `describe` knows."""
