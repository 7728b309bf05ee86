"""x86-64-v4: AVX-512 (F, BW, CD, DQ, VL), 32 registers of 16 floats, masks in registers."""

import ctypes
import sys
from pathlib import Path

from kaoken.backend.targets.base import Feature, MatrixUnit, TargetDescription
from kaoken.backend.targets.x86_64_v3 import CPU_FLAGS

_F32_COMPARISONS = {
    "oeq": "EQ_OQ",
    "olt": "LT_OQ",
    "ole": "LE_OQ",
    "ogt": "GT_OQ",
    "oge": "GE_OQ",
    "one": "NEQ_OQ",
    "ord": "ORD_Q",
    "une": "NEQ_UQ",
    "ueq": "EQ_UQ",
    "ult": "NGE_UQ",
    "ule": "NGT_UQ",
    "ugt": "NLE_UQ",
    "uge": "NLT_UQ",
    "uno": "UNORD_Q",
}
_I32_COMPARISONS = {
    "eq": ("epi32", "EQ"),
    "ne": ("epi32", "NE"),
    "slt": ("epi32", "LT"),
    "sle": ("epi32", "LE"),
    "sgt": ("epi32", "NLE"),
    "sge": ("epi32", "NLT"),
    "ult": ("epu32", "LT"),
    "ule": ("epu32", "LE"),
    "ugt": ("epu32", "NLE"),
    "uge": ("epu32", "NLT"),
}
_ROUND = "_mm512_roundscale_ps({{0}}, _MM_FROUND_{} | _MM_FROUND_NO_EXC)"

_INSTRUCTIONS = {
    "load.f32": "_mm512_loadu_ps({0})",
    "load.i1": "_mm_test_epi8_mask(_mm_loadu_si128((const __m128i *){0}), _mm_set1_epi8(1))",
    "store.f32": "_mm512_storeu_ps({0}, {1});",
    "load_first.f32": "_mm512_maskz_loadu_ps({bits}, {0})",
    "store_first.f32": "_mm512_mask_storeu_ps({0}, {bits}, {1});",
    "keep_first.f32": "_mm512_mask_blend_ps({bits}, {1}, {0})",
    "splat.f32": "_mm512_set1_ps({0})",
    "splat.i32": "(kk_i32x16)_mm512_set1_epi32({0})",
    "fma.f32": "_mm512_fmadd_ps({0}, {1}, {2})",
    "max.f32": "_mm512_max_ps({0}, {1})",
    "min.f32": "_mm512_min_ps({0}, {1})",
    "sqrt.f32": "_mm512_sqrt_ps({0})",
    "rsqrt.f32": "_mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_sqrt_ps({0}))",
    "abs.f32": "_mm512_abs_ps({0})",
    "round_even.f32": _ROUND.format("TO_NEAREST_INT"),
    "floor.f32": _ROUND.format("TO_NEG_INF"),
    "ceil.f32": _ROUND.format("TO_POS_INF"),
    "trunc.f32": _ROUND.format("TO_ZERO"),
    "smax.i32": "(kk_i32x16)_mm512_max_epi32((__m512i){0!u}, (__m512i){1!u})",
    "smin.i32": "(kk_i32x16)_mm512_min_epi32((__m512i){0!u}, (__m512i){1!u})",
    **{
        f"{name}.f32": f"_mm512_cmp_ps_mask({{0}}, {{1}}, _CMP_{code})"
        for name, code in _F32_COMPARISONS.items()
    },
    **{
        f"{name}.i32": f"_mm512_cmp_{kind}_mask((__m512i){{0!u}}, (__m512i){{1!u}}, "
        f"_MM_CMPINT_{code})"
        for name, (kind, code) in _I32_COMPARISONS.items()
    },
    "select.f32": "_mm512_mask_blend_ps({0}, {2}, {1})",
    "select.i32": "(kk_i32x16)_mm512_mask_blend_epi32({0}, (__m512i){2!u}, (__m512i){1!u})",
    "select.i1": "({0!u} & {1!u}) | (~{0!u} & {2!u})",
    "zero_extend.i1.i32": "(kk_i32x16)_mm512_maskz_set1_epi32({0}, 1)",
    "convert.i32.f32": "_mm512_cvtepi32_ps((__m512i){0!u})",
    "convert.i8.f32": "_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i){0!u}))",
    "convert.bf16.f32": "(kk_f32x16)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i){0!u}), 16)",
    "convert.u8.f32": "_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32((__m128i){0!u}))",
    "convert.f32.i32": "(kk_i32x16)_mm512_cvttps_epi32({0})",
    "convert.f32.bf16": "kk_bf16_from_f32x16({0})",
    "round.f32.u8": "(kk_u8x16)_mm512_cvtusepi32_epi8("
    "_mm512_max_epi32(_mm512_cvtps_epi32({0}), _mm512_setzero_si512()))",
    "round.f32.i8": "(kk_i8x16)_mm512_cvtsepi32_epi8(_mm512_cvtps_epi32({0}))",
    "dot.ui8_i8": "kk_dot_ui8_i8x16({0}, {1}, {2})",
    "dot.ui8_i7": "kk_dot_pairs_x16({0}, {1}, {2})",
    "dot.ui7_i8": "kk_dot_pairs_x16({0}, {1}, {2})",
    "dot.bf16": "kk_dot_bf16x16({0}, {1}, {2})",
    "convert.f16.f32": "_mm512_cvtph_ps((__m256i){0!u})",
    "splat.i1": "(__mmask16)-({0!u})",
    "lane.i1": "({0!u} >> {1} & 1) != 0",
    "set.i1": "{0} |= (__mmask16)({2!u} << {1});",
    "sum.f32": "_mm512_reduce_add_ps({0})",
    "max_of.f32": "_mm512_reduce_max_ps({0})",
    "min_of.f32": "_mm512_reduce_min_ps({0})",
}

