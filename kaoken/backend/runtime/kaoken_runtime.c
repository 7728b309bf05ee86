/* See kaoken_runtime.h. Portable C11 on POSIX; built for the baseline of its architecture, so that
 * nothing here can be an instruction that the CPU lacks before the CPU has been checked. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "kaoken_runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#ifdef __linux__
#include <sched.h>
#endif
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if defined(__APPLE__) && !defined(MAP_ANONYMOUS)
#define MAP_ANONYMOUS MAP_ANON
#endif

enum {
    HEADER_BYTES = 4096,
    DIGEST_DIGITS = 64,
    HUGE_PAGE = 2 * 1024 * 1024,
    CACHE_LINE = 64,
    SPIN_NANOSECONDS = 20000,
    SPINS_PER_CLOCK_READ = 64,
    MAX_THREADS = 1024,
    SHARED_BYTES = 64 * 1024, /* less is done by one thread before others have begun */
};

static const char MAGIC[8] = {'K', 'A', 'O', 'K', 'E', 'N', '0', '1'};

/* ---- weights ---- */

typedef struct weights_header {
    char magic[8];
    unsigned char data_bytes[8]; /* little-endian */
    char digest[DIGEST_DIGITS];
} weights_header;

static uint64_t little_endian(const unsigned char bytes[8]) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--)
        value = value << 8 | bytes[i];
    return value;
}

/* 1 if the header is the one this model was compiled with. */
static int check_header(const kk_model *model, const weights_header *header, const char *path,
                        char *error, size_t error_size) {
    if (memcmp(header->magic, MAGIC, sizeof MAGIC) != 0) {
        snprintf(error, error_size, "%s is not a kaoken weights file", path);
        return 0;
    }
    if (little_endian(header->data_bytes) != model->weights_bytes ||
        memcmp(header->digest, model->weights_digest, DIGEST_DIGITS) != 0) {
        snprintf(error, error_size,
                 "%s does not belong to this build of %s: use the weights file compiled with it",
                 path, model->name);
        return 0;
    }
    return 1;
}

static int check_size(const kk_model *model, int file, const char *path, char *error,
                      size_t error_size) {
    struct stat status;
    uint64_t expected = HEADER_BYTES + model->weights_bytes;
    if (fstat(file, &status) != 0) {
        snprintf(error, error_size, "%s cannot be read: %s", path, strerror(errno));
        return 0;
    }
    if ((uint64_t)status.st_size < expected) {
        snprintf(error, error_size, "%s is truncated: it has %lld bytes, not %llu", path,
                 (long long)status.st_size, (unsigned long long)expected);
        return 0;
    }
    return 1;
}

static int check_file(const kk_model *model, int file, const char *path, char *error,
                      size_t error_size) {
    weights_header header;
    if (pread(file, &header, sizeof header, 0) != (ssize_t)sizeof header) {
        snprintf(error, error_size, "%s is not a kaoken weights file", path);
        return 0;
    }
    return check_header(model, &header, path, error, error_size) &&
           check_size(model, file, path, error, error_size);
}

/* Weights in memory of their own, on huge pages, which some CPUs read faster than a file's small
 * ones. One copy serves all contexts of this process. */
typedef struct kk_copy {
    char digest[DIGEST_DIGITS];
    void *memory;
    size_t bytes;
    const unsigned char *weights;
    int users;
    struct kk_copy *next;
} kk_copy;

static kk_copy *copies;
static pthread_mutex_t copies_lock = PTHREAD_MUTEX_INITIALIZER;

/* Only on demand: a copy takes its time at load, and processes do not share it. */
static int wants_copy(uint64_t bytes) {
    const char *choice = getenv("KAOKEN_WEIGHTS");
    return bytes > 0 && choice != NULL && strcmp(choice, "copied") == 0;
}

static int read_all(int file, unsigned char *data, size_t bytes) {
    for (size_t at = 0; at < bytes;) {
        ssize_t count = pread(file, data + at, bytes - at, (off_t)(HEADER_BYTES + at));
        if (count <= 0 && !(count < 0 && errno == EINTR))
            return 0;
        at += count > 0 ? (size_t)count : 0;
    }
    return 1;
}

