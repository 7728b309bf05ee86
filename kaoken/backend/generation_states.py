"""The C functions that keep what a context holds: in a file, or in another context.

    smollm_save(model, "prompt.state");
    smollm_load(model, "prompt.state");
    smollm_copy(model, other);
"""

from __future__ import annotations

from kaoken.backend import generation_batch
from kaoken.backend.generation_session import batch, cache_row
from kaoken.backend.interface import Interface


def header(i: Interface, name: str) -> str:
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


def keeps_states(i: Interface) -> bool:
    """Whether it is known which bytes of the caches belong to how many tokens."""
    return i.generation is not None and bool(i.generation.caches)


def states(i: Interface, name: str) -> str:
    """The definitions that keep what a context holds."""
    if not keeps_states(i) or i.generation is None:
        return ""
    session_, upper = f"{name}_session", name.upper()
    rows = [cache_row(i.generation.caches_of(n)) for n in range(batch(i))]
    count = len(i.generation.caches_of(0))
    return f"""\
static const kk_cache {name}_caches[{batch(i)}][{count}] = {{
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
{generation_batch.states(i, name)}"""


def _common_tokens(i: Interface) -> str:
    """Equal tokens have left equal bits, unless texts are made from different sources."""
    if i.encoder is not None:
        return "    (void)least;\n"
    return """\
    while (common < least && session->tokens[common] == other->tokens[common])
        common++;
"""
