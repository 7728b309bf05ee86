"""What stands before the functions: headers, vector types, and the small helpers they call."""

from __future__ import annotations

import re

from kaoken.backend.machine import TargetMachine
from kaoken.backend.printer.types import c_name

_INTRINSIC = re.compile(r"\b(?:_mm\d*_\w+|_tile_\w+|v\w+q_\w+)\(")
_VECTOR = re.compile(r"\bkk_([fiu]\d+|bf16)x(\d+)(_u)?\b")
_HELPER = re.compile(r"\bkk_(max|min|abs|floordiv|ceildiv|fma)_([fiu]\d+)\b")
_BITS = re.compile(r"\bkk_bits_([fiu]\d+)_([fiu]\d+)\b")

_HEADERS = {
    "stdbool.h": re.compile(r"\b(bool|true|false)\b"),
    "stdlib.h": re.compile(r"\b(aligned_alloc|free)\("),
    "string.h": re.compile(r"\b(memcpy|memset)\("),
}
_MATH = re.compile(
    r"\b(isunordered|INFINITY|NAN|(fabs|ceil|floor|trunc|round|rint|copysign|sqrt|expm1|exp2|exp"
    r"|log10|log1p|log2|log|erf|sinh|cosh|tanh|asin|acos|atan2|atan|sin|cos|tan|pow|fmod|fma)f?\()"
)

_BODIES = {
    "max": "return a > b ? a : b;",
    "min": "return a < b ? a : b;",
    "abs": "return a < 0 ? -a : a;",
    "floordiv": "return a / b - (a % b != 0 && (a % b < 0) != (b < 0));",
    "ceildiv": "return a / b + (a % b != 0 && (a % b < 0) == (b < 0));",
}
_TEXTS = {
    "kk_alloc": """static inline void *kk_alloc(int64_t bytes)
{
    return aligned_alloc(64, (size_t)((bytes + 63) / 64 * 64));
}""",
    "kk_f32_from_bf16": """static inline float kk_f32_from_bf16(uint16_t x)
{
    const uint32_t bits = (uint32_t)x << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}""",
    "kk_bf16_from_f32": """static inline uint16_t kk_bf16_from_f32(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) {
        return 0x7fc0;
    }
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}""",
    "kk_f32_from_f16": """static inline float kk_f32_from_f16(uint16_t x)
{
    uint32_t bits = (uint32_t)(x & 0x7fff) << 13;
    float result;
    memcpy(&result, &bits, sizeof result);
    result *= 0x1p112f; /* the exponents' biases differ by 112 */
    memcpy(&bits, &result, sizeof bits);
    bits |= ((x & 0x7c00) == 0x7c00 ? 0x7f800000u : 0) | (uint32_t)(x & 0x8000) << 16;
    memcpy(&result, &bits, sizeof result);
    return result;
}""",
    "kk_f16_from_f32": """static inline uint16_t kk_f16_from_f32(float x)
{
    const float size = x < 0.0f ? -x : x;
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) {
        return (uint16_t)(sign | 0x7e00);
    }
    if (bits >= 0x477ff000) { /* 65520 and more */
        return (uint16_t)(sign | 0x7c00);
    }
    if (bits < 0x38800000) { /* subnormal: added to 0.5, its last bit is worth 2^-24 */
        const float sum = size + 0.5f;
        memcpy(&bits, &sum, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    return (uint16_t)(sign | (bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13);
}""",
    "kk_dot_ui7_i8": """static inline int32_t kk_dot_ui7_i8(int32_t a, int32_t b, int32_t acc)
{
    for (int i = 0; i < 32; i += 8) {
        acc += (int8_t)((uint32_t)a >> i) * (int8_t)((uint32_t)b >> i);
    }
    return acc;
}""",
    "kk_dot_ui8_i8": """static inline int32_t kk_dot_ui8_i8(int32_t a, int32_t b, int32_t acc)
{
    for (int i = 0; i < 32; i += 8) {
        acc += (uint8_t)((uint32_t)a >> i) * (int8_t)((uint32_t)b >> i);
    }
    return acc;
}""",
    "kk_dot_ui8_i7": """static inline int32_t kk_dot_ui8_i7(int32_t a, int32_t b, int32_t acc)
{
    for (int i = 0; i < 32; i += 8) {
        acc += (uint8_t)((uint32_t)a >> i) * (int8_t)((uint32_t)b >> i);
    }
    return acc;
}""",
    "kk_dot_i8_i8": """static inline int32_t kk_dot_i8_i8(int32_t a, int32_t b, int32_t acc)
{
    for (int i = 0; i < 32; i += 8) {
        acc += (int8_t)((uint32_t)a >> i) * (int8_t)((uint32_t)b >> i);
    }
    return acc;
}""",
    "kk_lookup_low": """static inline int32_t kk_lookup_low(
    const int32_t *table, int32_t word, int32_t acc, int nibble)
{
    for (int i = 0; i < 32; i += 8) {
        acc += (uint8_t)((uint32_t)table[(uint32_t)word >> (i + nibble) & 15] >> i);
    }
    return acc;
}""",
    "kk_lookup_high": """static inline int32_t kk_lookup_high(
    const int32_t *table, int32_t word, int32_t acc, int nibble)
{
    for (int i = 0; i < 32; i += 8) {
        acc += (int8_t)((uint32_t)table[(uint32_t)word >> (i + nibble) & 15] >> i);
    }
    return acc;
}""",
    "kk_dot_bf16": """static inline float kk_dot_bf16(int32_t a, int32_t b, float acc)
{
    acc += kk_f32_from_bf16((uint16_t)((uint32_t)a >> 16))
         * kk_f32_from_bf16((uint16_t)((uint32_t)b >> 16));
    return acc + kk_f32_from_bf16((uint16_t)a) * kk_f32_from_bf16((uint16_t)b);
}""",
    # Memory is asked for in groups of pages: a line of each page, then the next line of each. So
    # each page is a stream of its own to the CPU. A group is asked for while the last one is read.
    "kk_pages_ahead": """static inline const char *kk_pages_ahead(
    const void *data, uint64_t line, uint64_t pages)
{
    const uint64_t at = (uint64_t)data / 64 + line, lines = 64 * pages;
    return (const char *)((at / lines + 1) * lines * 64 + at % lines / pages * 64);
}""",
    "kk_prefetch_pages": """static inline const char *kk_prefetch_pages(
    const char *next, int64_t lines, int64_t pages)
{
    for (int64_t i = 0; i < lines; i++) {
#pragma GCC unroll 16
        for (int64_t page = 0; page < pages; page++) {
            __builtin_prefetch(next + page * 4096, 0, 2);
        }
        next += 64;
        next += (uint64_t)next % 4096 == 0 ? (pages - 1) * 4096 : 0;
    }
    return next;
}""",
    "kk_round_f32_u8": """static inline uint8_t kk_round_f32_u8(float x)
{
    const float nearest = rintf(x);
    return (uint8_t)(nearest < 0.0f ? 0.0f : nearest > 255.0f ? 255.0f : nearest);
}""",
    "kk_round_f32_i8": """static inline int8_t kk_round_f32_i8(float x)
{
    const float nearest = rintf(x);
    return (int8_t)(nearest < -128.0f ? -128.0f : nearest > 127.0f ? 127.0f : nearest);
}""",
}