/* A new copy, or NULL where there is no memory for it. */
static kk_copy *read_copy(const kk_model *model, int file) {
    size_t bytes = (size_t)model->weights_bytes, reserved = bytes + HUGE_PAGE;
    kk_copy *copy = calloc(1, sizeof *copy);
    void *memory = mmap(NULL, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uintptr_t start = ((uintptr_t)memory + HUGE_PAGE - 1) & ~((uintptr_t)HUGE_PAGE - 1);
    if (copy == NULL || memory == MAP_FAILED)
        goto failed;
#ifdef MADV_HUGEPAGE
    madvise((void *)start, bytes, MADV_HUGEPAGE);
#endif
    if (!read_all(file, (unsigned char *)start, bytes))
        goto failed;
    mprotect(memory, reserved, PROT_READ);
    memcpy(copy->digest, model->weights_digest, DIGEST_DIGITS);
    copy->memory = memory;
    copy->bytes = reserved;
    copy->weights = (const unsigned char *)start;
    return copy;
failed:
    if (memory != MAP_FAILED)
        munmap(memory, reserved);
    free(copy);
    return NULL;
}

static kk_copy *take_copy(const kk_model *model, int file) {
    pthread_mutex_lock(&copies_lock);
    kk_copy *copy = copies;
    while (copy != NULL && memcmp(copy->digest, model->weights_digest, DIGEST_DIGITS) != 0)
        copy = copy->next;
    if (copy == NULL && (copy = read_copy(model, file)) != NULL) {
        copy->next = copies;
        copies = copy;
    }
    if (copy != NULL)
        copy->users++;
    pthread_mutex_unlock(&copies_lock);
    return copy;
}

static void give_back(kk_copy *copy) {
    pthread_mutex_lock(&copies_lock);
    int last = --copy->users == 0;
    if (last) {
        kk_copy **link = &copies;
        while (*link != copy)
            link = &(*link)->next;
        *link = copy->next;
    }
    pthread_mutex_unlock(&copies_lock);
    if (last) {
        munmap(copy->memory, copy->bytes);
        free(copy);
    }
}

static int map_file(kk_context *context, int file, const char *path, char *error,
                    size_t error_size) {
    size_t bytes = HEADER_BYTES + (size_t)context->model->weights_bytes;
    void *data = mmap(NULL, bytes, PROT_READ, MAP_SHARED, file, 0);
    if (data == MAP_FAILED) {
        snprintf(error, error_size, "%s cannot be mapped: %s", path, strerror(errno));
        return 0;
    }
    context->mapped_weights = data;
    context->mapped_weights_bytes = bytes;
    context->weights = (const unsigned char *)data + HEADER_BYTES;
#ifdef MADV_HUGEPAGE
    madvise(data, bytes, MADV_HUGEPAGE);
#endif
    posix_madvise(data, bytes, POSIX_MADV_WILLNEED);
    return 1;
}

static int open_weights(kk_context *context, const char *path, char *error, size_t error_size) {
    int file = open(path, O_RDONLY);
    if (file < 0) {
        snprintf(error, error_size, "weights file %s cannot be opened: %s", path, strerror(errno));
        return 0;
    }
    int good = check_file(context->model, file, path, error, error_size);
    if (good && wants_copy(context->model->weights_bytes))
        context->copy = take_copy(context->model, file);
    if (context->copy != NULL)
        context->weights = context->copy->weights;
    else if (good)
        good = map_file(context, file, path, error, error_size);
    close(file);
    return good;
}

/* ---- arena ---- */

/* Address space only: the system gives each page when it is first written. */
static int reserve_arena(kk_context *context, char *error, size_t error_size) {
    uint64_t wanted = context->model->arena_bytes;
    size_t alignment = wanted >= HUGE_PAGE ? HUGE_PAGE : HEADER_BYTES;
    size_t bytes = (size_t)wanted + alignment;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        snprintf(error, error_size, "no memory for the %llu bytes that %s works in",
                 (unsigned long long)wanted, context->model->name);
        return 0;
    }
    context->mapped_arena = memory;
    context->mapped_arena_bytes = bytes;
    context->arena = (void *)(((uintptr_t)memory + alignment - 1) & ~(alignment - 1));
#ifdef MADV_HUGEPAGE
    if (alignment == HUGE_PAGE)
        madvise(context->arena, (size_t)wanted, MADV_HUGEPAGE);
#endif
    return 1;
}

