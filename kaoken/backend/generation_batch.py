"""The C functions of contexts that hold several sequences.

    smollm_select(model, 2);                             /* calls are about sequence 2 */
    smollm_step_batch(model, sequences, tokens, n);      /* one token each, in one pass */
"""

from __future__ import annotations

from kaoken.backend.generation_session import batch
from kaoken.backend.interface import Interface
from kaoken.dialect.generation import source_symbol


def header(i: Interface, name: str) -> str:
    """The declarations of models whose contexts hold several sequences."""
    if batch(i) == 1:
        return ""
    api, upper = f"{name.upper()}_API", name.upper()
    return f"""
/* A context holds {upper}_BATCH sequences, each with tokens of its own. */
enum {{ {upper}_BATCH = {batch(i)} }};

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


def first_session(i: Interface, name: str) -> str:
    return f"    {name}_session *first = {name}_sessions(model);\n" if batch(i) > 1 else ""


def functions(i: Interface, name: str) -> str:
    if batch(i) == 1:
        return ""
    upper, session_ = name.upper(), f"{name}_session"
    sizes = {"outputs": "count"}
    for n in range(batch(i)):
        sizes |= {f"tokens_{n}": f"place[{n}] >= 0", f"past_{n}": f"sessions[{n}].length"}
        sizes[str(source_symbol(n, batch(i)))] = f"sessions[{n}].source"
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
{_source_check(i)}\
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


def _source_check(i: Interface) -> str:
    if i.encoder is None:
        return ""
    return """\
        if (sessions[sequences[k]].source == 0)
            return kk_refuse((kk_context *)model,
                             "there is no source of sequence %lld: encode one first",
                             (long long)sequences[k]);
"""


def states(i: Interface, name: str) -> str:
    if batch(i) == 1:
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
