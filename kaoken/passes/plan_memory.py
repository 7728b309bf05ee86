"""`plan-memory`: give every buffer a fixed place in one arena.

    %h = memref.alloc(%tokens) : memref<?x1536xf32>
->
    %h = kaoken_loop.view %arena {offset = 786432 : i64} : memref<?xi8> -> memref<?x1536xf32>

Sizes are taken at the declared maxima. Buffers that do not live at the same time share memory:
greedy by size, each at the lowest offset where it fits (Pisarchyk and Lee, arXiv 2001.03288). A
buffer that an element-wise kernel writes takes over the place of one that it reads for the last
time. Functions are planned callees first: a call needs a block of the callee's own arena size
while it runs, for each thread one when the callee is a kernel. The module tells the size of
the arena and the lower bound, the most bytes that live at once.

States, which keep their contents between calls, come first in the arena and share with nothing.
Several functions that callers may call, such as `@encode` beside `@main`, share the states by name
and the rest of the one arena, for only one of them runs at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod

from xdsl.builder import Builder
from xdsl.context import Context
from xdsl.dialects import arith, func, memref
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    ArrayAttr,
    DenseArrayBase,
    DictionaryAttr,
    FixedBitwidthType,
    FunctionType,
    IntegerAttr,
    MemRefType,
    ModuleOp,
    StringAttr,
    i8,
    i64,
)
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from kaoken.analysis.arena import ALIGNMENT, Block, Interval, place
from kaoken.analysis.shapes import declared_maxima
from kaoken.dialect.kaoken_loop import StateOp, TeamType, ThreadIdOp, ViewOp
from kaoken.errors import KaokenError
from kaoken.passes.lower_to_loops import LowerToLoopsPass
from kaoken.passes.parallelize import THREADS

ARENA = "kaoken.arena_bytes"
LOWER_BOUND = "kaoken.arena_lower_bound"
STATE = "kaoken.state_bytes"
"""How many bytes at the start of the arena are states; only where there are some."""
CACHES = "kaoken.caches"
"""The parts of each state by name, as its op tells them, with offsets into the arena."""
ARENA_TYPE: MemRefType[Attribute] = MemRefType(i8, [DYNAMIC_INDEX])


@dataclass(frozen=True)
class PlanMemoryPass(ModulePass):
    """Replace allocations by fixed offsets into one arena."""

    name = "plan-memory"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        LowerToLoopsPass().apply(ctx, op)
        if ARENA in op.attributes:
            return
        planner = _Planner(op)
        if planner.states:
            op.attributes[STATE] = IntegerAttr(planner.state_bytes, i64)
        if planner.parts:
            op.attributes[CACHES] = DictionaryAttr(planner.parts)
        for function in planner.callees_first():
            planner.plan(function)
        arenas = [planner.arena_of(name) for name in planner.entries]
        op.attributes[ARENA] = IntegerAttr(max((a.size for a in arenas), default=0), i64)
        lower_bound = max((a.lower_bound for a in arenas), default=0)
        op.attributes[LOWER_BOUND] = IntegerAttr(lower_bound, i64)


@dataclass(frozen=True)
class _Arena:
    """What a function needs while it runs, in bytes."""

    size: int = 0
    lower_bound: int = 0


@dataclass
class _Planner:
    module: ModuleOp
    arenas: dict[str, _Arena] = field(default_factory=dict)
    kernels: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.functions = {f.sym_name.data: f for f in self.module.ops if isinstance(f, func.FuncOp)}
        threads = self.module.attributes.get(THREADS)
        self.threads = threads.value.data if isinstance(threads, IntegerAttr) else 1
        called = {c.callee.root_reference.data for f in self.functions.values() for c in _calls(f)}
        self.entries = [name for name in self.functions if name not in called]
        entries = [self.functions[name] for name in self.entries]
        self.maxima = {k: v for f in entries for k, v in declared_maxima(f).items()}
        self._place_states()

    def _place_states(self) -> None:
        """One behind the other, for they all live for ever."""
        self.states: dict[str, tuple[int, Attribute]] = {}
        self.state_bytes = 0
        self.parts: dict[str, Attribute] = {}
        for name, function in self.functions.items():
            for op in _states(function):
                if name not in self.entries:
                    raise KaokenError(f"@{name} has a state, but others call it: only callers may")
                self._place_state(op)

    def _place_state(self, op: StateOp) -> None:
        """Give a state its place; one that another function has as well is the same."""
        key, type_ = op.key.data, op.result.type
        assert isinstance(type_, MemRefType)
        if key in self.states:
            if (known := self.states[key][1]) != type_:
                raise KaokenError(f'the state "{key}" has two types, {known} and {type_}')
            return
        self.states[key] = self.state_bytes, type_
        if parts := _moved(op, self.state_bytes):
            self.parts[key] = ArrayAttr(parts)
        bytes_ = element_bytes(type_) * prod(type_.get_shape())
        self.state_bytes += -(-bytes_ // ALIGNMENT) * ALIGNMENT

    def arena_of(self, name: str) -> _Arena:
        return self.arenas.get(name, _Arena())

    def callees_first(self) -> list[func.FuncOp]:
        done: dict[str, func.FuncOp] = {}

        def visit(name: str) -> None:
            if name in done or name not in self.functions:
                return
            for call in _calls(self.functions[name]):
                visit(call.callee.root_reference.data)
            done[name] = self.functions[name]

        for name in self.functions:
            visit(name)
        return list(done.values())

    def plan(self, function: func.FuncOp) -> None:
        calls = _calls(function)
        if not calls:
            self.kernels.add(function.sym_name.data)
        blocks = self._buffers(function)
        frames = self._frames(calls)
        arena, lower_bound = place([*blocks, *frames.values()])
        states = _states(function)
        first = self.state_bytes if function.sym_name.data in self.entries else 0
        arena, lower_bound = arena + first, lower_bound + first
        self.arenas[function.sym_name.data] = _Arena(arena, lower_bound)
        if not arena:
            return
        pointer = _add_arena(function)
        base = self._own_part(function, pointer, arena)
        for block in blocks:
            for owner in block.owners:
                assert isinstance(owner, memref.AllocOp)
                _replace(owner, base, first + block.offset)
        for state in states:
            _replace(state, base, self.states[state.key.data][0])
        for call, frame in frames.items():
            _give_frame(call, base, first + frame.offset)

    def _buffers(self, function: func.FuncOp) -> list[Block]:
        """Every allocation with its size and the span of ops that use it."""
        sizes = argument_maxima(function, self.maxima)
        allocs = [op for op in function.walk() if isinstance(op, memref.AllocOp)]
        blocks = {op: Block([op], _bytes(op, sizes), _lifetime(op)) for op in allocs}
        for call in _calls(function):
            callee = self.functions.get(call.callee.root_reference.data)
            if callee is not None:
                _share_in_place(call, callee, blocks)
        return list({id(b): b for b in blocks.values()}.values())

    def _frames(self, calls: list[func.CallOp]) -> dict[func.CallOp, Block]:
        """A block for each call whose callee needs memory, for as long as the call runs."""
        frames: dict[func.CallOp, Block] = {}
        for call in calls:
            name = call.callee.root_reference.data
            size = self.arena_of(name).size * (self.threads if name in self.kernels else 1)
            if size:
                at = _position(call)
                frames[call] = Block([call], size, Interval(at, at))
        return frames

    def _own_part(self, function: func.FuncOp, pointer: SSAValue, size: int) -> SSAValue:
        """In a kernel that several threads run, the part of the memory that is this thread's."""
        team = next((a for a in function.args if isinstance(a.type, TeamType)), None)
        if team is None or function.sym_name.data not in self.kernels:
            return pointer
        first = function.body.block.first_op
        assert first is not None
        builder = Builder(InsertPoint.before(first))
        member = builder.insert(ThreadIdOp(team)).result
        bytes_ = builder.insert(arith.ConstantOp(IntegerAttr.from_index_int_value(size))).result
        extra = builder.insert(arith.MuliOp(member, bytes_)).result
        view = builder.insert(ViewOp(pointer, ARENA_TYPE, 0, extra))
        view.result.name_hint = "own"
        return view.result