/* ---- threads ---- */

/* A number that threads wait on: they spin for a moment, then sleep. */
typedef struct turn {
    _Alignas(CACHE_LINE) atomic_uint value;
    atomic_uint sleepers;
    pthread_mutex_t lock;
    pthread_cond_t changed;
} turn;

struct kk_pool {
    turn call;     /* changes when there is a program to run */
    turn barrier;  /* changes when all have arrived */
    _Alignas(CACHE_LINE) atomic_uint arrived;
    kk_body body; /* NULL: end */
    void *argument;
#ifdef __linux__
    cpu_set_t allowed; /* the creator's CPUs */
    int caller_cpu;    /* where the caller of this run is */
#endif
    int started;
    pthread_t *handles;
    kk_team *members;
};

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
    __asm__ volatile("yield");
#endif
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int spin(turn *turn, unsigned old) {
    int64_t start = now();
    do {
        for (int i = 0; i < SPINS_PER_CLOCK_READ; i++) {
            if (atomic_load_explicit(&turn->value, memory_order_acquire) != old)
                return 1;
            relax();
        }
    } while (now() - start < SPIN_NANOSECONDS);
    return 0;
}

static void wait_for_change(turn *turn, unsigned old) {
    if (spin(turn, old))
        return;
    pthread_mutex_lock(&turn->lock);
    atomic_fetch_add(&turn->sleepers, 1);
    while (atomic_load(&turn->value) == old)
        pthread_cond_wait(&turn->changed, &turn->lock);
    atomic_fetch_sub(&turn->sleepers, 1);
    pthread_mutex_unlock(&turn->lock);
}

/* Sequential consistency: either the sleeper sees the new value or this sees the sleeper. */
static void change(turn *turn) {
    atomic_fetch_add(&turn->value, 1);
    if (atomic_load(&turn->sleepers) == 0)
        return;
    pthread_mutex_lock(&turn->lock);
    pthread_cond_broadcast(&turn->changed);
    pthread_mutex_unlock(&turn->lock);
}

void kk_barrier(kk_team *team) {
    kk_pool *pool = team->pool;
    if (team->threads == 1)
        return;
    unsigned old = atomic_load_explicit(&pool->barrier.value, memory_order_relaxed);
    unsigned before = atomic_fetch_add_explicit(&pool->arrived, 1, memory_order_acq_rel);
    if (before + 1 < (unsigned)team->threads) {
        wait_for_change(&pool->barrier, old);
        return;
    }
    atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
    change(&pool->barrier);
}

/* Threads that wait for each other by spinning must not share a CPU, and the scheduler may leave a
 * woken one beside its caller. So members keep off the caller's CPU, where there are others. */
#ifdef __linux__
static void find_cpus(kk_pool *pool) {
    if (sched_getaffinity(0, sizeof pool->allowed, &pool->allowed) != 0)
        CPU_ZERO(&pool->allowed);
}

static void note_caller(kk_pool *pool) {
    pool->caller_cpu = sched_getcpu();
}

static void keep_off_caller(const kk_pool *pool, int *avoided) {
    int cpu = pool->caller_cpu;
    if (cpu < 0 || cpu >= CPU_SETSIZE || cpu == *avoided)
        return;
    cpu_set_t others = pool->allowed;
    CPU_CLR(cpu, &others);
    if (CPU_COUNT(&others) > 0 && sched_setaffinity(0, sizeof others, &others) == 0)
        *avoided = cpu;
}
#else
static void find_cpus(kk_pool *pool) {
    (void)pool;
}

static void note_caller(kk_pool *pool) {
    (void)pool;
}

static void keep_off_caller(const kk_pool *pool, int *avoided) {
    (void)pool;
    (void)avoided;
}
#endif

static void *work(void *argument) {
    kk_team *member = argument;
    kk_pool *pool = member->pool;
    unsigned calls = 0;
    int avoided = -1;
    for (;;) {
        wait_for_change(&pool->call, calls++);
        if (pool->body == NULL)
            return NULL;
        keep_off_caller(pool, &avoided);
        pool->body(pool->argument, member);
        kk_barrier(member);
    }
}

