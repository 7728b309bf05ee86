/* What this CPU can do at most: arithmetic in registers, and reading memory.
 *
 *     probe THREADS SECONDS FILE BYTES...
 *
 * Prints a line for each figure, `name bytes value`: operations a second (an fma counts as 2), or
 * bytes a second of reading BYTES again and again from three kinds of mapping. FILE holds at least
 * as many bytes. Each measurement takes SECONDS; each thread works on its own part.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__linux__) && defined(__AMX_BF16__) && defined(__AMX_INT8__)
#include <sys/syscall.h>
#define TILES
#endif

#if defined(__AVX512F__)
#define REGISTER 64
#elif defined(__AVX2__)
#define REGISTER 32
#else
#define REGISTER 16
#endif
#define CHAINS 12 /* covers latency x ports of an fma, and fits 16 registers */
#define EACH_CHAIN(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7) x(8) x(9) x(10) x(11)
#define STREAMS 8
#define EACH_STREAM(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7)

typedef float floats __attribute__((vector_size(REGISTER)));
typedef int32_t ints __attribute__((vector_size(REGISTER)));

typedef struct task {
    /* Does some work on this thread's part; gives the operations or bytes. */
    double (*work)(const struct task *);
    const unsigned char *data;
    size_t bytes;
    double seconds, rate;
    pthread_barrier_t *start;
} task;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- arithmetic: independent chains, so that no result is waited for ---- */

#define REPEATS 20000

/* The compiler must take the value for used and changed: it can neither drop nor merge chains. */
#define KEEP(value) __asm__ volatile("" : "+x"(value));

#define BEGIN(n) sum##n = a; KEEP(sum##n)
#define STEP(n) sum##n = NEXT(sum##n); KEEP(sum##n)
#define END(n) KEEP(sum##n)

#define ARITHMETIC(name, type, first, operations)                                   \
    static double name(const task *unused)                                          \
    {                                                                               \
        (void)unused;                                                               \
        type a = first, b = first;                                                  \
        type sum0, sum1, sum2, sum3, sum4, sum5, sum6, sum7, sum8, sum9, sum10, sum11; \
        KEEP(a)                                                                     \
        KEEP(b)                                                                     \
        EACH_CHAIN(BEGIN)                                                           \
        for (int i = 0; i < REPEATS; i++) {                                         \
            EACH_CHAIN(STEP)                                                        \
        }                                                                           \
        EACH_CHAIN(END)                                                             \
        return (double)REPEATS * CHAINS * (operations);                             \
    }

#if defined(__AVX512F__)
#define NEXT(sum) _mm512_fmadd_ps(sum, a, b)
ARITHMETIC(fp32, __m512, _mm512_set1_ps(0.5f), 32)
#elif defined(__FMA__)
#define NEXT(sum) _mm256_fmadd_ps(sum, a, b)
ARITHMETIC(fp32, __m256, _mm256_set1_ps(0.5f), 16)
#else
#define NEXT(sum) sum * a + b
ARITHMETIC(fp32, floats, (floats){0.5f}, REGISTER / 2)
#endif
#undef NEXT

#if defined(__AVX512BF16__)
#define NEXT(sum) _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b)
ARITHMETIC(bf16, __m512, _mm512_set1_ps(0.0f), 64)
#undef NEXT
#endif

/* Without an instruction for it: pairs of products of ui8 and seven bits, which add up in 16 bits, then
 * pairs of those. The sum is a factor, or the compiler would multiply once for all. */
#define IN_PAIRS(add, bytes, words, sum) add(sum, words(bytes(sum, a), b))

