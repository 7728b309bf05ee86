"""aarch64-neon: NEON as every 64-bit ARM has it, 32 registers of 4 floats."""

from kaoken.backend.targets.base import Feature, TargetDescription

_ORDERED = {"oeq": "==", "olt": "<", "ole": "<=", "ogt": ">", "oge": ">=", "une": "!="}
_OPPOSITE = {"ult": ">=", "ule": ">", "ugt": "<=", "uge": "<"}
"""What is true of unordered operands too: whatever its opposite is not."""
_INTEGERS = {"eq": "==", "ne": "!=", "slt": "<", "sle": "<=", "sgt": ">", "sge": ">="}
_LESS_OR_MORE = "(({0!u} < {1!u}) | ({0!u} > {1!u}))"
_NOT_NAN = "(({0!u} == {0!u}) & ({1!u} == {1!u}))"

_INSTRUCTIONS = {
    "load.f32": "vld1q_f32({0})",
    "store.f32": "vst1q_f32({0}, {1});",
    "keep_first.f32": "vbslq_f32((uint32x4_t){first}, {0}, {1})",
    "splat.f32": "vdupq_n_f32({0})",
    "splat.i32": "vdupq_n_s32({0})",
    "fma.f32": "vfmaq_f32({2}, {0}, {1})",
    "max.f32": "vmaxq_f32({0}, {1})",
    "min.f32": "vminq_f32({0}, {1})",
    "sqrt.f32": "vsqrtq_f32({0})",
    "rsqrt.f32": "vdivq_f32(vdupq_n_f32(1.0f), vsqrtq_f32({0}))",
    "abs.f32": "vabsq_f32({0})",
    "round_even.f32": "vrndnq_f32({0})",
    "floor.f32": "vrndmq_f32({0})",
    "ceil.f32": "vrndpq_f32({0})",
    "trunc.f32": "vrndq_f32({0})",
    "smax.i32": "vmaxq_s32({0}, {1})",
    "smin.i32": "vminq_s32({0}, {1})",
    **{f"{name}.f32": f"(kk_i32x4)({{0!u}} {c} {{1!u}})" for name, c in _ORDERED.items()},
    **{f"{name}.f32": f"~(kk_i32x4)({{0!u}} {c} {{1!u}})" for name, c in _OPPOSITE.items()},
    **{f"{name}.i32": f"(kk_i32x4)({{0!u}} {c} {{1!u}})" for name, c in _INTEGERS.items()},
    "one.f32": f"(kk_i32x4){_LESS_OR_MORE}",
    "ueq.f32": f"~(kk_i32x4){_LESS_OR_MORE}",
    "ord.f32": f"(kk_i32x4){_NOT_NAN}",
    "uno.f32": f"~(kk_i32x4){_NOT_NAN}",
    "select.f32": "vbslq_f32((uint32x4_t){0!u}, {1}, {2})",
    "select.i32": "vbslq_s32((uint32x4_t){0!u}, {1}, {2})",
    "select.i1": "vbslq_s32((uint32x4_t){0!u}, {1}, {2})",
    "zero_extend.i1.i32": "-{0!u}",
    "convert.i32.f32": "vcvtq_f32_s32({0})",
    "convert.f32.i32": "vcvtq_s32_f32({0})",
    "round.f32.u8": "kk_round_u8x4({0})",
    "round.f32.i8": "kk_round_i8x4({0})",
    "dot.ui8_i8": "kk_dot_ui8_i8x4({0}, {1}, {2})",
    "dot.ui8_i7": "kk_dot_ui8_i8x4({0}, {1}, {2})",
    "dot.ui7_i8": "kk_dot_ui7_i8x4({0}, {1}, {2})",
    "dot.bf16": "kk_dot_bf16x4({0}, {1}, {2})",
    "convert.f16.f32": "vcvt_f32_f16((float16x4_t){0!u})",
    "splat.i1": "vdupq_n_s32(-({0!u}))",
    "lane.i1": "{0!u}[{1}] != 0",
    "set.i1": "{0}[{1}] = -({2!u});",
    "sum.f32": "vaddvq_f32({0})",
    "max_of.f32": "vmaxvq_f32({0})",
    "min_of.f32": "vminvq_f32({0})",
}