static void run_on_pool(kk_pool *pool, kk_body body, void *argument) {
    pool->body = body;
    pool->argument = argument;
    note_caller(pool);
    change(&pool->call);
    if (body == NULL)
        return;
    body(argument, &pool->members[0]);
    kk_barrier(&pool->members[0]);
}

static void start_turn(turn *turn) {
    atomic_init(&turn->value, 0);
    atomic_init(&turn->sleepers, 0);
    pthread_mutex_init(&turn->lock, NULL);
    pthread_cond_init(&turn->changed, NULL);
}

static void end_turn(turn *turn) {
    pthread_cond_destroy(&turn->changed);
    pthread_mutex_destroy(&turn->lock);
}

static void destroy_pool(kk_pool *pool) {
    run_on_pool(pool, NULL, NULL);
    for (int i = 1; i < pool->started; i++)
        pthread_join(pool->handles[i], NULL);
    end_turn(&pool->call);
    end_turn(&pool->barrier);
    free(pool->handles);
    free(pool->members);
    free(pool);
}

static kk_pool *create_pool(int threads) {
    kk_pool *pool = aligned_alloc(CACHE_LINE, sizeof *pool);
    if (pool == NULL)
        return NULL;
    start_turn(&pool->call);
    start_turn(&pool->barrier);
    atomic_init(&pool->arrived, 0);
    find_cpus(pool);
    pool->handles = calloc((size_t)threads, sizeof *pool->handles);
    pool->members = calloc((size_t)threads, sizeof *pool->members);
    int memory = pool->handles != NULL && pool->members != NULL;
    for (int i = 0; memory && i < threads; i++)
        pool->members[i] = (kk_team){.thread = i, .threads = threads, .pool = pool};
    pool->started = 1;
    while (memory && pool->started < threads &&
           pthread_create(&pool->handles[pool->started], NULL, work,
                          &pool->members[pool->started]) == 0)
        pool->started++;
    if (pool->started == threads)
        return pool;
    destroy_pool(pool);
    return NULL;
}

/* ---- timers ---- */

