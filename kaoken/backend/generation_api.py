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

from kaoken.backend import generation_batch, generation_encoder, generation_states
from kaoken.backend.generation_session import batch, outputs, padding, vocabulary
from kaoken.backend.interface import Interface
from kaoken.backend.names import c_identifier
from kaoken.dialect.generation import SOURCE, source_symbol


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
    {upper}_GUESSES = {outputs(i)},
}};

/* Forgets all tokens. */
{api} void {name}_reset({name} *model);

{generation_encoder.header(i, name)}\
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
{generation_states.header(i, name)}{generation_batch.header(i, name)}"""


def functions(i: Interface, name: str) -> str:
    """The definitions of what `header` declares."""
    if i.generation is None:
        return ""
    upper, session_ = name.upper(), f"{name}_session"
    piece = i.symbols["tokens" if batch(i) == 1 else "tokens_0"]
    sizes = _sizes(i)
    symbols = ", ".join(sizes[symbol] for symbol in i.symbols)
    place = f"(char *)context->arena + {i.arena_bytes + padding(i)}"
    return f"""\
static {session_} *{name}_sessions(const {name} *model) {{
    const kk_context *context = (const kk_context *)model;
    return ({session_} *)(void *)({place});
}}

static {session_} *{name}_session_of(const {name} *model) {{
    {session_} *first = {name}_sessions(model);
    return first{" + first->selected" if batch(i) > 1 else ""};
}}

{generation_encoder.functions(i, name)}\
void {name}_reset({name} *model) {{
    {session_} *session = {name}_session_of(model);
    session->length = session->rows = 0;
}}

/* Adds tokens; logits follow the last `outputs` of them. */
static int {name}_add({name} *model, const int64_t *tokens, int64_t count, int64_t outputs) {{
    {session_} *session = {name}_session_of(model);
{generation_batch.first_session(i, name)}\
    session->rows = 0;
    if (count < 1)
        return kk_refuse((kk_context *)model, "there are no tokens to add");
{generation_encoder.source_check(i)}\
    if (count > {upper}_CAPACITY - session->length)
        return kk_refuse((kk_context *)model,
                         "the context holds at most %d tokens: it has %lld, "
                         "and %lld more were given: compile with a larger max_tokens",
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
{generation_batch.functions(i, name)}"""


def _sizes(i: Interface) -> dict[str, str]:
    """The open sizes of a call of `_add`, as C expressions."""
    sizes = {"outputs": "(done + size == count) * outputs"}
    if batch(i) == 1:
        own = {"tokens": "size", "past": "session->length + done", SOURCE: "session->source"}
        return sizes | own
    for n in range(batch(i)):
        own = f"(session == first + {n})"
        sizes[str(source_symbol(n, batch(i)))] = f"first[{n}].source"
        sizes[f"tokens_{n}"] = f"{own} * size"
        sizes[f"past_{n}"] = f"first[{n}].length + {own} * done"
    return sizes


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
