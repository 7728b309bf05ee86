/* Which instructions this CPU has and its system lets programs use, by the names of Linux's
 * /proc/cpuinfo.
 *
 * A translation unit of its own, built for the baseline, so that the check itself cannot fault.
 */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "kaoken_runtime.h"

#include <string.h>

typedef struct feature {
    const char *name;
    unsigned leaf, subleaf; /* x86: of cpuid; elsewhere: which word of the system's list */
    unsigned word;          /* x86: eax 0, ebx 1, ecx 2, edx 3 */
    unsigned bit;
    unsigned state; /* x86: the register state in XCR0 that the system must save */
} feature;

#if defined(__x86_64__)
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum { EAX, EBX, ECX, EDX };
enum { YMM = 0x6, ZMM = 0xe6, TILE = 0x60000 };

static const feature FEATURES[] = {
    {"pni", 1, 0, ECX, 0, 0},
    {"ssse3", 1, 0, ECX, 9, 0},
    {"fma", 1, 0, ECX, 12, YMM},
    {"cx16", 1, 0, ECX, 13, 0},
    {"sse4_1", 1, 0, ECX, 19, 0},
    {"sse4_2", 1, 0, ECX, 20, 0},
    {"movbe", 1, 0, ECX, 22, 0},
    {"popcnt", 1, 0, ECX, 23, 0},
    {"avx", 1, 0, ECX, 28, YMM},
    {"f16c", 1, 0, ECX, 29, YMM},
    {"bmi1", 7, 0, EBX, 3, 0},
    {"avx2", 7, 0, EBX, 5, YMM},
    {"bmi2", 7, 0, EBX, 8, 0},
    {"avx512f", 7, 0, EBX, 16, ZMM},
    {"avx512dq", 7, 0, EBX, 17, ZMM},
    {"avx512ifma", 7, 0, EBX, 21, ZMM},
    {"avx512cd", 7, 0, EBX, 28, ZMM},
    {"avx512bw", 7, 0, EBX, 30, ZMM},
    {"avx512vl", 7, 0, EBX, 31, ZMM},
    {"avx512vbmi", 7, 0, ECX, 1, ZMM},
    {"avx512_vbmi2", 7, 0, ECX, 6, ZMM},
    {"gfni", 7, 0, ECX, 8, 0},
    {"avx512_vnni", 7, 0, ECX, 11, ZMM},
    {"avx512_bitalg", 7, 0, ECX, 12, ZMM},
    {"avx512_vpopcntdq", 7, 0, ECX, 14, ZMM},
    {"amx_bf16", 7, 0, EDX, 22, TILE},
    {"avx512_fp16", 7, 0, EDX, 23, ZMM},
    {"amx_tile", 7, 0, EDX, 24, TILE},
    {"amx_int8", 7, 0, EDX, 25, TILE},
    {"avx_vnni", 7, 1, EAX, 4, YMM},
    {"avx512_bf16", 7, 1, EAX, 5, ZMM},
    {"avx_vnni_int8", 7, 1, EDX, 4, YMM},
    {"abm", 0x80000001u, 0, ECX, 5, 0},
};

/* The register states that the system saves, or 0 where it saves none. */
static unsigned saved_states(void) {
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

/* Linux lets a process use tile registers when it has asked, once for all its threads. */
static int may_use(unsigned state) {
#ifdef __linux__
    enum { REQUEST_STATE = 0x1023, TILE_DATA = 18 };
    if (state & TILE)
        return syscall(SYS_arch_prctl, REQUEST_STATE, TILE_DATA) == 0;
#endif
    return !(state & TILE);
}

static int has(const feature *f) {
    unsigned words[4];
    if (!__get_cpuid_count(f->leaf, f->subleaf, &words[0], &words[1], &words[2], &words[3]))
        return 0;
    if (!(words[f->word] >> f->bit & 1) || (saved_states() & f->state) != f->state)
        return 0;
    return may_use(f->state);
}

#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

#ifndef AT_HWCAP2
#define AT_HWCAP2 26
#endif

static const feature FEATURES[] = {
    {"fp", 0, 0, 0, 0, 0},       {"asimd", 0, 0, 0, 1, 0},   {"crc32", 0, 0, 0, 7, 0},
    {"atomics", 0, 0, 0, 8, 0},  {"fphp", 0, 0, 0, 9, 0},    {"asimdhp", 0, 0, 0, 10, 0},
    {"asimddp", 0, 0, 0, 20, 0}, {"sve", 0, 0, 0, 22, 0},    {"sve2", 1, 0, 0, 1, 0},
    {"i8mm", 1, 0, 0, 13, 0},    {"bf16", 1, 0, 0, 14, 0},
};

static int has(const feature *f) {
    return getauxval(f->leaf == 0 ? AT_HWCAP : AT_HWCAP2) >> f->bit & 1;
}

#else

/* No way to ask that all such systems share: NEON is part of every 64-bit ARM. */
static const feature FEATURES[] = {{"asimd", 0, 0, 0, 0, 0}};

static int has(const feature *f) {
    (void)f;
#if defined(__aarch64__)
    return 1;
#else
    return 0;
#endif
}
#endif

static int supports(const char *name, size_t length) {
    for (size_t i = 0; i < sizeof FEATURES / sizeof *FEATURES; i++)
        if (strlen(FEATURES[i].name) == length && memcmp(FEATURES[i].name, name, length) == 0)
            return has(&FEATURES[i]);
    return 0;
}

/* Appends name to text, after a space unless it is the first; what does not fit is left out. */
static void append(char *text, size_t size, const char *name, size_t length) {
    size_t used = strlen(text);
    size_t gap = used > 0;
    if (used + gap + length + 1 > size)
        return;
    if (gap)
        text[used] = ' ';
    memcpy(text + used + gap, name, length);
    text[used + gap + length] = '\0';
}

int kk_cpu_has(const char *features, char *missing, size_t missing_size) {
    missing[0] = '\0';
    while (*features) {
        size_t length = strcspn(features, " ");
        if (length > 0 && !supports(features, length))
            append(missing, missing_size, features, length);
        features += length;
        features += strspn(features, " ");
    }
    return missing[0] == '\0';
}
