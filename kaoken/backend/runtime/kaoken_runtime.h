/* What a compiled model needs at run time: its weights mapped or copied, its memory, its threads.
 *
 * Contexts share nothing but a copy of their weights, which is only read. A context belongs to one
 * caller at a time, and to the process that created it: after fork() the child creates its own.
 */
#ifndef KAOKEN_RUNTIME_H
#define KAOKEN_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What minilm_run and its kind return besides 0 and the positive codes of the model itself. */
enum { KK_BAD_SIZE = -1, KK_FORKED = -2 };

/* What the compiler wrote down about a model; constant. */
typedef struct kk_model {
    const char *name;
    const char *features;        /* CPU features the code uses, separated by spaces */
    const char *weights_digest;  /* 64 hexadecimal digits, also in the weights file */
    uint64_t weights_bytes;      /* after the file's 4096-byte header */
    uint64_t arena_bytes;
    int max_threads;
    int symbol_count;
    const char *const *symbol_names;  /* open sizes, such as "tokens" */
    const int64_t *symbol_limits;     /* the most that each may be */
    const int64_t *symbol_least;      /* the least; NULL: 1 each */
    int error_count;
    const char *const *errors;  /* what the status codes 1, 2 ... mean */
    int timer_count;            /* 0 unless compiled with profile */
} kk_model;

typedef struct kk_pool kk_pool;

/* How often one kernel call was run by one thread, the time it worked, and the time it then waited
 * for other threads, in nanoseconds. */
typedef struct kk_timer {
    int64_t calls, worked, waited;
} kk_timer;

/* The clock and timers of one thread, in models compiled with profile. */
typedef struct kk_timers {
    int64_t last; /* when the last lap ended */
    kk_timer *timers;
} kk_timers;

/* One member of the team that runs a call together. */
typedef struct kk_team {
    int thread;   /* 0 .. threads - 1 */
    int threads;
    kk_pool *pool;
} kk_team;

typedef struct kk_context {
    const kk_model *model;
    const unsigned char *weights;
    void *arena;
    kk_pool *pool; /* NULL for one thread */
    int64_t status[2];
    long process;
    char message[256];
    struct kk_copy *copy; /* of the weights, where they are not mapped */
    void *mapped_weights;
    size_t mapped_weights_bytes;
    void *mapped_arena;
    size_t mapped_arena_bytes;
    kk_timers *timers; /* one for each thread, or NULL */
    int threads;
} kk_context;

/* The program of one call; every member of the team runs it. */
typedef void (*kk_body)(void *call, kk_team *team);

/* Checks the CPU and the weights file, maps it, reserves the arena, starts threads - 1 threads.
 * Returns NULL and writes one sentence into error on failure. */
kk_context *kk_create(const kk_model *model, const char *weights_path, int threads, char *error,
                      size_t error_size);

/* Checks the open sizes, runs body on the whole team, or on the caller's thread alone where the call
 * reads and writes few bytes, and returns 0 or the first error's code. */
int kk_run(kk_context *context, kk_body body, void *call, const int64_t *symbols, int64_t bytes);

/* Makes a sentence for kk_error, and returns KK_BAD_SIZE. */
int kk_refuse(kk_context *context, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;

/* The sentence that belongs to the last code other than 0. */
const char *kk_error(const kk_context *context);

void kk_destroy(kk_context *context);

static inline int64_t kk_thread_id(const kk_team *team) { return team->thread; }

static inline int64_t kk_num_threads(const kk_team *team) { return team->threads; }

/* No member goes on before all have come here; what they wrote is then seen by all. */
void kk_barrier(kk_team *team);

/* A thread's timers; its clock starts. */
kk_timers *kk_start_timers(const kk_context *context, const kk_team *team);

/* Adds the time since the last lap to a timer: as a call that worked, or as what it waited. */
void kk_lap(kk_timers *timers, int timer);
void kk_lap_waited(kk_timers *timers, int timer);

/* Copies a thread's timers into values (unless NULL) and gives how many there are. */
int kk_read_timers(const kk_context *context, int thread, kk_timer *values);

void kk_reset_timers(kk_context *context);

/* kaoken_cpu.c: 1 if this CPU and its system have all the features, else 0 and their names. */
int kk_cpu_has(const char *features, char *missing, size_t missing_size);

#ifdef __cplusplus
}
#endif

#endif