_DPBUSD = "(kk_i32x16)_mm512_dpbusd_epi32((__m512i){2!u}, (__m512i){0!u}, (__m512i){1!u})"
_DOTS = ("dot.ui8_i8", "dot.ui8_i7", "dot.ui7_i8")
_VNNI = Feature(
    ("avx512_vnni",),
    ("-mavx512vnni",),
    dict.fromkeys(_DOTS, _DPBUSD),
    costs=dict.fromkeys(_DOTS, 1.0),
)
_VBMI = {
    f"lookup.{part}.{nibble}": f"kk_lookup_{part}_x16(&{{0}}[{{1}}], {{2}}, {{3}}, {nibble})"
    for part in ("low", "high")
    for nibble in (0, 1)
}
_BF16 = {
    "dot.bf16": "_mm512_dpbf16_ps({2}, (__m512bh){0!u}, (__m512bh){1!u})",
    "convert.f32.bf16": "(kk_bf16x16)_mm512_cvtneps_pbh({0})",
}
# Tiles 0 to 3 hold sums, 2 x 2; 4 and 5 rows of the left factor, 6 and 7 columns of the right one.
_AMX = {
    "tile.begin": "int64_t kk_shape = 0;",
    "tile.shape": "kk_shape = kk_shape_tiles(kk_shape, {rows}, {columns}, {depth});",
    "tile.end": "_tile_release();",
    "tile.zero": "_tile_zero({0});",
    "tile.load": "_tile_loadd({0}, {1}, {2});",
    "tile.store": "_tile_stored({0}, {1}, {2});",
    "tile.dot.bf16": "_tile_dpbf16ps({0}, {1}, {2});",
    "tile.dot.ui8_i8": "_tile_dpbusd({0}, {1}, {2});",
    "tile.dot.ui8_i7": "_tile_dpbusd({0}, {1}, {2});",
    "tile.dot.i8_i8": "_tile_dpbssd({0}, {1}, {2});",
}
# vpermb looks up in 64 bytes: those of a nibble's 16 values, for each byte of a word.
_LOOKUP = """static inline kk_i32x16 kk_lookup_{part}_x16(
    const int32_t *table, kk_i32x16 word, kk_i32x16 acc, int nibble)
{{
    const __m512i four = _mm512_set1_epi32(0x3c3c3c3c), place = _mm512_set1_epi32(0x03020100);
    const __m512i moved = nibble ? _mm512_srli_epi32((__m512i)word, 2)
                                 : _mm512_slli_epi32((__m512i)word, 2);
    const __m512i at = _mm512_ternarylogic_epi32(moved, four, place, 0xea);
    const __m512i bytes = _mm512_permutexvar_epi8(at, _mm512_loadu_si512(table));
    const __m512i ones = _mm512_set1_epi8(1);
#ifdef __AVX512VNNI__
    return (kk_i32x16)_mm512_dpbusd_epi32((__m512i)acc, {order});
#else
    const __m512i pairs = _mm512_maddubs_epi16({order});
    return acc + (kk_i32x16)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#endif
}}"""
_HELPERS = {
    "kk_lookup_low_x16": _LOOKUP.format(part="low", order="bytes, ones"),
    "kk_lookup_high_x16": _LOOKUP.format(part="high", order="ones, bytes"),
    # Shapes are loaded only when they change, since that takes long. GCC's intrinsics do not say
    # what memory they read: the barriers do.
    "kk_shape_tiles": """static inline int64_t kk_shape_tiles(
    int64_t now, int64_t rows, int64_t columns, int64_t depth)
{
    const int64_t wanted = rows << 32 | columns << 16 | depth;
    if (wanted != now) {
        struct {
            uint8_t palette, start_row, unused[14];
            uint16_t row_bytes[16];
            uint8_t rows[16];
        } shapes = {.palette = 1};
        const int64_t up = rows < 16 ? rows : 16, down = rows > 16 ? rows - 16 : 1;
        const int64_t left = columns < 16 ? columns : 16, right = columns > 16 ? columns - 16 : 1;
        for (int i = 0; i < 8; i++) {
            shapes.row_bytes[i] = (uint16_t)(4 * (i == 4 || i == 5 ? depth : i & 1 ? right : left));
            shapes.rows[i] = (uint8_t)(i >= 6 ? depth : i == 2 || i == 3 || i == 5 ? down : up);
        }
        __asm__ volatile("" : : "r"(&shapes) : "memory");
        _tile_loadconfig(&shapes);
    }
    __asm__ volatile("" : : : "memory");
    return wanted;
}""",
    # Even and odd bytes apart: a product of ui8 and i8 fits 16 bits, a sum of two need not.
    "kk_dot_ui8_i8x16": """static inline kk_i32x16 kk_dot_ui8_i8x16(
    kk_i32x16 a, kk_i32x16 b, kk_i32x16 acc)
{
    const __m512i even = _mm512_and_si512((__m512i)a, _mm512_set1_epi16(0xff));
    const __m512i odd = _mm512_srli_epi16((__m512i)a, 8);
    const __m512i even_b = _mm512_srai_epi16(_mm512_slli_epi16((__m512i)b, 8), 8);
    const __m512i odd_b = _mm512_srai_epi16((__m512i)b, 8);
    const kk_i32x16 sum = (kk_i32x16)_mm512_madd_epi16(even, even_b);
    return acc + sum + (kk_i32x16)_mm512_madd_epi16(odd, odd_b);
}""",
    # Two products are 2 * 127 * 127 = 32258 or 2 * 255 * 64 = 32640 at most: vpmaddubsw never
    # saturates.
    "kk_dot_pairs_x16": """static inline kk_i32x16 kk_dot_pairs_x16(
    kk_i32x16 a, kk_i32x16 b, kk_i32x16 acc)
{
    const __m512i pairs = _mm512_maddubs_epi16((__m512i)a, (__m512i)b);
    return acc + (kk_i32x16)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
}""",
    "kk_dot_bf16x16": """static inline kk_f32x16 kk_dot_bf16x16(
    kk_i32x16 a, kk_i32x16 b, kk_f32x16 acc)
{
    const kk_i32x16 high = (kk_i32x16)_mm512_set1_epi32(-65536);
    const kk_f32x16 sum = _mm512_fmadd_ps((kk_f32x16)(high & a), (kk_f32x16)(high & b), acc);
    return _mm512_fmadd_ps((kk_f32x16)(a << 16), (kk_f32x16)(b << 16), sum);
}""",
    "kk_bf16_from_f32x16": """static inline kk_bf16x16 kk_bf16_from_f32x16(kk_f32x16 x)
{
    const kk_i32x16 bits = (kk_i32x16)x;
    const kk_u32x16 rounded = (kk_u32x16)(bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return __builtin_convertvector(rounded, kk_bf16x16);
}""",
}

