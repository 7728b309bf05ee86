/* What a context that generates text remembers, kept in a file or given to another context: the
 * tokens, the logits of what follows the last one, and the caches as far as there are tokens.
 * Included by the models that need it. */
#ifndef KAOKEN_STATE_H
#define KAOKEN_STATE_H

#include "kaoken_runtime.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A part of the caches: `blocks` blocks begin `stride` bytes apart, from `offset` in the arena on.
 * In each, `tokens` tokens after the other take `bytes` bytes. */
typedef struct kk_cache {
    int64_t offset, blocks, stride, tokens, bytes;
} kk_cache;

/* The memory of one state: `logits_bytes` of logits, of which there may be none; `length` tokens, and
 * `source` ones where the text is made from another. */
typedef struct kk_state {
    const kk_cache *caches;
    int cache_count;
    int64_t *tokens;
    float *logits;
    int64_t logits_bytes, length, source, capacity, most_source;
} kk_state;

typedef struct kk_state_header {
    char magic[8];
    char digest[64];  /* of the model's weights */
    uint64_t layout;  /* of the caches */
    int64_t length, source, logits_bytes;
} kk_state_header;

static const char KK_STATE_MAGIC[8] = {'K', 'A', 'O', 'K', 'E', 'N', 'S', '1'};

/* What `length` tokens take of a block, or all of it where it holds fewer. */
static int64_t kk_cache_bytes(const kk_cache *cache, int64_t length) {
    int64_t bytes = (length + cache->tokens - 1) / cache->tokens * cache->bytes;
    return bytes < cache->stride ? bytes : cache->stride;
}

/* As many tokens as any of the caches has: the text's, or those of its source. */
static int64_t kk_most_tokens(const kk_state *state) {
    return state->length > state->source ? state->length : state->source;
}

/* FNV-1a of the numbers that say what the caches look like, wherever they are. */
static uint64_t kk_layout(const kk_state *state) {
    uint64_t hash = 14695981039346656037u;
    for (int i = 0; i < state->cache_count; i++) {
        const kk_cache *cache = &state->caches[i];
        const int64_t numbers[] = {cache->blocks, cache->stride, cache->tokens, cache->bytes};
        for (int n = 0; n < 4; n++)
            hash = (hash ^ (uint64_t)numbers[n]) * 1099511628211u;
    }
    return hash;
}

static kk_state_header kk_make_header(const kk_context *context, const kk_state *state) {
    kk_state_header header = {.layout = kk_layout(state),
                              .length = state->length,
                              .source = state->source,
                              .logits_bytes = state->logits_bytes};
    memcpy(header.magic, KK_STATE_MAGIC, sizeof header.magic);
    memcpy(header.digest, context->model->weights_digest, sizeof header.digest);
    return header;
}

/* Reads or writes all bytes of a state; 0 when it fails. */
static int kk_transfer(kk_context *context, const kk_state *state, FILE *file, int writing) {
#define KK_TRANSFER(data, size)                                          \
    ((size) == 0 || (writing ? fwrite((data), (size_t)(size), 1, file)  \
                             : fread((data), (size_t)(size), 1, file)) == 1)
    int64_t most = kk_most_tokens(state);
    int good = KK_TRANSFER(state->tokens, state->length * (int64_t)sizeof *state->tokens) &&
               KK_TRANSFER(state->logits, state->logits_bytes);
    for (int i = 0; good && i < state->cache_count; i++) {
        const kk_cache *cache = &state->caches[i];
        char *start = (char *)context->arena + cache->offset;
        for (int64_t block = 0; good && block < cache->blocks; block++)
            good = KK_TRANSFER(start + block * cache->stride, kk_cache_bytes(cache, most));
    }
    return good;
#undef KK_TRANSFER
}

static int64_t kk_state_bytes(const kk_state *state) {
    int64_t bytes = state->length * (int64_t)sizeof *state->tokens + state->logits_bytes;
    for (int i = 0; i < state->cache_count; i++)
        bytes += state->caches[i].blocks * kk_cache_bytes(&state->caches[i], kk_most_tokens(state));
    return bytes;
}

/* Writes a file under another name, then gives it its own: readers see the whole of it or none.
 * Returns 0, or another number and a sentence in the context. */
