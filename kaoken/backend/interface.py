"""What a compiled model takes and gives: the names, types and sizes that its callers see.

`interface_of` reads it from the lowered `@main`, whose arguments say by attribute what they are:
tensors with `kaoken.shape` (results carry `kaoken.result`), sizes with `kaoken.name` alone, and
the arena, the status, the team and the timers by their types. Where there is an `@encode`, which
reads the source of what `@main` generates, it says of itself the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from xdsl.dialects.builtin import (
    ArrayAttr,
    DenseArrayBase,
    DictionaryAttr,
    FloatAttr,
    IndexType,
    IntegerAttr,
    MemRefType,
    ModuleOp,
    StringAttr,
    i1,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute

from kaoken.analysis.cost import cost_texts
from kaoken.backend.names import c_identifier
from kaoken.dialect.attributes import Shape, ShapeAttr
from kaoken.dialect.dims import Dim
from kaoken.dialect.generation import ENCODE, SOURCE
from kaoken.dialect.kaoken_loop import TeamType, TimersType
from kaoken.dtypes import dtype_name
from kaoken.errors import KaokenError

TIMERS = "kaoken.timers"
ENCODER = "kaoken.encoder"
"""Module attribute: what a text that is made from a source begins with, and forced tokens."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: row-major, its sizes in elements."""

    name: str
    dtype: str
    shape: Shape

    def as_json(self) -> dict[str, object]:
        sizes = [str(d) if d.constant is None else d.constant for d in self.shape]
        return {"name": self.name, "dtype": self.dtype, "shape": sizes}


class Role(Enum):
    """What an argument of the lowered `@main` is."""

    INPUT = "input"
    OUTPUT = "output"
    SYMBOL = "symbol"
    ARENA = "arena"
    STATUS = "status"
    TEAM = "team"
    TIMERS = "timers"


@dataclass(frozen=True)
class Entry:
    """A function that callers reach: `roles` of its arguments in order, open sizes with maxima."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    symbols: Mapping[str, int]
    roles: tuple[Role, ...]

    @property
    def threaded(self) -> bool:
        return Role.TEAM in self.roles or Role.TIMERS in self.roles


@dataclass(frozen=True)
class Encoder:
    """What reads the source, in models that make a text from another one.

    The text begins with `start_tokens`.
    """

    entry: Entry
    start_tokens: tuple[int, ...] = ()

    @property
    def max_source(self) -> int:
        """The most tokens that it reads."""
        return self.entry.symbols[SOURCE]

    def as_json(self) -> dict[str, object]:
        return {
            "max_source": self.max_source,
            "start_tokens": list(self.start_tokens),
        }


@dataclass(frozen=True)
class Generation:
    """What makes a model one that generates text: tokens that its caches hold, and so on."""

    capacity: int
    end_tokens: tuple[int, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Options of `generate` by transformers' names, as the model's own configuration has them."""
    caches: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    """Where each cache's parts are in the arena, as `plan-memory` tells: the fields of kk_cache,
    and a sixth that says of which sequence, where there are several."""
    batch: int = 1
    """How many sequences a context holds."""

    def as_json(self) -> dict[str, object]:
        numbers = {"capacity": self.capacity, "end_tokens": list(self.end_tokens)}
        return {**numbers, "batch": self.batch, "defaults": dict(self.defaults)}

    def caches_of(self, sequence: int) -> list[tuple[int, ...]]:
        """The parts of one sequence's caches."""
        parts = [part for parts in self.caches.values() for part in parts]
        return [part[:5] for part in parts if part[5:] in ((), (sequence,))]

    def source_caches_of(self, sequence: int) -> list[tuple[int, ...]]:
        """The parts of the caches that hold what a sequence's text is made from.

        Those of sequence `batch` are what `@encode` writes, in the same order.
        """
        written = [name for name, parts in self.caches.items() if parts[0][5:] == (self.batch,)]
        stems = [name.rpartition(".")[0] for name in written]
        return [p[:5] for stem in stems for p in self.caches[f"{stem}.{sequence}"]]


