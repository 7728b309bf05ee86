"""The C texts around the printed functions: header, public functions, CMake file, example."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kaoken.backend import generation_api, generation_states
from kaoken.backend.generation_session import session, session_bytes
from kaoken.backend.interface import Entry, Interface, Role, TensorSpec
from kaoken.backend.names import c_identifier
from kaoken.dialect.dims import Dim, product
from kaoken.dialect.generation import ENCODE

C_TYPES = {
    "float64": "double",
    "float32": "float",
    "float16": "uint16_t",
    "bfloat16": "uint16_t",
    "int64": "int64_t",
    "int32": "int32_t",
    "int16": "int16_t",
    "int8": "int8_t",
    "uint64": "uint64_t",
    "uint32": "uint32_t",
    "uint16": "uint16_t",
    "uint8": "uint8_t",
    "bool": "bool",
}
"""numpy dtype name -> the element type in the public header (float16, bfloat16: their bits)."""

_ITEM_BYTES = {name: int("".join(filter(str.isdigit, name)) or 8) // 8 for name in C_TYPES}

_LINE = 100
_CREATE_PARAMETERS = (
    "const char *weights_path",
    "int threads",
    "char *error",
    "size_t error_size",
)
STATE_HEADER = "kaoken_state.h"
"""What models that generate text include besides."""
_RUNTIME_HEADER = '#include "kaoken_runtime.h"'


@dataclass(frozen=True)
class ModelText:
    """What the C texts say about one build of a model."""

    interface: Interface
    name: str
    target: str
    features: Sequence[str]
    threads: int
    weights_bytes: int
    digest: str
    version: str


def header(m: ModelText) -> str:
    """The public header: how to create, run and destroy contexts of the model."""
    name, guard = m.name, f"{m.name.upper()}_H"
    api = f"{name.upper()}_API"
    create = _prototype(f"{api} {name} *{name}_create", _CREATE_PARAMETERS)
    run = _prototype(f"{api} int {name}_run", _parameters(m, m.interface.main))
    return f"""\
/* {name}: a model compiled by kaoken {m.version} for {m.target}.
 *
{_describe(m)}
 */
#ifndef {guard}
#define {guard}

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#if defined(__GNUC__)
#define {api} __attribute__((visibility("default")))
#else
#define {api}
#endif

typedef struct {name} {name};

/* Checks the CPU, maps the weights file and reserves memory; everything a call needs is then there.
 * threads: 1 to {m.threads}. On failure returns NULL and writes one sentence into error.
 * A context serves one caller at a time; different contexts share nothing that changes.
 * After fork() the new process creates its own. */
{create};

/* Runs the model once. Arrays are row-major and contiguous; outputs are written by this call.
 * Returns 0, or another number when the input is unsuitable: {name}_error then says why. */
{run};

/* The sentence that belongs to the last failed call of this context. */
{api} const char *{name}_error(const {name} *model);

/* Ends the context's threads and frees its memory. NULL is allowed. */
{api} void {name}_destroy({name} *model);
{generation_api.header(m.interface, name)}{_timers_header(m)}
#ifdef __cplusplus
}}
#endif

#endif
"""


def _timers_header(m: ModelText) -> str:
    """How to read the timers of a model that has some."""
    if not m.interface.timers:
        return ""
    name, api = m.name, f"{m.name.upper()}_API"
    return f"""
/* How often one thread ran one call of a kernel, how long it worked, and how long it then waited
 * for other threads: nanoseconds, summed since the last reset. */
typedef struct {name}_timer {{
    int64_t calls, worked, waited;
}} {name}_timer;

/* Gives the number of timers, and writes those of a thread (0 is the caller) into timers unless
 * that is NULL. What each is for stands in manifest.json. */
{api} int {name}_timers(const {name} *model, int thread, {name}_timer *timers);

