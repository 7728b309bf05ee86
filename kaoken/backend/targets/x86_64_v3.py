"""x86-64-v3: AVX2 and FMA, 16 registers of 8 floats."""

from kaoken.backend.targets.base import Feature, TargetDescription

_INSTRUCTIONS = {
    "load.f32": "_mm256_loadu_ps({0})",
    "load.i1": "-(kk_i32x8)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *){0}))",
    "store.f32": "_mm256_storeu_ps({0}, {1});",
    "load_first.f32": "_mm256_maskload_ps({0}, (__m256i){first})",
    "store_first.f32": "_mm256_maskstore_ps({0}, (__m256i){first}, {1});",
    "keep_first.f32": "_mm256_blendv_ps({1}, {0}, (__m256){first})",
    "splat.f32": "_mm256_set1_ps({0})",
    "splat.i32": "(kk_i32x8)_mm256_set1_epi32({0})",
    "fma.f32": "_mm256_fmadd_ps({0}, {1}, {2})",
    "max.f32": "_mm256_max_ps({0}, {1})",
    "min.f32": "_mm256_min_ps({0}, {1})",
    "sqrt.f32": "_mm256_sqrt_ps({0})",
    "rsqrt.f32": "_mm256_div_ps(_mm256_set1_ps(1.0f), _mm256_sqrt_ps({0}))",
    "abs.f32": "_mm256_andnot_ps(_mm256_set1_ps(-0.0f), {0})",
    "round_even.f32": "_mm256_round_ps({0}, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)",
    "floor.f32": "_mm256_floor_ps({0})",
    "ceil.f32": "_mm256_ceil_ps({0})",
    "trunc.f32": "_mm256_round_ps({0}, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC)",
    "smax.i32": "(kk_i32x8)_mm256_max_epi32((__m256i){0!u}, (__m256i){1!u})",
    "smin.i32": "(kk_i32x8)_mm256_min_epi32((__m256i){0!u}, (__m256i){1!u})",
    **{
        f"{name}.f32": f"(kk_i32x8)_mm256_cmp_ps({{0}}, {{1}}, _CMP_{code})"
        for name, code in [
            ("oeq", "EQ_OQ"),
            ("olt", "LT_OQ"),
            ("ole", "LE_OQ"),
            ("ogt", "GT_OQ"),
            ("oge", "GE_OQ"),
            ("one", "NEQ_OQ"),
            ("ord", "ORD_Q"),
            ("une", "NEQ_UQ"),
            ("ueq", "EQ_UQ"),
            ("ult", "NGE_UQ"),
            ("ule", "NGT_UQ"),
            ("ugt", "NLE_UQ"),
            ("uge", "NLT_UQ"),
            ("uno", "UNORD_Q"),
        ]
    },
    **{
        f"{name}.i32": f"(kk_i32x8)({{0!u}} {operator} {{1!u}})"
        for name, operator in [
            ("eq", "=="),
            ("ne", "!="),
            ("slt", "<"),
            ("sle", "<="),
            ("sgt", ">"),
            ("sge", ">="),
        ]
    },
    "select.f32": "_mm256_blendv_ps({2}, {1}, (__m256){0!u})",
    "select.i32": "(kk_i32x8)_mm256_blendv_epi8((__m256i){2!u}, (__m256i){1!u}, (__m256i){0!u})",
    "select.i1": "{0!u} & {1!u} | ~{0!u} & {2!u}",
    "zero_extend.i1.i32": "-{0!u}",
    "convert.i32.f32": "_mm256_cvtepi32_ps((__m256i){0!u})",
    "convert.i8.f32": "_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32("
    "_mm_cvtsi64_si128((long long){0!u})))",
    "convert.bf16.f32": "(kk_f32x8)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i){0!u}), 16)",
    "convert.u8.f32": "_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32("
    "_mm_cvtsi64_si128((long long){0!u})))",
    "convert.f32.i32": "(kk_i32x8)_mm256_cvttps_epi32({0})",
    "round.f32.u8": "kk_round_u8x8({0})",
    "round.f32.i8": "kk_round_i8x8({0})",
    "dot.ui8_i8": "kk_dot_ui8_i8x8({0}, {1}, {2})",
    "dot.ui8_i7": "kk_dot_pairs_x8({0}, {1}, {2})",
    "dot.ui7_i8": "kk_dot_pairs_x8({0}, {1}, {2})",
    "dot.bf16": "kk_dot_bf16x8({0}, {1}, {2})",
    "convert.f16.f32": "_mm256_cvtph_ps((__m128i){0!u})",
    **{
        f"lookup.{part}.{nibble}": f"kk_lookup_{part}_x8(&{{0}}[{{1}}], {{2}}, {{3}}, {nibble})"
        for part in ("low", "high")
        for nibble in (0, 1)
    },
    "splat.i1": "(kk_i32x8)_mm256_set1_epi32(-({0!u}))",
    "lane.i1": "{0!u}[{1}] != 0",
    "set.i1": "{0}[{1}] = -({2!u});",
    "sum.f32": "kk_sum_f32x8({0})",
    "max_of.f32": "kk_max_of_f32x8({0})",
    "min_of.f32": "kk_min_of_f32x8({0})",
}


