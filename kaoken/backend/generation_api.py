"""The C functions of models that generate text: a context remembers the tokens it has seen.

    smollm_reset(model);
    smollm_prefill(model, prompt, n);                   /* many tokens at once */
    token = smollm_best_token(model);
    smollm_step(model, token);                          /* one more */
    smollm_rewind(model, length);                       /* forget what came after */
    smollm_verify(model, guesses, n);                   /* several guesses in one pass */
    smollm_save(model, "prompt.state");                 /* the caches, to be loaded again */

All ways in run the same code on the same caches. What a context keeps besides the caches, its
tokens and the last logits, lies at the end of its arena. Models that make a text from another one
read that first:

    t5_encode(model, source, n);                        /* the encoder, once */
    t5_step(model, start);
"""

from __future__ import annotations

from collections.abc import Sequence

from kaoken.backend.interface import Interface
from kaoken.backend.names import c_identifier
from kaoken.dialect.generation import SOURCE

_ALIGNMENT = 64


def session_bytes(i: Interface) -> int:
    """What the session takes behind the planned arena, in bytes."""
    if i.generation is None:
        return 0
    return _padding(i) + i.generation.batch * _struct_bytes(i)


def _struct_bytes(i: Interface) -> int:
    """A line for the numbers, the tokens, the logits, up to the struct's alignment of 8 bytes."""
    assert i.generation is not None
    logits = 4 * _outputs(i) * vocabulary(i)
    return _ALIGNMENT + 8 * i.generation.capacity + -(-logits // 8) * 8


def _batch(i: Interface) -> int:
    return 1 if i.generation is None else i.generation.batch


def _outputs(i: Interface) -> int:
    """How many rows of logits one call gives at most."""
    return i.symbols.get("outputs", 1)


def _padding(i: Interface) -> int:
    return -i.arena_bytes % _ALIGNMENT


def vocabulary(i: Interface) -> int:
    """How many logits there are."""
    size = i.outputs[0].shape[-1].constant
    assert size is not None
    return size


def header(i: Interface, name: str) -> str:
    """The public declarations; nothing for other models."""
    if i.generation is None:
        return ""
    api, upper = f"{name.upper()}_API", name.upper()
    return f"""
/* Generating text. A context holds up to {upper}_CAPACITY tokens: what they have left in the caches
 * is the state that the functions below work on. */
enum {{
    {upper}_CAPACITY = {i.generation.capacity},
    {upper}_VOCABULARY = {vocabulary(i)},
    {upper}_GUESSES = {_outputs(i)},
}};

/* Forgets all tokens. */
{api} void {name}_reset({name} *model);

{_encoder_header(i, name)}\
/* Adds tokens behind those seen so far, and computes the logits of what follows them.
 * Returns 0; on failure another number, and the context is as before, without logits. */
{api} int {name}_prefill({name} *model, const int64_t *tokens, int64_t count);

/* The same for one token. */
{api} int {name}_step({name} *model, int64_t token);

/* {upper}_VOCABULARY numbers that follow the last token; NULL where there are none: before the
 * first token, and after a reset, a failure, or a rewind to before what the last call added.
 * Valid up to the next call. */
{api} const float *{name}_logits(const {name} *model);

/* The token with the largest logit, the first of equals; -1 where there are no logits or one is
 * not a number. */
{api} int64_t {name}_best_token(const {name} *model);

/* How many tokens the context holds. */
{api} int64_t {name}_length(const {name} *model);

/* The tokens that the context holds. Valid up to the next call. */
{api} const int64_t *{name}_tokens(const {name} *model);

/* Forgets all but the first `length` tokens. Returns 0, or another number for a length out of
 * range. */
{api} int {name}_rewind({name} *model, int64_t length);

/* As prefill, for up to {upper}_GUESSES tokens in one pass, which costs little more than a step.
 * Logits follow each of them: rewind to a length among them, and that length's logits are there. */
{api} int {name}_guess({name} *model, const int64_t *tokens, int64_t count);

/* Adds the first token, and those behind it as long as each is the best token after those before:
 * the same as one step after the other, in one pass. Returns how many were added, 0 on failure. */
{api} int64_t {name}_verify({name} *model, const int64_t *tokens, int64_t count);

/* Guesses `most` tokens that follow the context's and then `token`, from an earlier place with the
 * same last three or two tokens. Returns how many there are: `most` or none. */
{api} int64_t {name}_lookup(const {name} *model, int64_t token, int64_t *guesses, int64_t most);
{_states_header(i, name)}{_batch_header(i, name)}"""


def keeps_states(i: Interface) -> bool:
    """Whether it is known which bytes of the caches belong to how many tokens."""
    return i.generation is not None and bool(i.generation.caches)


def _states_header(i: Interface, name: str) -> str:
    if not keeps_states(i):
        return ""
    api = f"{name.upper()}_API"
    return f"""
/* Writes the tokens, what the caches hold of them, and the logits to a file; load reads them again,
 * in any process, into a context of the same build of the model. Both return 0, or another number:
 * a file that does not fit leaves the context as it was. */
{api} int {name}_save({name} *model, const char *path);
{api} int {name}_load({name} *model, const char *path);

/* Makes a context hold what another one of the same model holds. */
{api} void {name}_copy({name} *model, const {name} *from);
"""


def _encoder_header(i: Interface, name: str) -> str:
    """The declarations of models that read a source text first."""
    if i.encoder is None:
        return ""
    api, upper = f"{name.upper()}_API", name.upper()
    return f"""\
enum {{ {upper}_MAX_SOURCE = {i.encoder.max_source} }};

/* Reads the source, 1 to {upper}_MAX_SOURCE tokens, that all text is made from up to the next call
 * of this function, and forgets all other tokens. Returns 0; on failure another number, and the
 * context has no source. */
{api} int {name}_encode({name} *model, const int64_t *tokens, int64_t count);

/* How many tokens the source has; 0 where there is none. */
{api} int64_t {name}_source_length(const {name} *model);

"""


def session(i: Interface, name: str) -> str:
    """The struct behind the arena."""
    if i.generation is None:
        return ""
    return f"""\
/* What a context remembers besides its caches. */
typedef struct {name}_session {{
    int64_t length;
    int64_t rows; /* of logits, behind each of the last tokens up to `end` */
    int64_t end;
    int64_t source;
    int64_t selected; /* of the first one: which sequence all calls are about */
    char padding[{_ALIGNMENT - 40}];
    int64_t tokens[{i.generation.capacity}];
    float logits[{_outputs(i) * vocabulary(i)}];
}} {name}_session;

_Static_assert(sizeof({name}_session) == {_struct_bytes(i)}, "as planned");
"""


def functions(i: Interface, name: str) -> str:
    """The definitions of what `header` declares."""
    if i.generation is None:
        return ""
    upper, session_ = name.upper(), f"{name}_session"
    piece = i.symbols["tokens" if _batch(i) == 1 else "tokens_0"]
    sizes = _sizes(i)
    symbols = ", ".join(sizes[symbol] for symbol in i.symbols)
    place = f"(char *)context->arena + {i.arena_bytes + _padding(i)}"
    return f"""\
static {session_} *{name}_sessions(const {name} *model) {{
    const kk_context *context = (const kk_context *)model;
    return ({session_} *)(void *)({place});
}}

static {session_} *{name}_session_of(const {name} *model) {{
    {session_} *first = {name}_sessions(model);
    return first{" + first->selected" if _batch(i) > 1 else ""};
}}

{_encoder_functions(i, name)}\
void {name}_reset({name} *model) {{
    {session_} *session = {name}_session_of(model);
    session->length = session->rows = 0;
}}

/* Adds tokens; logits follow the last `outputs` of them. */
static int {name}_add({name} *model, const int64_t *tokens, int64_t count, int64_t outputs) {{
    {session_} *session = {name}_session_of(model);
{_first_session(i, name)}\
    session->rows = 0;
    if (count < 1)
        return kk_refuse((kk_context *)model, "there are no tokens to add");
{_source_check(i)}\
    if (count > {upper}_CAPACITY - session->length)
        return kk_refuse((kk_context *)model,
                         "the context holds at most %d tokens: it has %lld, "
                         "and %lld more were given",
                         {upper}_CAPACITY, (long long)session->length, (long long)count);
    for (int64_t done = 0, size; done < count; done += size) {{
        size = count - done < {piece} ? count - done : {piece};
        int code = {name}_run(model, tokens + done, session->logits, {symbols});
        if (code != 0)
            return code;
    }}
    memmove(session->tokens + session->length, tokens, (size_t)count * sizeof *tokens);
    session->length += count;
    session->rows = outputs;
    session->end = session->length;
    return 0;
}}

int {name}_prefill({name} *model, const int64_t *tokens, int64_t count) {{
    return {name}_add(model, tokens, count, 1);
}}

int {name}_step({name} *model, int64_t token) {{ return {name}_prefill(model, &token, 1); }}

static const float *{name}_logits_of(const {session_} *session) {{
    int64_t row = session->length - 1 - (session->end - session->rows);
    return session->rows > 0 && row >= 0 ? session->logits + row * {upper}_VOCABULARY : NULL;
}}

const float *{name}_logits(const {name} *model) {{
    return {name}_logits_of({name}_session_of(model));
}}

int64_t {name}_best_token(const {name} *model) {{
    const float *logits = {name}_logits(model);
    int64_t best = logits == NULL ? -1 : 0;
    for (int64_t i = 0; best >= 0 && i < {upper}_VOCABULARY; i++) {{
        if (logits[i] != logits[i])
            best = -1;
        else if (logits[i] > logits[best])
            best = i;
    }}
    return best;
}}

int64_t {name}_length(const {name} *model) {{ return {name}_session_of(model)->length; }}

int {name}_rewind({name} *model, int64_t length) {{
    {session_} *session = {name}_session_of(model);
    if (length < 0 || length > session->length)
        return kk_refuse((kk_context *)model, "the context holds %lld tokens, not %lld",
                         (long long)session->length, (long long)length);
    session->length = length;
    return 0;
}}

const int64_t *{name}_tokens(const {name} *model) {{ return {name}_session_of(model)->tokens; }}

int {name}_guess({name} *model, const int64_t *tokens, int64_t count) {{
    if (count > {upper}_GUESSES)
        return kk_refuse((kk_context *)model, "at most %d tokens go through at once, not %lld",
                         {upper}_GUESSES, (long long)count);
    return {name}_add(model, tokens, count, count);
}}

int64_t {name}_verify({name} *model, const int64_t *tokens, int64_t count) {{
    {session_} *session = {name}_session_of(model);
    int64_t first = session->length, kept = 1;
    if ({name}_guess(model, tokens, count) != 0)
        return 0;
    for (session->length = first + 1; kept < count; session->length = first + ++kept)
        if ({name}_best_token(model) != tokens[kept])
            break;
    return kept;
}}

int64_t {name}_lookup(const {name} *model, int64_t token, int64_t *guesses, int64_t most) {{
    const {session_} *session = {name}_session_of(model);
    return kk_lookup(session->tokens, session->length, token, guesses, most);
}}
{_batch_functions(i, name)}"""


def _first_session(i: Interface, name: str) -> str:
    return f"    {name}_session *first = {name}_sessions(model);\n" if _batch(i) > 1 else ""


def _sizes(i: Interface) -> dict[str, str]:
    """The open sizes of a call of `_add`, as C expressions."""
    sizes = {"outputs": "(done + size == count) * outputs", SOURCE: "session->source"}
    if _batch(i) == 1:
        return sizes | {"tokens": "size", "past": "session->length + done"}
    for n in range(_batch(i)):
        own = f"(session == first + {n})"
        sizes[f"tokens_{n}"] = f"{own} * size"
        sizes[f"past_{n}"] = f"first[{n}].length + {own} * done"
    return sizes


def states(i: Interface, name: str) -> str:
    """The definitions that keep what a context holds."""
    if not keeps_states(i) or i.generation is None:
        return ""
    session_, upper = f"{name}_session", name.upper()
    rows = [_cache_row(i.generation.caches_of(n)) for n in range(_batch(i))]
    count = len(i.generation.caches_of(0))
    return f"""\
static const kk_cache {name}_caches[{_batch(i)}][{count}] = {{
{"".join(rows)}}};

/* What there is to keep; logits where some follow the last token. */
static kk_state {name}_state_of({name} *model, int with_logits) {{
    {session_} *session = {name}_session_of(model);
    const float *logits = {name}_logits(model);
    return (kk_state){{
        .caches = {name}_caches[{name}_sessions(model)->selected],
        .cache_count = {count},
        .tokens = session->tokens,
        .logits = logits == NULL ? session->logits : session->logits + (logits - session->logits),
        .logits_bytes = with_logits ? {upper}_VOCABULARY * (int64_t)sizeof *logits : 0,
        .length = session->length,
        .source = session->source,
        .capacity = {upper}_CAPACITY,
        .most_source = {i.encoder.max_source if i.encoder else 0},
    }};
}}

int {name}_save({name} *model, const char *path) {{
    kk_state state = {name}_state_of(model, {name}_logits(model) != NULL);
    return kk_save_state((kk_context *)model, &state, path);
}}

int {name}_load({name} *model, const char *path) {{
    {session_} *session = {name}_session_of(model);
    kk_state state = {name}_state_of(model, 1);
    state.logits = session->logits;
    int code = kk_load_state((kk_context *)model, &state, path);
    if (code != 0 && state.length == session->length)
        return code;
    session->length = session->end = state.length;
    session->source = state.source;
    session->rows = code == 0 && state.logits_bytes > 0;
    return code;
}}

static void {name}_take({name} *model, {session_} *session, const {name} *from,
    const {session_} *other) {{
    const float *logits = {name}_logits_of(other);
    int64_t least = session->length < other->length ? session->length : other->length, common = 0;
    if (session == other)
        return;
{_common_tokens(i)}\
    session->length = session->end = other->length;
    session->source = other->source;
    session->rows = logits != NULL;
    memcpy(session->tokens, other->tokens, (size_t)other->length * sizeof *other->tokens);
    if (logits != NULL)
        memcpy(session->logits, logits, {upper}_VOCABULARY * sizeof *logits);
    kk_copy_caches(((kk_context *)model)->arena, {name}_caches[session - {name}_sessions(model)],
                   ((const kk_context *)from)->arena, {name}_caches[other - {name}_sessions(from)],
                   {count}, common, other->length > other->source ? other->length : other->source);
}}

void {name}_copy({name} *model, const {name} *from) {{
    {name}_take(model, {name}_session_of(model), from, {name}_session_of(from));
}}
{_batch_states(i, name)}"""


def _common_tokens(i: Interface) -> str:
    """Equal tokens have left equal bits, unless texts are made from different sources."""
    if i.encoder is not None:
        return "    (void)least;\n"
    return """\
    while (common < least && session->tokens[common] == other->tokens[common])
        common++;
"""


def _cache_row(parts: Sequence[tuple[int, ...]]) -> str:
    """The caches of one sequence in C."""
    lines = "".join(f"        {{{', '.join(map(str, part))}}},\n" for part in parts)
    return f"    {{\n{lines}    }},\n"


def _batch_header(i: Interface, name: str) -> str:
    """The declarations of models whose contexts hold several sequences."""
    if _batch(i) == 1:
        return ""
    api, upper = f"{name.upper()}_API", name.upper()
    return f"""
/* A context holds {upper}_BATCH sequences, each with tokens of its own. */
enum {{ {upper}_BATCH = {_batch(i)} }};

/* All other functions are about this sequence from now on, at first 0. Returns 0, or another number
 * for one that does not exist. */
{api} int {name}_select({name} *model, int64_t sequence);

/* Adds one token to each of `count` sequences, all different, in one pass that reads each weight
 * once; select one to see its logits. Returns 0; on failure another number, and these sequences
 * are as before, without logits. */
{api} int {name}_step_batch({name} *model, const int64_t *sequences, const int64_t *tokens,
                            int64_t count);

/* Makes a sequence hold what another one of this context holds. */
{api} int {name}_copy_sequence({name} *model, int64_t to, int64_t from);
"""


def _batch_functions(i: Interface, name: str) -> str:
    if _batch(i) == 1:
        return ""
    upper, session_ = name.upper(), f"{name}_session"
    sizes = {"outputs": "count"}
    for n in range(_batch(i)):
        sizes |= {f"tokens_{n}": f"place[{n}] >= 0", f"past_{n}": f"sessions[{n}].length"}
    symbols = ", ".join(sizes[symbol] for symbol in i.symbols)
    return f"""
static int {name}_check_sequence({name} *model, int64_t sequence) {{
    if (sequence >= 0 && sequence < {upper}_BATCH)
        return 0;
    return kk_refuse((kk_context *)model, "sequence %lld: there are 0 to %d", (long long)sequence,
                     {upper}_BATCH - 1);
}}

int {name}_select({name} *model, int64_t sequence) {{
    int code = {name}_check_sequence(model, sequence);
    if (code == 0)
        {name}_sessions(model)->selected = sequence;
    return code;
}}

/* Where in `sequences` each sequence is, or -1; 0 unless they are wrong. */
static int {name}_places({name} *model, const int64_t *sequences, int64_t count, int64_t *place) {{
    {session_} *sessions = {name}_sessions(model);
    if (count < 1 || count > {upper}_BATCH)
        return kk_refuse((kk_context *)model, "a step of %lld sequences: there are %d",
                         (long long)count, {upper}_BATCH);
    for (int64_t n = 0; n < {upper}_BATCH; n++)
        place[n] = -1;
    for (int64_t k = 0; k < count; k++) {{
        int code = {name}_check_sequence(model, sequences[k]);
        if (code != 0)
            return code;
        if (place[sequences[k]] >= 0)
            return kk_refuse((kk_context *)model, "sequence %lld is given twice",
                             (long long)sequences[k]);
        if (sessions[sequences[k]].length == {upper}_CAPACITY)
            return kk_refuse((kk_context *)model,
                             "the context holds at most %d tokens, and sequence %lld has as many",
                             {upper}_CAPACITY, (long long)sequences[k]);
        place[sequences[k]] = k;
    }}
    return 0;
}}

int {name}_step_batch({name} *model, const int64_t *sequences, const int64_t *tokens,
                      int64_t count) {{
    {session_} *sessions = {name}_sessions(model), *first = NULL;
    int64_t place[{upper}_BATCH], given[{upper}_BATCH], row = 0;
    int code = {name}_places(model, sequences, count, place);
    if (code != 0)
        return code;
    for (int64_t n = 0; n < {upper}_BATCH; n++)
        if (place[n] >= 0) {{
            first = first == NULL ? sessions + n : first;
            sessions[n].rows = 0;
            given[row++] = tokens[place[n]];
        }}
    code = {name}_run(model, given, first->logits, {symbols});
    row = 0;
    for (int64_t n = 0; code == 0 && n < {upper}_BATCH; n++)
        if (place[n] >= 0) {{
            if (row > 0)
                memcpy(sessions[n].logits, first->logits + row * {upper}_VOCABULARY,
                       {upper}_VOCABULARY * sizeof *first->logits);
            sessions[n].tokens[sessions[n].length++] = given[row++];
            sessions[n].rows = 1;
            sessions[n].end = sessions[n].length;
        }}
    return code;
}}
"""


def _batch_states(i: Interface, name: str) -> str:
    if _batch(i) == 1:
        return ""
    return f"""
int {name}_copy_sequence({name} *model, int64_t to, int64_t from) {{
    {name}_session *sessions = {name}_sessions(model);
    int code = {name}_check_sequence(model, to) || {name}_check_sequence(model, from);
    if (code == 0)
        {name}_take(model, sessions + to, model, sessions + from);
    return code;
}}
"""


def _source_check(i: Interface) -> str:
    if i.encoder is None:
        return ""
    return """\
    if (session->source == 0)
        return kk_refuse((kk_context *)model, "there is no source: encode one first");
"""


def _encoder_functions(i: Interface, name: str) -> str:
    if i.encoder is None:
        return ""
    upper, session_ = name.upper(), f"{name}_session"
    (tokens,) = i.encoder.entry.inputs
    return f"""\
int {name}_encode({name} *model, const int64_t *tokens, int64_t count) {{
    {session_} *session = {name}_session_of(model);
    session->length = session->rows = session->source = 0;
    if (count < 1)
        return kk_refuse((kk_context *)model, "the source has no tokens");
    if (count > {upper}_MAX_SOURCE)
        return kk_refuse((kk_context *)model,
                         "the source has %lld tokens, but {name} was compiled for at most %d",
                         (long long)count, {upper}_MAX_SOURCE);
    {name}_encode_call call = {{
        .context = (kk_context *)model,
        .{c_identifier(tokens.name)} = tokens,
        .{SOURCE} = count,
    }};
    int code = kk_run(call.context, {name}_encode_body, &call, NULL, INT64_MAX);
    if (code == 0)
        session->source = count;
    return code;
}}

int64_t {name}_source_length(const {name} *model) {{ return {name}_session_of(model)->source; }}

"""


def example(name: str, i: Interface) -> str:
    """A small program: continues a prompt of token ids greedily, or makes a text from a source."""
    name = c_identifier(name)
    what = "Continues a prompt" if i.encoder is None else "Makes a text from a source"
    return f"""\
/* {what}, always with the likeliest token, and prints the ids of what comes.
 * Usage: {name}_example WEIGHTS NEW_TOKENS ID [ID ...] */
#include <stdio.h>
#include <stdlib.h>

#include "{name}.h"

int main(int argc, char **argv) {{
    char error[256];
    if (argc < 4) {{
        fprintf(stderr, "usage: %s WEIGHTS NEW_TOKENS ID [ID ...]\\n", argv[0]);
        return 2;
    }}
    {name} *model = {name}_create(argv[1], 1, error, sizeof error);
    if (model == NULL) {{
        fprintf(stderr, "%s\\n", error);
        return 1;
    }}
    int code = 0;
{_example_input(i, name)}\
    for (int64_t left = atoll(argv[2]); left > 0 && code == 0; left--) {{
        int64_t token = {name}_best_token(model);
        printf("%lld%s", (long long)token, left > 1 ? " " : "\\n");
        fflush(stdout);
        if (left > 1)
            code = {name}_step(model, token);
    }}
    if (code != 0)
        fprintf(stderr, "%s\\n", {name}_error(model));
    {name}_destroy(model);
    return code != 0;
}}
"""


def _example_input(i: Interface, name: str) -> str:
    """What the example does with its ids."""
    if i.encoder is None:
        return f"""\
    int64_t count = argc - 3, prompt[argc];
    for (int i = 0; i < count; i++)
        prompt[i] = atoll(argv[i + 3]);
    code = {name}_prefill(model, prompt, count);
"""
    starts = ", ".join(map(str, i.encoder.start_tokens)) or "0"
    return f"""\
    static int64_t source[{name.upper()}_MAX_SOURCE];
    const int64_t starts[] = {{{starts}}};
    int count = argc - 3 < {name.upper()}_MAX_SOURCE ? argc - 3 : {name.upper()}_MAX_SOURCE;
    for (int i = 0; i < count; i++)
        source[i] = atoll(argv[3 + i]);
    code = {name}_encode(model, source, count);
    if (code == 0)
        code = {name}_prefill(model, starts, sizeof starts / sizeof *starts);
"""