def _states(function: func.FuncOp) -> list[StateOp]:
    return [op for op in function.walk() if isinstance(op, StateOp)]


def _moved(op: StateOp, offset: int) -> list[Attribute]:
    """The parts of a state that begins at that offset."""
    parts = [p.get_values() for p in op.parts or () if isinstance(p, DenseArrayBase)]
    return [DenseArrayBase.from_list(i64, [offset + first, *rest]) for first, *rest in parts]


def _calls(function: func.FuncOp) -> list[func.CallOp]:
    return [op for op in function.walk() if isinstance(op, func.CallOp)]


def _position(op: Operation) -> int:
    """The place of an op's top-level ancestor in its function."""
    while not isinstance(op.parent_op(), func.FuncOp):
        parent = op.parent_op()
        assert parent is not None
        op = parent
    assert op.parent is not None
    return op.parent.get_operation_index(op)


def _lifetime(op: memref.AllocOp) -> Interval:
    at = [_position(user) for user in _users(op.memref)] or [_position(op)]
    return Interval(min(at), max(at))


def _users(buffer: SSAValue) -> Iterable[Operation]:
    """What uses a buffer, through views of it."""
    for use in buffer.uses:
        if isinstance(use.operation, ViewOp):
            yield from _users(use.operation.result)
        else:
            yield use.operation