def _fold(name: str, operation: str) -> str:
    """A tree over 8 lanes: halves, quarters, pairs."""
    return f"""static inline float {name}(kk_f32x8 v)
{{
    __m128 h = _mm_{operation}_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_{operation}_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_{operation}_ss(h, _mm_movehdup_ps(h)));
}}"""


CPU_FLAGS = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")

_DPBUSD = "(kk_i32x8)_mm256_dpbusd_avx_epi32((__m256i){2!u}, (__m256i){0!u}, (__m256i){1!u})"
_DOTS = ("dot.ui8_i8", "dot.ui8_i7", "dot.ui7_i8")
_AVXVNNI = Feature(
    ("avx_vnni",),
    ("-mavxvnni",),
    dict.fromkeys(_DOTS, _DPBUSD),
    costs=dict.fromkeys(_DOTS, 1.0),
)
# Even and odd bytes apart: a product of ui8 and i8 fits 16 bits, a sum of two need not.
_DOT_UI8_I8 = """static inline kk_i32x8 kk_dot_ui8_i8x8(kk_i32x8 a, kk_i32x8 b, kk_i32x8 acc)
{
    const __m256i even = _mm256_and_si256((__m256i)a, _mm256_set1_epi16(0xff));
    const __m256i odd = _mm256_srli_epi16((__m256i)a, 8);
    const __m256i even_b = _mm256_srai_epi16(_mm256_slli_epi16((__m256i)b, 8), 8);
    const __m256i odd_b = _mm256_srai_epi16((__m256i)b, 8);
    const kk_i32x8 sum = (kk_i32x8)_mm256_madd_epi16(even, even_b);
    return acc + sum + (kk_i32x8)_mm256_madd_epi16(odd, odd_b);
}"""
# Two products are 2 * 127 * 127 = 32258 or 2 * 255 * 64 = 32640 at most: vpmaddubsw never
# saturates.
_DOT_PAIRS = """static inline kk_i32x8 kk_dot_pairs_x8(kk_i32x8 a, kk_i32x8 b, kk_i32x8 acc)
{
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)a, (__m256i)b);
    return acc + (kk_i32x8)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}"""
_DOT_BF16 = """static inline kk_f32x8 kk_dot_bf16x8(kk_i32x8 a, kk_i32x8 b, kk_f32x8 acc)
{
    const kk_i32x8 high = (kk_i32x8)_mm256_set1_epi32(-65536);
    const kk_f32x8 sum = _mm256_fmadd_ps((kk_f32x8)(high & a), (kk_f32x8)(high & b), acc);
    return _mm256_fmadd_ps((kk_f32x8)(a << 16), (kk_f32x8)(b << 16), sum);
}"""