_ARCH_PRCTL, _REQUEST_STATE, _TILE_DATA = 158, 0x1023, 18


def _is_intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _tiles_are_granted() -> bool:
    """Whether Linux lets this process, which must ask, keep data in tile registers."""
    if sys.platform != "linux":
        return False
    request = [ctypes.c_long(n) for n in (_ARCH_PRCTL, _REQUEST_STATE, _TILE_DATA)]
    return ctypes.CDLL(None).syscall(*request) == 0


TARGET = TargetDescription(
    name="x86-64-v4",
    rank=4,
    architecture="x86_64",
    vector_bytes=64,
    vector_registers=32,
    cpu_flags=(*CPU_FLAGS, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
    compiler_flags={
        "gcc": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
        "clang": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
        "zig": ("-march=x86_64_v4", "-mprefer-vector-width=512"),
    },
    features={
        "vnni": _VNNI,
        "bf16": Feature(("avx512_bf16",), ("-mavx512bf16",), _BF16, costs={"dot.bf16": 1.0}),
        # Zen 4 begins a vdpbf16ps as often as an fma, a Sapphire Rapids a quarter as often.
        "slow-bf16": Feature(
            ("avx512_bf16",),
            (),
            costs={"dot.bf16": 4.0},
            suits=lambda: _is_intel() and not _tiles_are_granted(),
        ),
        "vbmi": Feature(("avx512vbmi",), ("-mavx512vbmi",), _VBMI),
        "amx": Feature(
            ("amx_tile", "amx_bf16", "amx_int8"),
            ("-mamx-tile", "-mamx-bf16", "-mamx-int8"),
            _AMX,
            MatrixUnit(rows=16, columns=16, depth=16, block=(2, 2)),
            _tiles_are_granted,
        ),
    },
    headers=("immintrin.h",),
    mask_type="__mmask16",
    instructions=_INSTRUCTIONS,
    helpers=_HELPERS,
    # Of bytes by instructions, two of which begin in a cycle: four and the splitting, or three.
    costs={"dot.bf16": 3.0, "dot.ui8_i8": 5.0, "dot.ui8_i7": 3.0, "dot.ui7_i8": 3.0},
    l1_bytes=32 << 10,
    l2_bytes=1 << 20,
    l3_bytes=32 << 20,
)