{api} void {name}_reset_timers({name} *model);
"""


def entries(i: Interface) -> dict[str, Entry]:
    """The functions that callers reach, by their names in the IR."""
    return {"main": i.main} | ({} if i.encoder is None else {ENCODE: i.encoder.entry})


def source(m: ModelText, code: str, calls: Mapping[str, str]) -> str:
    """The model's translation unit: the printed functions and the public ones around them.

    `calls` are those of the printed entries, over the names that `_body` declares.
    """
    runtime = "" if _RUNTIME_HEADER in code else f"\n{_RUNTIME_HEADER}\n"
    if m.interface.generation is not None:
        runtime += f'\n#include "{STATE_HEADER}"\n'
    parts = [
        f"/* {m.name}: compiled by kaoken {m.version} for {m.target}. See {m.name}.h for its use.\n"
        f" *\n{_describe(m)}\n */\n",
        f'#include "{m.name}.h"\n{runtime}',
        code.strip() + "\n",
        session(m.interface, m.name),
        _description(m),
        *(_body(m, name, entry, calls[name]) for name, entry in entries(m.interface).items()),
        _functions(m),
        generation_api.functions(m.interface, m.name),
        generation_states.states(m.interface, m.name),
    ]
    return "\n".join(part for part in parts if part)


def cmake(m: ModelText, flags: Mapping[str, Sequence[str]]) -> str:
    """CMakeLists.txt for the library and the example; `flags` by compiler, `gcc` and `clang`."""
    return f"""\
# Builds the model as a library, and example.c with it:
#   cmake -S . -B build && cmake --build build && build/{m.name}_example {m.name}.weights
cmake_minimum_required(VERSION 3.13)
project({m.name} C)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_C_STANDARD 11)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
find_package(Threads REQUIRED)

add_library({m.name} {m.name}.c kaoken_runtime.c kaoken_cpu.c)
target_include_directories({m.name} PUBLIC "${{CMAKE_CURRENT_SOURCE_DIR}}")
target_link_libraries({m.name} PUBLIC Threads::Threads m)

# Only the model itself is built for {m.target}: the CPU is checked before it runs.
if(CMAKE_C_COMPILER_ID MATCHES "Clang")
  set(MODEL_FLAGS "{";".join(flags["clang"])}")
else()
  set(MODEL_FLAGS "{";".join(flags["gcc"])}")
endif()
set_source_files_properties({m.name}.c PROPERTIES COMPILE_OPTIONS "${{MODEL_FLAGS}}")

add_executable({m.name}_example example.c)
target_link_libraries({m.name}_example {m.name})
"""


def example(m: ModelText) -> str:
    """A small program: every size 1 (or as given), every input 1, the first outputs printed."""
    i = m.interface
    if i.generation is not None:
        return generation_api.example(m.name, i)
    sizes = "\n".join(
        f"    int64_t {c_identifier(s)} = argc > {n} ? atoll(argv[{n}]) : 1;"
        for n, s in enumerate(i.symbols, 2)
    )
    usage = " ".join(["WEIGHTS", *(f"[{s.upper()}]" for s in i.symbols)])
    names = [*_names(i.inputs), *_names(i.outputs), *map(c_identifier, i.symbols)]
    return f"""\
/* Runs {m.name} once on inputs that are all 1, and prints the first values of each output.
 * Usage: {m.name}_example {usage} */
#include <stdio.h>
#include <stdlib.h>

#include "{m.name}.h"