_SDOT = "vdotq_s32({2}, vreinterpretq_s8_s32({0}), vreinterpretq_s8_s32({1}))"
_USDOT = "vusdotq_s32({2}, vreinterpretq_u8_s32({0}), vreinterpretq_s8_s32({1}))"
_I8MM = {"dot.ui7_i8": _SDOT, "dot.ui8_i8": _USDOT, "dot.ui8_i7": _USDOT}
_HELPERS = {
    # Products of 16 bits in 32; then the sums of two pairs, each the sum of two products.
    "kk_dot_ui8_i8x4": """static inline kk_i32x4 kk_dot_ui8_i8x4(
    kk_i32x4 a, kk_i32x4 b, kk_i32x4 acc)
{
    const uint8x16_t u = vreinterpretq_u8_s32(a);
    const int8x16_t s = vreinterpretq_s8_s32(b);
    const int16x8_t u0 = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(u)));
    const int16x8_t u1 = vreinterpretq_s16_u16(vmovl_high_u8(u));
    const int16x8_t s0 = vmovl_s8(vget_low_s8(s));
    const int16x8_t s1 = vmovl_high_s8(s);
    const int32x4_t p0 = vmull_s16(vget_low_s16(u0), vget_low_s16(s0));
    const int32x4_t p1 = vmull_s16(vget_low_s16(u1), vget_low_s16(s1));
    const int32x4_t pairs0 = vpaddq_s32(p0, vmull_high_s16(u0, s0));
    const int32x4_t pairs1 = vpaddq_s32(p1, vmull_high_s16(u1, s1));
    return acc + vpaddq_s32(pairs0, pairs1);
}""",
    # Two products are 2 * 127 * 127 = 32258 at most, and fit 16 bits.
    "kk_dot_ui7_i8x4": """static inline kk_i32x4 kk_dot_ui7_i8x4(
    kk_i32x4 a, kk_i32x4 b, kk_i32x4 acc)
{
    const int8x16_t u = vreinterpretq_s8_s32(a), s = vreinterpretq_s8_s32(b);
    const int16x8_t low = vmull_s8(vget_low_s8(u), vget_low_s8(s));
    const int16x8_t pairs = vpaddq_s16(low, vmull_high_s8(u, s));
    return vpadalq_s16(acc, pairs);
}""",
    "kk_dot_bf16x4": """static inline kk_f32x4 kk_dot_bf16x4(kk_i32x4 a, kk_i32x4 b, kk_f32x4 acc)
{
    const kk_i32x4 high = vdupq_n_s32(-65536);
    const kk_f32x4 sum = vfmaq_f32(acc, (kk_f32x4)(high & a), (kk_f32x4)(high & b));
    return vfmaq_f32(sum, (kk_f32x4)(a << 16), (kk_f32x4)(b << 16));
}""",
    "kk_round_u8x4": """static inline kk_u8x4 kk_round_u8x4(kk_f32x4 x)
{
    const uint32x4_t nearest = vminq_u32(vcvtnq_u32_f32(x), vdupq_n_u32(255));
    return __builtin_convertvector(nearest, kk_u8x4);
}""",
    "kk_round_i8x4": """static inline kk_i8x4 kk_round_i8x4(kk_f32x4 x)
{
    const int32x4_t low = vmaxq_s32(vcvtnq_s32_f32(x), vdupq_n_s32(-128));
    return __builtin_convertvector(vminq_s32(low, vdupq_n_s32(127)), kk_i8x4);
}""",
}

TARGET = TargetDescription(
    name="aarch64-neon",
    rank=1,
    architecture="aarch64",
    vector_bytes=16,
    vector_registers=32,
    cpu_flags=("asimd",),
    compiler_flags={"gcc": ("-march=armv8-a",), "clang": ("-march=armv8-a",)},
    features={
        "dotprod": Feature(
            ("atomics", "crc32", "asimddp"),
            ("-march=armv8.2-a+dotprod",),
            {"dot.ui7_i8": _SDOT},
        ),
        "i8mm": Feature(
            ("atomics", "crc32", "asimddp", "i8mm"), ("-march=armv8.2-a+dotprod+i8mm",), _I8MM
        ),
    },
    headers=("arm_neon.h",),
    mask_type="kk_i32x4",
    instructions=_INSTRUCTIONS,
    helpers=_HELPERS,
    l1_bytes=32 << 10,
    l2_bytes=512 << 10,
    l3_bytes=4 << 20,
)
