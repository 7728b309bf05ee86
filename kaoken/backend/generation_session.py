"""What a context of a model that generates text keeps besides the caches, as a C struct.

It lies behind the planned arena: for each sequence its tokens, and the last logits.
"""

from __future__ import annotations

from collections.abc import Sequence

from kaoken.backend.interface import Interface

_ALIGNMENT = 64


def session_bytes(i: Interface) -> int:
    """What the session takes behind the planned arena, in bytes."""
    if i.generation is None:
        return 0
    return padding(i) + i.generation.batch * _struct_bytes(i)


def _struct_bytes(i: Interface) -> int:
    """A line for the numbers, the tokens, the logits, up to the struct's alignment of 8 bytes."""
    assert i.generation is not None
    logits = 4 * outputs(i) * vocabulary(i)
    return _ALIGNMENT + 8 * i.generation.capacity + -(-logits // 8) * 8


def batch(i: Interface) -> int:
    return 1 if i.generation is None else i.generation.batch


def outputs(i: Interface) -> int:
    """How many rows of logits one call gives at most."""
    return i.symbols.get("outputs", 1)


def padding(i: Interface) -> int:
    return -i.arena_bytes % _ALIGNMENT


def vocabulary(i: Interface) -> int:
    """How many logits there are."""
    size = i.outputs[0].shape[-1].constant
    assert size is not None
    return size


def cache_row(parts: Sequence[tuple[int, ...]]) -> str:
    """Parts of the caches, those of one sequence, in C."""
    lines = "".join(f"        {{{', '.join(map(str, part))}}},\n" for part in parts)
    return f"    {{\n{lines}    }},\n"


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
    float logits[{outputs(i) * vocabulary(i)}];
}} {name}_session;

_Static_assert(sizeof({name}_session) == {_struct_bytes(i)}, "as planned");
"""