int main(int argc, char **argv) {{
    char error[256];
{sizes}
    const char *weights = argc > 1 ? argv[1] : "{m.name}.weights";
    {m.name} *model = {m.name}_create(weights, 1, error, sizeof error);
    if (model == NULL) {{
        fprintf(stderr, "%s\\n", error);
        return 1;
    }}
{chr(10).join(_allocate(t) for t in (*i.inputs, *i.outputs))}
{chr(10).join(_fill(t) for t in i.inputs)}
    int code = {m.name}_run({", ".join(["model", *names])});
    if (code != 0)
        fprintf(stderr, "%s\\n", {m.name}_error(model));
{chr(10).join(_show(t) for t in i.outputs)}
{chr(10).join(f"    free({c_identifier(t.name)});" for t in (*i.inputs, *i.outputs))}
    {m.name}_destroy(model);
    return code != 0;
}}
"""


def _names(tensors: Iterable[TensorSpec]) -> list[str]:
    return [c_identifier(t.name) for t in tensors]


def _count(tensor: TensorSpec) -> str:
    """The number of elements as a C expression."""
    sizes = ["(size_t)1", *(f"(size_t)({_c_dim(str(d))})" for d in tensor.shape)]
    return " * ".join(sizes)


def _c_dim(text: str) -> str:
    return re.sub(r"[A-Za-z_]\w*", lambda m: c_identifier(m.group()), text)


def _allocate(tensor: TensorSpec) -> str:
    name, type_ = c_identifier(tensor.name), C_TYPES[tensor.dtype]
    return (
        f"    size_t {name}_count = {_count(tensor)};\n"
        f"    {type_} *{name} = calloc({name}_count, sizeof *{name});"
    )


def _fill(tensor: TensorSpec) -> str:
    name = c_identifier(tensor.name)
    return f"    for (size_t i = 0; i < {name}_count; i++)\n        {name}[i] = 1;"


def _show(tensor: TensorSpec) -> str:
    name = c_identifier(tensor.name)
    return (
        f'    printf("{tensor.name}:");\n'
        f"    for (size_t i = 0; i < {name}_count && i < 8; i++)\n"
        f'        printf(" %g", (double){name}[i]);\n'
        f'    printf("\\n");'
    )


def _describe(m: ModelText) -> str:
    i = m.interface
    lines = [f"input   {_tensor_text(t)}" for t in i.inputs]
    lines += [f"output  {_tensor_text(t)}" for t in i.outputs]
    lines += [f"size    {s}: {i.least.get(s, 1)} to {limit}" for s, limit in i.symbols.items()]
    memory = i.arena_bytes + session_bytes(i)
    lines.append(f"memory  {memory} bytes a context, {m.weights_bytes} bytes of weights")
    return "\n".join(f" *   {line}" for line in lines)


def _tensor_text(tensor: TensorSpec) -> str:
    sizes = ", ".join(str(d) for d in tensor.shape)
    return f"{c_identifier(tensor.name)}: {C_TYPES[tensor.dtype]} [{sizes}]"


def _prototype(head: str, parameters: Sequence[str]) -> str:
    """`head(parameters)` in lines of at most 100 characters."""
    one = f"{head}({', '.join(parameters)})"
    if len(one) + 2 <= _LINE:
        return one
    rows = _wrapped(", ".join(p.replace(" ", "\0") for p in parameters))
    return f"{head}(\n    " + "\n    ".join(row.replace("\0", " ") for row in rows) + ")"


def _parameters(m: ModelText, entry: Entry) -> list[str]:
    inputs = [f"const {C_TYPES[t.dtype]} *{c_identifier(t.name)}" for t in entry.inputs]
    outputs = [f"{C_TYPES[t.dtype]} *{c_identifier(t.name)}" for t in entry.outputs]
    sizes = [f"int64_t {c_identifier(s)}" for s in entry.symbols]
    return [f"{m.name} *model", *inputs, *outputs, *sizes]


def _strings(name: str, values: Sequence[str]) -> str:
    lines = "".join(f'    "{_escape(v)}",\n' for v in values)
    return f"static const char *const {name}[] = {{\n{lines}}};\n" if values else ""


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _description(m: ModelText) -> str:
    i, limits = m.interface, ", ".join(map(str, m.interface.symbols.values()))
    least = ", ".join(str(i.least.get(symbol, 1)) for symbol in i.symbols)
    numbers = f"static const int64_t {m.name}_limits[] = {{{limits}}};\n" if i.symbols else ""
    numbers += f"static const int64_t {m.name}_least[] = {{{least}}};\n" if i.least else ""
    return f"""\
{_strings(f"{m.name}_symbols", list(i.symbols))}{numbers}{_strings(f"{m.name}_errors", i.errors)}
static const kk_model {m.name}_description = {{
    .name = "{m.name}",
    .features = "{" ".join(m.features)}",
    .weights_digest = "{m.digest}",
    .weights_bytes = {m.weights_bytes}u,
    .arena_bytes = {i.arena_bytes + session_bytes(i)}u,
    .max_threads = {m.threads},
    .symbol_count = {len(i.symbols)},
    .symbol_names = {f"{m.name}_symbols" if i.symbols else "NULL"},
    .symbol_limits = {f"{m.name}_limits" if i.symbols else "NULL"},
    .symbol_least = {f"{m.name}_least" if i.least else "NULL"},
    .error_count = {len(i.errors)},
    .errors = {f"{m.name}_errors" if i.errors else "NULL"},
    .timer_count = {len(i.timers)},
}};
"""


def _body(m: ModelText, name: str, entry: Entry, call: str) -> str:
    """The arguments of one call as a struct, and the function that each team member runs."""
    fields = "".join(f"    {p};\n" for p in _parameters(m, entry)[1:])
    unused = "" if entry.threaded else "    (void)team;\n"
    prefix = m.name if name == "main" else f"{m.name}_{name}"
    return f"""\
