"""The C functions of models that read a source before they make a text from it.

    t5_encode(model, source, n);
"""

from __future__ import annotations

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