@dataclass(frozen=True)
class Interface:
    """The public face of one model; `roles` are those of `@main`'s arguments in order.

    `name` is a C identifier. The trees are the structures of arguments and result, as the
    frontend's `pytree` describes them; without an input tree, arguments are the inputs one by one.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    symbols: Mapping[str, int]
    errors: tuple[str, ...]
    arena_bytes: int
    roles: tuple[Role, ...]
    output_tree: Mapping[str, Any] = field(default_factory=lambda: {"kind": "tuple"})
    input_tree: Mapping[str, Any] | None = None
    timers: tuple[Mapping[str, str], ...] = ()
    """What each timer of an instrumented model is for, as `instrument` says it."""
    least: Mapping[str, int] = field(default_factory=dict)
    """The least that a symbol may be, where that is not 1."""
    limits: tuple[tuple[Dim, Dim], ...] = ()
    """Pairs of sizes of which the first may be at most the second."""
    generation: Generation | None = None
    encoder: Encoder | None = None

    @property
    def main(self) -> Entry:
        return Entry(self.inputs, self.outputs, self.symbols, self.roles)


def interface_of(module: ModuleOp, name: str | None = None) -> Interface:
    """The interface of a fully lowered module; KaokenError when there is no lowered `@main`.

    `name` is the model's, by default what the module says.
    """
    main = main_of(module)
    entry = _entry(main)
    return Interface(
        c_identifier(name or _string(module, "kaoken.name") or "model"),
        entry.inputs,
        entry.outputs,
        entry.symbols,
        _errors(module),
        _arena_bytes(module),
        entry.roles,
        json.loads(_string(module, "kaoken.output_tree") or _default_tree(len(entry.outputs))),
        json.loads(_string(module, "kaoken.input_tree") or "null"),
        _timers(module),
        _sizes(main, "kaoken.least"),
        _limits(main),
        _generation(module),
        _encoder(module),
    )


def _entry(function: FuncOp) -> Entry:
    roles = tuple(_role(function, i) for i in range(len(function.args)))
    names = [_text(function, i, "kaoken.name") for i, r in enumerate(roles) if r is Role.SYMBOL]
    maxima = _sizes(function, "kaoken.max")
    return Entry(
        tuple(_tensor(function, i) for i, r in enumerate(roles) if r is Role.INPUT),
        tuple(_tensor(function, i) for i, r in enumerate(roles) if r is Role.OUTPUT),
        {name: maxima[name] for name in names},
        roles,
    )


def _default_tree(outputs: int) -> str:
    return json.dumps({"kind": "tensor" if outputs == 1 else "tuple"})


def _string(module: ModuleOp, key: str) -> str | None:
    value = module.attributes.get(key)
    return value.data if isinstance(value, StringAttr) else None


def main_of(module: ModuleOp) -> FuncOp:
    """`@main`; KaokenError when there is none."""
    if (main := function_named(module, "main")) is None:
        raise KaokenError("the module has no function @main")
    return main


def function_named(module: ModuleOp, name: str) -> FuncOp | None:
    functions = (op for op in module.ops if isinstance(op, FuncOp))
    return next((f for f in functions if f.sym_name.data == name), None)


def _attributes(main: FuncOp, index: int) -> Mapping[str, Attribute]:
    declared = main.arg_attrs.data if main.arg_attrs is not None else ()
    return declared[index].data if index < len(declared) else {}


def _text(main: FuncOp, index: int, key: str) -> str:
    value = _attributes(main, index).get(key)
    if isinstance(value, StringAttr):
        return value.data
    return main.args[index].name_hint or f"arg{index}"


def _role(main: FuncOp, index: int) -> Role:
    type_, attributes = main.args[index].type, _attributes(main, index)
    if "kaoken.result" in attributes:
        return Role.OUTPUT
    if "kaoken.shape" in attributes:
        return Role.INPUT
    if isinstance(type_, IndexType):
        return Role.SYMBOL
    if isinstance(type_, TeamType):
        return Role.TEAM
    if isinstance(type_, TimersType):
        return Role.TIMERS
    if isinstance(type_, MemRefType):
        return Role.STATUS if type_.get_shape() == (2,) else Role.ARENA
    raise KaokenError(f"@main is not lowered yet: its argument {index} is a {type_}")


def _tensor(main: FuncOp, index: int) -> TensorSpec:
    attributes = _attributes(main, index)
    key = "kaoken.result" if "kaoken.result" in attributes else "kaoken.name"
    shape, type_ = attributes["kaoken.shape"], main.args[index].type
    if not isinstance(shape, ShapeAttr) or not isinstance(type_, MemRefType):
        raise KaokenError(f"@main is not lowered yet: its argument {index} is a {type_}")
    return TensorSpec(_text(main, index, key), dtype_name(type_.element_type), shape.data)


def _sizes(main: FuncOp, key: str) -> dict[str, int]:
    """A dictionary of numbers, such as `kaoken.max`."""
    declared = main.attributes.get(key)
    if not isinstance(declared, DictionaryAttr):
        return {}
    pairs = declared.data.items()
    return {name: value.value.data for name, value in pairs if isinstance(value, IntegerAttr)}


def _limits(main: FuncOp) -> tuple[tuple[Dim, Dim], ...]:
    """`kaoken.limits`: a list of `#kaoken.shape<[size, most]>`."""
    declared = main.attributes.get("kaoken.limits")
    if not isinstance(declared, ArrayAttr):
        return ()
    pairs = [pair.data for pair in declared if isinstance(pair, ShapeAttr)]
    return tuple((pair[0], pair[1]) for pair in pairs)


def _generation(module: ModuleOp) -> Generation | None:
    declared = module.attributes.get("kaoken.generation")
    if not isinstance(declared, DictionaryAttr):
        return None
    capacity, ends = declared.data.get("capacity"), declared.data.get("end_tokens")
    if not isinstance(capacity, IntegerAttr) or not isinstance(ends, ArrayAttr):
        raise KaokenError("kaoken.generation says a capacity and a list of end_tokens")
    tokens = tuple(token.value.data for token in ends if isinstance(token, IntegerAttr))
    defaults = declared.data.get("defaults")
    pairs = defaults.data.items() if isinstance(defaults, DictionaryAttr) else ()
    values = {name: _option(value) for name, value in pairs}
    batch = declared.data.get("batch")
    count = batch.value.data if isinstance(batch, IntegerAttr) else 1
    return Generation(capacity.value.data, tokens, values, _caches(module), count)


def _caches(module: ModuleOp) -> dict[str, tuple[tuple[int, ...], ...]]:
    """`kaoken.caches`: for each cache's parts offset, blocks, stride, tokens and bytes."""
    declared = module.attributes.get("kaoken.caches")
    named = declared.data.items() if isinstance(declared, DictionaryAttr) else ()
    return {
        name: tuple(tuple(p.get_values()) for p in parts if isinstance(p, DenseArrayBase))
        for name, parts in named
        if isinstance(parts, ArrayAttr)
    }