typedef struct {prefix}_call {{
    kk_context *context;
{fields}}} {prefix}_call;

static void {prefix}_body(void *argument, kk_team *team) {{
    const {prefix}_call *call = argument;
{unused}    {call};
}}
"""


def entry_call(m: ModelText, name: str, function: str, weights: bool) -> str:
    """The C call of a printed entry inside `_body`; `function` is its name in C."""
    i = entries(m.interface)[name]
    named = {
        Role.INPUT: iter(f"call->{n}" for n in _names(i.inputs)),
        Role.OUTPUT: iter(f"call->{n}" for n in _names(i.outputs)),
        Role.SYMBOL: iter(f"call->{c_identifier(s)}" for s in i.symbols),
        Role.ARENA: iter(["call->context->arena"]),
        Role.STATUS: iter(["call->context->status"]),
        Role.TEAM: iter(["team"]),
        Role.TIMERS: iter(["kk_start_timers(call->context, team)"]),
    }
    arguments = ["call->context->weights"] if weights else []
    arguments += [next(named[role]) for role in i.roles]
    call = f"{function}({', '.join(arguments)})"
    return "\n".join(_wrapped(call, subsequent_indent=" " * 8))


def _wrapped(text: str, subsequent_indent: str = "") -> list[str]:
    """Lines of words that stay whole, however long a model's name is, with the arrows in them."""
    return textwrap.wrap(
        text,
        _LINE - 8,
        subsequent_indent=subsequent_indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _functions(m: ModelText) -> str:
    i, name = m.interface, m.name
    names = [*_names(i.inputs), *_names(i.outputs), *map(c_identifier, i.symbols)]
    values = "".join(f"        .{n} = {n},\n" for n in names)
    symbols = ", ".join(map(c_identifier, i.symbols))
    sizes = f"    const int64_t sizes[] = {{{symbols}}};\n" if i.symbols else ""
    return f"""\
{_prototype(f"{name} *{name}_create", _CREATE_PARAMETERS)} {{
    return ({name} *)kk_create(&{name}_description, weights_path, threads, error, error_size);
}}

{_prototype(f"int {name}_run", _parameters(m, i.main))} {{
    {name}_call call = {{
        .context = (kk_context *)model,
{values}    }};
{_limit_checks(m)}{sizes}\
    const int64_t bytes = {_c_dim(str(_bytes_of_call(m)))};
    return kk_run(call.context, {name}_body, &call, {"sizes" if i.symbols else "NULL"}, bytes);
}}

const char *{name}_error(const {name} *model) {{ return kk_error((const kk_context *)model); }}

void {name}_destroy({name} *model) {{ kk_destroy((kk_context *)model); }}
{_timers_functions(m)}"""


def _bytes_of_call(m: ModelText) -> Dim:
    """What a call reads and writes at least: weights, inputs and outputs."""
    tensors = (*m.interface.inputs, *m.interface.outputs)
    sizes = (product(t.shape) * _ITEM_BYTES[t.dtype] for t in tensors)
    return sum(sizes, Dim.of(m.weights_bytes))


def _limit_checks(m: ModelText) -> str:
    """Sizes that depend on each other, checked before a call."""
    checks = [
        f"""\
    if ({_c_dim(str(size))} > {_c_dim(str(most))})
        return kk_refuse(call.context, "{size} is %lld, but {m.name} takes at most {most}",
                         (long long)({_c_dim(str(size))}));
"""
        for size, most in m.interface.limits
    ]
    return "".join(checks)


def _timers_functions(m: ModelText) -> str:
    if not m.interface.timers:
        return ""
    name = m.name
    return f"""
_Static_assert(sizeof({name}_timer) == sizeof(kk_timer), "the same numbers");

int {name}_timers(const {name} *model, int thread, {name}_timer *timers) {{
    return kk_read_timers((const kk_context *)model, thread, (kk_timer *)timers);
}}

void {name}_reset_timers({name} *model) {{ kk_reset_timers((kk_context *)model); }}
"""