#if defined(__AVX512VNNI__)
#define NEXT(sum) _mm512_dpbusd_epi32(sum, a, b)
ARITHMETIC(int8, __m512i, _mm512_set1_epi8(1), 128)
#elif defined(__AVX512BW__)
#define NEXT(sum) IN_PAIRS(_mm512_add_epi32, _mm512_maddubs_epi16, _mm512_madd_epi16, sum)
ARITHMETIC(int8, __m512i, _mm512_set1_epi16(1), 128)
#elif defined(__AVXVNNI__)
#define NEXT(sum) _mm256_dpbusd_avx_epi32(sum, a, b)
ARITHMETIC(int8, __m256i, _mm256_set1_epi8(1), 64)
#elif defined(__AVX2__)
#define NEXT(sum) IN_PAIRS(_mm256_add_epi32, _mm256_maddubs_epi16, _mm256_madd_epi16, sum)
ARITHMETIC(int8, __m256i, _mm256_set1_epi16(1), 64)
#endif

/* ---- a matrix unit: four tiles of 16 x 16 sums, each step of 16 words ---- */

#ifdef TILES
static int may_use_tiles(void)
{
    enum { REQUEST_STATE = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_STATE, TILE_DATA) == 0;
}

static void shape_tiles(void)
{
    struct {
        uint8_t palette, start_row, unused[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shapes.row_bytes[i] = 64;
        shapes.rows[i] = 16;
    }
    __asm__ volatile("" : : "r"(&shapes) : "memory");
    _tile_loadconfig(&shapes);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
}

#define TILE_ARITHMETIC(name, multiply, numbers)                   \
    static double name(const task *unused)                         \
    {                                                              \
        (void)unused;                                              \
        shape_tiles();                                             \
        for (int i = 0; i < REPEATS; i++) {                        \
            multiply(0, 4, 6);                                     \
            multiply(1, 4, 7);                                     \
            multiply(2, 5, 6);                                     \
            multiply(3, 5, 7);                                     \
        }                                                          \
        _tile_release();                                           \
        return (double)REPEATS * 4 * 16 * 16 * 16 * (numbers) * 2; \
    }

TILE_ARITHMETIC(bf16_tiles, _tile_dpbf16ps, 2)
TILE_ARITHMETIC(int8_tiles, _tile_dpbusd, 4)
#endif

/* ---- reading ---- */

#define CLEAR(n) ints sum##n = {0};
#define READ(n) sum##n ^= words[n];

/* From one end to the other. */
static double read_along(const task *t)
{
    EACH_STREAM(CLEAR)
    for (size_t at = 0; at + STREAMS * sizeof(ints) <= t->bytes; at += STREAMS * sizeof(ints)) {
        const ints *words = (const ints *)(t->data + at);
        EACH_STREAM(READ)
    }
    EACH_STREAM(END)
    return (double)t->bytes;
}

/* In four places at once: faster where each small page waits for its address. */
static double read_apart(const task *t)
{
    EACH_STREAM(CLEAR)
    const size_t quarter = t->bytes / 4 / 64 * 64 / sizeof(ints), pair = 2;
    const ints *words = (const ints *)t->data;
    for (size_t at = 0; at + pair <= quarter; at += pair) {
        sum0 ^= words[at];
        sum1 ^= words[at + 1];
        sum2 ^= words[at + quarter];
        sum3 ^= words[at + quarter + 1];
        sum4 ^= words[at + 2 * quarter];
        sum5 ^= words[at + 2 * quarter + 1];
        sum6 ^= words[at + 3 * quarter];
        sum7 ^= words[at + 3 * quarter + 1];
    }
    EACH_STREAM(END)
    return (double)(quarter / pair * pair * 4 * sizeof(ints));
}

/* ---- threads ---- */

static void *run(void *argument)
{
    task *t = argument;
    double done = t->work(t); /* warms up; what a small part does in one go is too short to time */
    long goes = 1;
    pthread_barrier_wait(t->start);
    double start = now(), end;
    done = 0;
    do {
        for (long i = 0; i < goes; i++)
            done += t->work(t);
        end = now();
        if (end - start < 1e-4)
            goes *= 2;
    } while (end - start < t->seconds);
    t->rate = done / (end - start);
    return NULL;
}

/* The sum of what the threads reach; each has a part of the data that begins on a cache line. */
static double measure(double (*work)(const task *), const unsigned char *data, size_t bytes,
                      int threads, double seconds)
{
    task tasks[threads];
    pthread_t ids[threads];
    pthread_barrier_t start;
    size_t part = bytes / (size_t)threads / 64 * 64;
    double total = 0;
    pthread_barrier_init(&start, NULL, (unsigned)threads);
    for (int i = 0; i < threads; i++) {
        tasks[i] = (task){work, data + (size_t)i * part, part, seconds, 0, &start};
        if (pthread_create(&ids[i], NULL, run, &tasks[i]) != 0)
            exit(1);
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        total += tasks[i].rate;
    }
    pthread_barrier_destroy(&start);
    return total;
}

/* ---- mappings ---- */

static unsigned char *anonymous(size_t bytes, int advice)
{
    size_t huge = 2 << 20;
    unsigned char *data = mmap(NULL, bytes + huge, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED)
        return NULL;
    data = (unsigned char *)(((uintptr_t)data + huge - 1) / huge * huge);
#ifdef MADV_HUGEPAGE
    if (advice)
        madvise(data, bytes, advice);
#endif
    memset(data, 1, bytes);
    return data;
}

/* As kaoken's runtime maps a model's weights. */
static unsigned char *file(const char *path, size_t bytes)
{
    int id = open(path, O_RDONLY);
    void *data = id < 0 ? MAP_FAILED : mmap(NULL, bytes, PROT_READ, MAP_SHARED, id, 0);
    if (id >= 0)
        close(id);
    if (data == MAP_FAILED)
        return NULL;
#ifdef MADV_HUGEPAGE
    madvise(data, bytes, MADV_HUGEPAGE);
#endif
    posix_madvise(data, bytes, POSIX_MADV_WILLNEED);
    return data;
}

static void report(const char *name, size_t bytes, double rate)
{
    printf("%s %zu %.6g\n", name, bytes, rate);
}

static void read_all(const char *name, const unsigned char *data, int count, char **sizes,
                     int threads, double seconds)
{
    for (int i = 0; data != NULL && i < count; i++) {
        size_t bytes = strtoull(sizes[i], NULL, 10);
        double along = measure(read_along, data, bytes, threads, seconds / 2);
        double apart = measure(read_apart, data, bytes, threads, seconds / 2);
        report(name, bytes, along > apart ? along : apart);
    }
}

int main(int count, char **words)
{
    if (count < 4)
        return 2;
    int threads = atoi(words[1]), sizes = count - 4;
    double seconds = atof(words[2]);
    size_t most = 0;
    for (int i = 0; i < sizes; i++)
        if (strtoull(words[4 + i], NULL, 10) > most)
            most = strtoull(words[4 + i], NULL, 10);
    report("fp32", 0, measure(fp32, NULL, 0, threads, seconds));
#if defined(__AVX512BF16__)
    report("bf16", 0, measure(bf16, NULL, 0, threads, seconds));
#endif
#if defined(__AVX2__)
    report("int8", 0, measure(int8, NULL, 0, threads, seconds));
#endif
#ifdef TILES
    if (may_use_tiles()) {
        report("bf16_tiles", 0, measure(bf16_tiles, NULL, 0, threads, seconds));
        report("int8_tiles", 0, measure(int8_tiles, NULL, 0, threads, seconds));
    }
#endif
    if (most == 0)
        return 0;
    int huge = 0;
#ifdef MADV_HUGEPAGE
    huge = MADV_HUGEPAGE;
#endif
    read_all("anonymous", anonymous(most, 0), sizes, words + 4, threads, seconds);
    read_all("huge", anonymous(most, huge), sizes, words + 4, threads, seconds);
    read_all("file", file(words[3], most), sizes, words + 4, threads, seconds);
    return 0;
}