static int kk_save_state(kk_context *context, const kk_state *state, const char *path) {
    size_t room = strlen(path) + 32;
    char *draft = malloc(room);
    if (draft == NULL)
        return kk_refuse(context, "no memory to save a state");
    snprintf(draft, room, "%s.%ld.part", path, context->process);
    kk_state_header header = kk_make_header(context, state);
    FILE *file = fopen(draft, "wb");
    int good = file != NULL && fwrite(&header, sizeof header, 1, file) == 1 &&
               kk_transfer(context, state, file, 1);
    int problem = errno;
    if (file != NULL && fclose(file) != 0)
        problem = errno, good = 0;
    if (good && rename(draft, path) != 0)
        problem = errno, good = 0;
    if (!good && file != NULL)
        remove(draft);
    free(draft);
    return good ? 0
                : kk_refuse(context, "%s cannot be written: %s", path, strerror(problem));
}

/* Why a file is no state of this model; NULL where it is one: `found` then has its numbers, and the
 * file is read up to behind the header. */
static const char *kk_check_state(const kk_context *context, kk_state *found, FILE *file) {
    kk_state_header header;
    if (fread(&header, sizeof header, 1, file) != 1 ||
        memcmp(header.magic, KK_STATE_MAGIC, sizeof KK_STATE_MAGIC) != 0)
        return "is not a saved state";
    if (memcmp(header.digest, context->model->weights_digest, sizeof header.digest) != 0 ||
        header.layout != kk_layout(found))
        return "was saved by another model, or another build of this one";
    if (header.length < 0 || header.length > found->capacity || header.source < 0 ||
        header.source > found->most_source ||
        (header.logits_bytes != 0 && header.logits_bytes != found->logits_bytes))
        return "is broken: its header makes no sense";
    found->length = header.length;
    found->source = header.source;
    found->logits_bytes = header.logits_bytes;
    int64_t bytes = (int64_t)sizeof header + kk_state_bytes(found);
    if (fseek(file, 0, SEEK_END) != 0 || ftell(file) != bytes)
        return "is truncated, or longer than it should be";
    fseek(file, (long)sizeof header, SEEK_SET);
    return NULL;
}

/* Reads a file into the memory of a state, whose numbers are then the file's. What is wrong with a
 * file is found before anything changes, but for an error of the disk: nothing is then held. */
static int kk_load_state(kk_context *context, kk_state *state, const char *path) {
    kk_state found = *state;
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return kk_refuse(context, "%s cannot be opened: %s", path, strerror(errno));
    const char *problem = kk_check_state(context, &found, file);
    if (problem == NULL) {
        *state = found;
        if (!kk_transfer(context, state, file, 0)) {
            state->length = state->source = 0;
            problem = "cannot be read";
        }
    }
    fclose(file);
    return problem == NULL ? 0 : kk_refuse(context, "%s %s", path, problem);
}

/* Copies caches as far as `length` tokens go, into others of the same kind that have the first
 * `common` of them already. */
static void kk_copy_caches(char *to, const kk_cache *to_caches, const char *from,
                           const kk_cache *caches, int count, int64_t common, int64_t length) {
    for (int i = 0; i < count; i++)
        for (int64_t block = 0; block < caches[i].blocks; block++) {
            int64_t first = common / caches[i].tokens * caches[i].bytes;
            int64_t at = block * caches[i].stride + first;
            memcpy(to + to_caches[i].offset + at, from + caches[i].offset + at,
                   (size_t)(kk_cache_bytes(&caches[i], length) - first));
        }
}

/* Guesses what follows `tokens` and then `token`: what followed the latest earlier place with the
 * same three tokens at its end, or two. Where that comes to the end, it goes on with the guesses
 * themselves. Returns how many of `most` there are: all, or none. */
static int64_t kk_lookup(const int64_t *tokens, int64_t length, int64_t token, int64_t *guesses,
                         int64_t most) {
    for (int64_t size = 3; size >= 2; size--)
        for (int64_t end = length - 1; end >= size - 1; end--) {
            int64_t same = tokens[end] == token;
            while (same > 0 && same < size && tokens[end - same] == tokens[length - same])
                same++;
            if (same < size)
                continue;
            for (int64_t i = 0, at = end + 1; i < most; i++, at++)
                guesses[i] = at < length ? tokens[at] : at == length ? token : guesses[at - length - 1];
            return most;
        }
    return 0;
}

#endif