# vpshufb looks up in 16 bytes, four values of a nibble: each quarter of the table gives what is its
# own, and zeros where the highest bit of a place says so.
_LOOKUP = """static inline kk_i32x8 kk_lookup_{part}_x8(
    const int32_t *table, kk_i32x8 word, kk_i32x8 acc, int nibble)
{{
    const __m256i moved = nibble ? _mm256_srli_epi32((__m256i)word, 2)
                                 : _mm256_slli_epi32((__m256i)word, 2);
    const __m256i at = _mm256_or_si256(_mm256_and_si256(moved, _mm256_set1_epi32(0x3c3c3c3c)),
                                       _mm256_set1_epi32(0x03020100));
    __m256i bytes = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) {{
        const __m128i quarter = _mm_loadu_si128((const __m128i *)(table + 4 * i));
        const __m256i place = _mm256_xor_si256(at, _mm256_set1_epi8((char)(i << 4)));
        bytes = _mm256_or_si256(bytes, _mm256_shuffle_epi8(
            _mm256_broadcastsi128_si256(quarter),
            _mm256_add_epi8(place, _mm256_set1_epi8(0x70))));
    }}
    const __m256i ones = _mm256_set1_epi8(1);
    const __m256i pairs = _mm256_maddubs_epi16({order});
    return acc + (kk_i32x8)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}}"""
# Integers of 32 bits to 16, then to 8, saturating; what is beyond 32 bits is taken down before.
_ROUND = """static inline kk_{name}x8 kk_round_{name}x8(kk_f32x8 x)
{{
    const __m256i n = _mm256_cvtps_epi32(_mm256_min_ps(x, _mm256_set1_ps({most})));
    const __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(n), _mm256_extracti128_si256(n, 1));
    return (kk_{name}x8)_mm_cvtsi128_si64({pack}(half, half));
}}"""

TARGET = TargetDescription(
    name="x86-64-v3",
    rank=3,
    architecture="x86_64",
    vector_bytes=32,
    vector_registers=16,
    cpu_flags=CPU_FLAGS,
    compiler_flags={
        "gcc": ("-march=x86-64-v3",),
        "clang": ("-march=x86-64-v3",),
        "zig": ("-march=x86_64_v3",),
    },
    features={"avxvnni": _AVXVNNI},
    headers=("immintrin.h",),
    mask_type="kk_i32x8",
    instructions=_INSTRUCTIONS,
    helpers={
        "kk_dot_ui8_i8x8": _DOT_UI8_I8,
        "kk_dot_pairs_x8": _DOT_PAIRS,
        "kk_dot_bf16x8": _DOT_BF16,
        "kk_round_u8x8": _ROUND.format(name="u8", most="255.0f", pack="_mm_packus_epi16"),
        "kk_round_i8x8": _ROUND.format(name="i8", most="127.0f", pack="_mm_packs_epi16"),
        "kk_lookup_low_x8": _LOOKUP.format(part="low", order="bytes, ones"),
        "kk_lookup_high_x8": _LOOKUP.format(part="high", order="ones, bytes"),
        "kk_sum_f32x8": _fold("kk_sum_f32x8", "add"),
        "kk_max_of_f32x8": _fold("kk_max_of_f32x8", "max"),
        "kk_min_of_f32x8": _fold("kk_min_of_f32x8", "min"),
    },
    # Of bytes as measured in loops on Zen 3, 128 x 768 x 3072.
    costs={"dot.bf16": 3.0, "dot.ui8_i8": 3.4, "dot.ui8_i7": 2.3, "dot.ui7_i8": 2.3},
    # Zen 3 reads memory a fifth slower where code asks for it: its own prefetchers see each line.
    fetches_streams=False,
    l1_bytes=32 << 10,
    l2_bytes=512 << 10,
    l3_bytes=16 << 20,
)
