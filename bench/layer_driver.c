/* Time a compiled layer as a C program sees it: MODEL is its name, INPUT and OUTPUT its floats.
 *
 *     driver WEIGHTS SECONDS
 *
 * Prints nanoseconds a call, the median of groups of calls.
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define PASTE(a, b) a##b
#define NAME(a, b) PASTE(a, b)
#define QUOTE(a) #a
#define HEADER(a) QUOTE(a.h)
#include HEADER(MODEL)

#define GROUP 1000
#define MOST_GROUPS 1000000

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int count, char **words)
{
    static float input[INPUT], output[OUTPUT];
    char error[512] = "needs WEIGHTS SECONDS";
    MODEL *model = count == 3 ? NAME(MODEL, _create)(words[1], 1, error, sizeof error) : NULL;
    double *times = malloc(MOST_GROUPS * sizeof *times);
    if (model == NULL || times == NULL) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    for (int i = 0; i < INPUT; i++)
        input[i] = (float)(i % 17 - 8) * 0.25f;
    double end = now() + 1e9 * atof(words[2]);
    int groups = 0;
    do {
        double start = now();
        for (int i = 0; i < GROUP; i++)
            NAME(MODEL, _run)(model, input, output);
        times[groups++] = (now() - start) / GROUP;
    } while (now() < end && groups < MOST_GROUPS);
    qsort(times, (size_t)groups, sizeof *times, ascending);
    printf("%.3f\n", times[groups / 2]);
    NAME(MODEL, _destroy)(model);
    free(times);
    return 0;
}