def _bytes(op: memref.AllocOp, maxima: dict[SSAValue, int]) -> int:
    type_ = op.memref.type
    assert isinstance(type_, MemRefType)
    count = 1
    dynamic = iter(op.dynamic_sizes)
    for size in type_.get_shape():
        count *= largest(next(dynamic), maxima) if size == DYNAMIC_INDEX else size
    return count * element_bytes(type_)


def element_bytes(type_: MemRefType[Attribute]) -> int:
    element = type_.element_type
    assert isinstance(element, FixedBitwidthType)
    return element.size


def argument_maxima(function: func.FuncOp, maxima: dict[str, int]) -> dict[SSAValue, int]:
    """The declared maximum of each index argument, by the symbol that it carries."""
    attributes = function.arg_attrs.data if function.arg_attrs is not None else ()
    known = {**maxima, **declared_maxima(function)}
    names = [a.data.get("kaoken.name") for a in attributes]
    return {
        argument: known[name.data]
        for argument, name in zip(function.args, names, strict=False)
        if isinstance(name, StringAttr) and name.data in known
    }


def largest(value: SSAValue, maxima: dict[SSAValue, int]) -> int:
    """The greatest number that a size can be. Raises KaokenError when nothing bounds it."""
    if value in maxima:
        return maxima[value]
    match value.owner:
        case arith.ConstantOp(value=IntegerAttr() as number):
            return number.value.data
        case arith.AddiOp():
            return largest(value.owner.lhs, maxima) + largest(value.owner.rhs, maxima)
        case arith.MuliOp():
            return largest(value.owner.lhs, maxima) * largest(value.owner.rhs, maxima)
        case _:
            name = value.name_hint or "a size"
            raise KaokenError(f"{name} has no declared maximum: add it to kaoken.max")


def _share_in_place(
    call: func.CallOp, callee: func.FuncOp, blocks: dict[memref.AllocOp, Block]
) -> None:
    """Let a kernel's result lie where an operand lies that it may overwrite and that dies here."""
    attributes = callee.arg_attrs.data if callee.arg_attrs is not None else ()
    for at, given in enumerate(attributes):
        place_ = given.data.get("kaoken.in_place")
        if not isinstance(place_, IntegerAttr):
            continue
        source, target = (_block_of(call.operands[i], blocks) for i in (at, place_.value.data))
        if source is None or target is None or source is target or source.size != target.size:
            continue
        if source.lifetime.last == _position(call) == target.lifetime.first:
            _merge(source, target, blocks)
            return


def _block_of(buffer: SSAValue, blocks: dict[memref.AllocOp, Block]) -> Block | None:
    while isinstance(buffer.owner, ViewOp):
        buffer = buffer.owner.source
    return blocks.get(buffer.owner) if isinstance(buffer.owner, memref.AllocOp) else None


def _merge(source: Block, target: Block, blocks: dict[memref.AllocOp, Block]) -> None:
    """One block for both, alive as long as either."""
    target.owners.extend(source.owners)
    target.lifetime = Interval(source.lifetime.first, target.lifetime.last)
    for owner in source.owners:
        assert isinstance(owner, memref.AllocOp)
        blocks[owner] = target


def _add_arena(function: func.FuncOp) -> SSAValue:
    pointer = function.body.block.insert_arg(ARENA_TYPE, len(function.args))
    pointer.name_hint = "arena"
    attributes = function.arg_attrs.data if function.arg_attrs is not None else ()
    if attributes:
        function.arg_attrs = ArrayAttr([*attributes, DictionaryAttr({})])
    types = function.function_type
    function.function_type = FunctionType.from_lists(
        [*types.inputs.data, ARENA_TYPE], list(types.outputs.data)
    )
    return pointer


def _replace(op: memref.AllocOp | StateOp, arena: SSAValue, offset: int) -> None:
    old = op.results[0]
    view = ViewOp(arena, old.type, offset)
    view.result.name_hint = old.name_hint
    Rewriter.replace_op(op, view)


def _give_frame(call: func.CallOp, arena: SSAValue, offset: int) -> None:
    builder = Builder(InsertPoint.before(call))
    frame = builder.insert(ViewOp(arena, ARENA_TYPE, offset))
    frame.result.name_hint = "frame"
    call.operands = [*call.operands, frame.result]