def prelude(code: str, machine: TargetMachine) -> str:
    """Headers, types and helpers for exactly what the code uses."""
    helpers = _helpers(code, machine)
    everything = "\n".join([*helpers, code])
    types = _vector_types(everything)
    headers = _headers(everything, machine)
    parts = ["\n".join(f"#include <{name}>" for name in headers), *types, *helpers]
    return "\n\n".join(part for part in parts if part) + "\n"


def _headers(code: str, machine: TargetMachine) -> list[str]:
    found = [name for name, pattern in _HEADERS.items() if pattern.search(code)]
    if _MATH.search(code):
        found.append("math.h")
    if _VECTOR.search(code) or _INTRINSIC.search(code):
        found.extend(machine.description.headers)
    return sorted(["stdint.h", *found])


def _vector_types(code: str) -> list[str]:
    """One typedef each; the `_u` types may stand anywhere in memory."""
    lines = []
    for name, short, lanes, unaligned in sorted(
        {(m.group(0), m.group(1), int(m.group(2)), m.group(3)) for m in _VECTOR.finditer(code)}
    ):
        element = c_name(short)
        attributes = f"vector_size({lanes} * sizeof({element}))"
        if unaligned:
            attributes += f", aligned(sizeof({element})), may_alias"
        lines.append(f"typedef {element} {name} __attribute__(({attributes}));")
    return ["\n".join(lines)] if lines else []


def _helpers(code: str, machine: TargetMachine) -> list[str]:
    texts = _TEXTS | dict(machine.description.helpers)
    used = _closure(code, texts)
    found = [text for name, text in texts.items() if name in used]
    matches = {m.group(0): m for m in _HELPER.finditer(code)}
    found += [_helper(m.group(1), m.group(2), machine) for _, m in sorted(matches.items())]
    matches = {m.group(0): m for m in _BITS.finditer(code)}
    found += [_bits(m.group(1), m.group(2)) for _, m in sorted(matches.items())]
    return found


def _closure(code: str, texts: dict[str, str]) -> set[str]:
    """The helpers that the code calls, and those that these call."""
    called = {name for name in texts if re.search(rf"\b{name}\(", code)}
    inner = {n for c in called for n in texts if n != c and re.search(rf"\b{n}\(", texts[c])}
    return called | inner


def _helper(name: str, short: str, machine: TargetMachine) -> str:
    type_ = c_name(short)
    if name == "fma":
        return _fma(type_, short, machine)
    parameters = f"{type_} a" if name == "abs" else f"{type_} a, {type_} b"
    return f"static inline {type_} kk_{name}_{short}({parameters})\n{{\n    {_BODIES[name]}\n}}"


def _fma(type_: str, short: str, machine: TargetMachine) -> str:
    """One rounding where the CPU has the instruction; without it fma() is slow, so two.

    An entry of the instruction table that is made of operators is no such instruction.
    """
    function = "fma" if short == "f64" else "fmaf"
    fused = "*" not in machine.instructions.get("fma.f32", "*")
    value = f"{function}(a, b, c)" if fused else "a * b + c"
    return (
        f"static inline {type_} kk_fma_{short}({type_} a, {type_} b, {type_} c)\n"
        f"{{\n    return {value};\n}}"
    )


def _bits(source: str, target: str) -> str:
    return (
        f"static inline {c_name(target)} kk_bits_{source}_{target}({c_name(source)} x)\n"
        f"{{\n    {c_name(target)} result;\n    memcpy(&result, &x, sizeof result);\n"
        "    return result;\n}"
    )