def _option(value: Attribute) -> Any:
    """A default of `generate`: a number, or lists of them."""
    if isinstance(value, ArrayAttr):
        return [_option(item) for item in value]
    if isinstance(value, IntegerAttr):
        return bool(value.value.data) if value.type == i1 else value.value.data
    if isinstance(value, FloatAttr):
        return value.value.data
    raise KaokenError(f"kaoken.generation: a default is a number or a list, not {value}")


def _encoder(module: ModuleOp) -> Encoder | None:
    if (function := function_named(module, ENCODE)) is None:
        return None
    declared = module.attributes.get(ENCODER)
    given = declared.data if isinstance(declared, DictionaryAttr) else {}
    starts = given.get("start_tokens")
    return Encoder(
        _entry(function),
        tuple(v.value.data for v in starts if isinstance(v, IntegerAttr))
        if isinstance(starts, ArrayAttr)
        else (),
    )


def _errors(module: ModuleOp) -> tuple[str, ...]:
    texts = module.attributes.get("kaoken.errors")
    if not isinstance(texts, ArrayAttr):
        return ()
    return tuple(text.data for text in texts if isinstance(text, StringAttr))


def _timers(module: ModuleOp) -> tuple[Mapping[str, str], ...]:
    described = module.attributes.get(TIMERS)
    return tuple(map(cost_texts, described)) if isinstance(described, ArrayAttr) else ()


def _arena_bytes(module: ModuleOp) -> int:
    size = module.attributes.get("kaoken.arena_bytes")
    return size.value.data if isinstance(size, IntegerAttr) else 0
