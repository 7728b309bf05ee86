"""The C functions of models that read a source before they make a text from it.

    t5_encode(model, source, n);
"""

from __future__ import annotations

from kaoken.backend.generation_session import batch, cache_row
from kaoken.backend.interface import Interface
from kaoken.backend.names import c_identifier
from kaoken.dialect.generation import SOURCE


def header(i: Interface, name: str) -> str:
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


def source_check(i: Interface) -> str:
    if i.encoder is None:
        return ""
    return """\
    if (session->source == 0)
        return kk_refuse((kk_context *)model, "there is no source: encode one first");
"""


def functions(i: Interface, name: str) -> str:
    if i.encoder is None:
        return ""
    upper, session_ = name.upper(), f"{name}_session"
    (tokens,) = i.encoder.entry.inputs
    return f"""\
{_source_caches(i, name)}\
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
    if (code == 0) {{
{_hand_on(i, name)}\
        session->source = count;
    }}
    return code;
}}

int64_t {name}_source_length(const {name} *model) {{ return {name}_session_of(model)->source; }}

"""


def _source_caches(i: Interface, name: str) -> str:
    """Where each sequence has what its text is made from, and last where the encoder writes it."""
    assert i.generation is not None
    if batch(i) == 1:
        return ""
    parts = [i.generation.source_caches_of(n) for n in range(batch(i) + 1)]
    return f"""\
static const kk_cache {name}_source_caches[{batch(i) + 1}][{len(parts[0])}] = {{
{"".join(map(cache_row, parts))}}};

"""


def _hand_on(i: Interface, name: str) -> str:
    """The encoder writes to caches that are no sequence's: their rows go to the selected one's."""
    if batch(i) == 1 or i.generation is None:
        return ""
    parts = len(i.generation.source_caches_of(0))
    return f"""\
        char *arena = call.context->arena;
        int64_t selected = {name}_sessions(model)->selected;
        kk_copy_caches(arena, {name}_source_caches[selected], arena,
                       {name}_source_caches[{batch(i)}], {parts}, 0, count);
"""