/* What threads write lies in cache lines of their own. */
static size_t timer_bytes(const kk_model *model) {
    size_t bytes = (size_t)model->timer_count * sizeof(kk_timer);
    return (bytes + 2 * CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
}

static int create_timers(kk_context *context, char *error, size_t error_size) {
    size_t count = (size_t)context->threads, bytes = timer_bytes(context->model);
    if (context->model->timer_count == 0)
        return 1;
    context->timers = calloc(count, CACHE_LINE + bytes);
    if (context->timers == NULL) {
        snprintf(error, error_size, "no memory for the timers of %s", context->model->name);
        return 0;
    }
    return 1;
}

/* Each thread's clock and, behind it, its timers. */
static kk_timers *timers_of(const kk_context *context, int thread) {
    size_t size = CACHE_LINE + timer_bytes(context->model);
    char *place = (char *)context->timers + (size_t)thread * size;
    kk_timers *timers = (void *)place;
    timers->timers = (void *)(place + CACHE_LINE);
    return timers;
}

kk_timers *kk_start_timers(const kk_context *context, const kk_team *team) {
    kk_timers *timers = timers_of(context, team->thread);
    timers->last = now();
    return timers;
}

static int64_t lap(kk_timers *timers) {
    int64_t last = timers->last;
    timers->last = now();
    return timers->last - last;
}

void kk_lap(kk_timers *timers, int timer) {
    timers->timers[timer].calls++;
    timers->timers[timer].worked += lap(timers);
}

void kk_lap_waited(kk_timers *timers, int timer) {
    timers->timers[timer].waited += lap(timers);
}

int kk_read_timers(const kk_context *context, int thread, kk_timer *values) {
    int count = context->model->timer_count;
    if (count == 0 || thread < 0 || thread >= context->threads)
        return 0;
    if (values != NULL)
        memcpy(values, timers_of(context, thread)->timers, (size_t)count * sizeof *values);
    return count;
}

void kk_reset_timers(kk_context *context) {
    size_t bytes = (size_t)context->model->timer_count * sizeof(kk_timer);
    for (int i = 0; bytes > 0 && i < context->threads; i++)
        memset(timers_of(context, i)->timers, 0, bytes);
}

/* ---- context ---- */

static int check_cpu(const kk_model *model, char *error, size_t error_size) {
    char missing[160];
    if (kk_cpu_has(model->features, missing, sizeof missing))
        return 1;
    snprintf(error, error_size,
             "this CPU lacks %s, which %s was compiled for, or the system withholds it: compile it "
             "with another --target",
             missing, model->name);
    return 0;
}

static int check_threads(const kk_model *model, int threads, char *error, size_t error_size) {
    int limit = model->max_threads < MAX_THREADS ? model->max_threads : MAX_THREADS;
    if (threads >= 1 && threads <= limit)
        return 1;
    if (threads < 1)
        snprintf(error, error_size, "threads is %d, but must be at least 1", threads);
    else
        snprintf(error, error_size,
                 "threads is %d, but %s was compiled for 1 to %d: compile it with --threads %d",
                 threads, model->name, limit, threads);
    return 0;
}

static int start_threads(kk_context *context, int threads, char *error, size_t error_size) {
    if (threads == 1)
        return 1;
    context->pool = create_pool(threads);
    if (context->pool != NULL)
        return 1;
    snprintf(error, error_size, "the system did not start %d threads", threads);
    return 0;
}

kk_context *kk_create(const kk_model *model, const char *weights_path, int threads, char *error,
                      size_t error_size) {
    if (!check_cpu(model, error, error_size) || !check_threads(model, threads, error, error_size))
        return NULL;
    kk_context *context = calloc(1, sizeof *context);
    if (context == NULL) {
        snprintf(error, error_size, "no memory for a context of %s", model->name);
        return NULL;
    }
    context->model = model;
    context->threads = threads;
    context->process = (long)getpid();
    if (open_weights(context, weights_path, error, error_size) &&
        reserve_arena(context, error, error_size) &&
        create_timers(context, error, error_size) &&
        start_threads(context, threads, error, error_size))
        return context;
    kk_destroy(context);
    return NULL;
}

void kk_destroy(kk_context *context) {
    if (context == NULL)
        return;
    /* The threads of a forked child's copy do not exist, so there is nothing to join. */
    if (context->pool != NULL && context->process == (long)getpid())
        destroy_pool(context->pool);
    if (context->mapped_arena != NULL)
        munmap(context->mapped_arena, context->mapped_arena_bytes);
    if (context->copy != NULL)
        give_back(context->copy);
    if (context->mapped_weights != NULL)
        munmap(context->mapped_weights, context->mapped_weights_bytes);
    free(context->timers);
    free(context);
}

int kk_refuse(kk_context *context, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(context->message, sizeof context->message, format, arguments);
    va_end(arguments);
    return KK_BAD_SIZE;
}

static int check_symbols(kk_context *context, const int64_t *symbols) {
    const kk_model *model = context->model;
    for (int i = 0; symbols != NULL && i < model->symbol_count; i++) {
        int64_t least = model->symbol_least == NULL ? 1 : model->symbol_least[i];
        if (symbols[i] >= least && symbols[i] <= model->symbol_limits[i])
            continue;
        kk_refuse(context, "%s is %lld, but %s was compiled for %lld to %lld",
                  model->symbol_names[i], (long long)symbols[i], model->name, (long long)least,
                  (long long)model->symbol_limits[i]);
        return 0;
    }
    return 1;
}

static int failure(kk_context *context) {
    int64_t code = context->status[0];
    const kk_model *model = context->model;
    const char *what = code <= model->error_count ? model->errors[code - 1] : "unknown error";
    snprintf(context->message, sizeof context->message, "%s: %lld", what,
             (long long)context->status[1]);
    return (int)code;
}

int kk_run(kk_context *context, kk_body body, void *call, const int64_t *symbols, int64_t bytes) {
    if (!check_symbols(context, symbols))
        return KK_BAD_SIZE;
    if (context->pool != NULL && context->process != (long)getpid()) {
        snprintf(context->message, sizeof context->message,
                 "this context of %s was created before fork(): create one in the new process",
                 context->model->name);
        return KK_FORKED;
    }
    context->status[0] = 0;
    if (context->pool == NULL || bytes < SHARED_BYTES) {
        kk_team alone = {.thread = 0, .threads = 1, .pool = NULL};
        body(call, &alone);
    } else {
        run_on_pool(context->pool, body, call);
    }
    return context->status[0] == 0 ? 0 : failure(context);
}

const char *kk_error(const kk_context *context) { return context->message; }
