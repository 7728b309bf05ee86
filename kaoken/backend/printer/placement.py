"""Groups the vector ops of a function into loop nests and gives every vector value its variables.

A run is a maximal sequence of vector ops on tiles of one shape. It becomes one nest, preceded by
nests for what varies only along inner dimensions (a bias read once for all rows). Small nests are
unrolled, so that arrays become registers; large ones (long polynomials) stay rolled.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from xdsl.dialects import affine, func, memref, scf
from xdsl.ir import Block, BlockArgument, Operation, SSAValue
from xdsl.traits import Pure

from kaoken.backend.printer.elements import describe
from kaoken.backend.printer.tiles import (
    Dims,
    Item,
    Storage,
    TileNest,
    Varying,
    carried,
    hint_of,
    is_tile_op,
    is_vector,
    transfer_of,
)
from kaoken.backend.printer.types import element_type, short_name, vector_shape

UNROLL_LIMIT = 128
"""The most statements that a nest may unroll to."""


@dataclass
class Placement:
    """Which nests a function's blocks hold, and where each of its vector values is kept."""

    function: func.FuncOp
    lanes: int
    plans: dict[Block, list[Item]] = field(default_factory=dict)
    storage: dict[SSAValue, Storage] = field(default_factory=dict)
    nests: dict[Operation, TileNest] = field(default_factory=dict)
    varying: Varying = field(init=False)

    def __post_init__(self) -> None:
        self.varying = Varying(self.function)
        runs = {block: plan_runs(block) for block in _blocks(self.function)}
        loops = [op for op in self.function.walk() if isinstance(op, affine.ForOp | scf.ForOp)]
        wanted = self._joins(loops)
        self.varying.joined = wanted
        self.varying.solve()
        for block, items in runs.items():
            self.plans[block] = self._split_items(items)
        self._place_carried(loops, wanted)
        self._place_rest()
        self._mark_registers(loops)

    def dims(self, value: SSAValue) -> Dims:
        return self.varying.of(value)

    def iterations(self, dims: tuple[int, ...] | Dims, shape: tuple[int, ...]) -> int:
        """How many registers a nest over some dims of a tile goes through."""
        count = 1
        for d in dims:
            count *= -(-shape[d] // self.lanes) if d == len(shape) - 1 else shape[d]
        return count

    def level(self, op: Operation) -> tuple[int, ...]:
        """The loops of its nest that an op stands in."""
        if (transfer := transfer_of(op)) is not None and not transfer.is_read:
            shape = vector_shape(transfer.vector)
            return tuple(d for d, size in enumerate(shape) if size > 1)
        return tuple(sorted(self.dims(op.results[0])))

    def _joins(self, loops: list[affine.ForOp | scf.ForOp]) -> list[tuple[SSAValue, SSAValue]]:
        """(value, loop argument) pairs that may share variables."""
        pairs: list[tuple[SSAValue, SSAValue]] = []
        for loop in loops:
            for init, arg, last, _ in carried(loop):
                if not is_vector(init):
                    continue
                if _is_stored_alone(init, loop):
                    pairs.append((init, arg))
                if _may_update(arg, last, loop.body.block):
                    pairs.append((last, arg))
        return pairs

    def _split_items(self, items: list[list[Operation] | Operation]) -> list[Item]:
        plan: list[Item] = []
        for item in items:
            plan.extend(self._split_run(item) if isinstance(item, list) else [item])
        return plan

    def _split_run(self, ops: list[Operation], rolled: bool = False) -> list[TileNest]:
        """The nests of a run: single values, what varies along inner dims only, the rest."""
        if not ops:
            return []
        levels = {op: self.level(op) for op in ops}
        single = [op for op in ops if not levels[op]]
        rest = [op for op in ops if levels[op]]
        dims = tuple(sorted({d for level in levels.values() for d in level}))
        aside = [op for op in rest if levels[op] != dims[: len(levels[op])]]
        if (cut := _first_user(aside, set(rest) - set(aside))) is not None:
            at = ops.index(cut)
            return self._split_run(ops[:at], rolled) + self._split_run(ops[at:], rolled)
        main = [op for op in rest if op not in aside]
        deepest = sum(len(levels[op]) == len(dims) for op in main)
        shape = vector_shape(_tile(ops[0]))
        rolled |= self.iterations(dims, shape) * deepest > UNROLL_LIMIT
        nests = [self._nest(single, shape, (), False)] if single else []
        nests += self._split_run(aside, rolled)
        return nests + ([self._nest(main, shape, dims, rolled)] if main else [])

    def _nest(
        self, ops: list[Operation], shape: tuple[int, ...], dims: tuple[int, ...], rolled: bool
    ) -> TileNest:
        nest = TileNest(ops, shape, dims, not rolled)
        self.nests.update((op, nest) for op in ops)
        return nest

    def _place_carried(
        self, loops: list[affine.ForOp | scf.ForOp], wanted: list[tuple[SSAValue, SSAValue]]
    ) -> None:
        """Outer loops first, so that an inner loop's value finds the place it is to share."""
        shared = set(wanted)
        for loop in loops:
            for init, arg, last, result in carried(loop):
                if not is_vector(init):
                    continue
                self._place_loop_value(init, arg, result, (init, arg) in shared)
                if (last, arg) in shared and self._is_safe_update(arg, last):
                    self.storage.setdefault(last, self.storage[arg])

    def _place_loop_value(
        self, init: SSAValue, arg: SSAValue, result: SSAValue, share: bool
    ) -> None:
        storage = self.storage.get(result)
        if share:
            storage = self.storage.get(init, storage)
        if storage is None:
            storage = self._new_storage(result)
            storage.hint = result.name_hint or arg.name_hint or "acc"
        storage.is_carried = True
        if share:
            self.storage[init] = storage
        self.storage[arg] = self.storage[result] = storage

    def _is_safe_update(self, arg: SSAValue, last: SSAValue) -> bool:
        """Whether nothing reads the loop's old value after the new one is written."""
        assert isinstance(last.owner, Operation)
        block = last.owner.parent
        assert block is not None
        order = {item: i for i, item in enumerate(self.plans[block])}
        written = order[self._item(last.owner)]
        return all(
            (user := _ancestor_in(block, use.operation)) is not None
            and order[self._item(user)] <= written
            for use in arg.uses
        )

    def _item(self, op: Operation) -> Item:
        return self.nests.get(op, op)

    def _place_rest(self) -> None:
        """Variables for values that leave their nest."""
        for op in self.function.walk():
            for result in op.results:
                if not is_vector(result) or result in self.storage:
                    continue
                nest = self.nests.get(op)
                branches = isinstance(op, scf.IfOp | scf.IndexSwitchOp)
                if branches or (nest is not None and self._leaves(result, nest)):
                    self._new_storage(result).is_carried = branches

    def _leaves(self, value: SSAValue, nest: TileNest) -> bool:
        return any(self.nests.get(use.operation) is not nest for use in value.uses)

    def _new_storage(self, value: SSAValue) -> Storage:
        shape = vector_shape(value)
        short = short_name(element_type(value))
        storage = Storage(shape, short, self.dims(value), hint_of(value))
        self.storage[value] = storage
        return storage

    def _mark_registers(self, loops: list[affine.ForOp | scf.ForOp]) -> None:
        """Arrays that some unrolled nest uses: all their indices must be constants."""
        for op, nest in self.nests.items():
            if nest.unrolled and nest.dims:
                for value in (*op.operands, *op.results):
                    if (storage := self.storage.get(value)) is not None:
                        storage.in_registers = True

    def copies_unrolled(self, storage: Storage) -> bool:
        """Whether a copy of the whole array is small enough to unroll."""
        return self.iterations(storage.dims, storage.shape) <= UNROLL_LIMIT


def plan_runs(block: Block) -> list[list[Operation] | Operation]:
    """A block's ops in order, vector ops on equal tiles gathered into lists.

    Scalar ops that stand between them and cannot depend on them come first.
    """
    items: list[list[Operation] | Operation] = []
    run: list[Operation] = []
    for op in block.ops:
        if run and not _fits(op, run):
            items.append(run)
            run = []
        if is_tile_op(op):
            run.append(op)
        else:
            items.append(op)
    if run:
        items.append(run)
    return items


def _fits(op: Operation, run: list[Operation]) -> bool:
    """Whether an op may join a run, or be printed before it."""
    writes = any(_writes(member) for member in run)
    if is_tile_op(op):
        same = vector_shape(_tile(op)) == vector_shape(_tile(run[0]))
        return same and not (writes and transfer_of(op) is not None and not _writes(op))
    if any(operand.owner in run for operand in op.operands if isinstance(operand.owner, Operation)):
        return False
    if isinstance(op, memref.LoadOp | affine.LoadOp):
        return not writes
    return not op.regions and (op.has_trait(Pure) or describe(op) is not None)


def _writes(op: Operation) -> bool:
    return (transfer := transfer_of(op)) is not None and not transfer.is_read


def _tile(op: Operation) -> SSAValue:
    """The vector whose shape an op's nest goes over."""
    transfer = transfer_of(op)
    return transfer.vector if transfer is not None else op.results[0]


def _first_user(ops: list[Operation], producers: set[Operation]) -> Operation | None:
    for op in ops:
        if any(operand.owner in producers for operand in op.operands):
            return op
    return None


def _is_stored_alone(init: SSAValue, loop: Operation) -> bool:
    """Whether a loop's initial value is kept in variables that nobody else needs."""
    if init.has_one_use() and isinstance(init.owner, Operation):
        stored = is_tile_op(init.owner) or isinstance(init.owner, affine.ForOp | scf.ForOp)
        return stored and init.owner.parent is loop.parent
    return init.has_one_use() and isinstance(init, BlockArgument)


def _may_update(arg: SSAValue, last: SSAValue, block: Block) -> bool:
    """Whether the value yielded could be written over the one carried in."""
    owner = last.owner
    if not isinstance(owner, Operation) or owner.parent is not block:
        return False
    if isinstance(owner, affine.ForOp | scf.ForOp):
        init = next(i for i, _, _, result in carried(owner) if result is last)
        return init is arg and last.has_one_use() and arg.has_one_use()
    return is_tile_op(owner) and _yielded_once(last)


def _yielded_once(value: SSAValue) -> bool:
    return sum(isinstance(u.operation, affine.YieldOp | scf.YieldOp) for u in value.uses) == 1


def _ancestor_in(block: Block, op: Operation) -> Operation | None:
    current: Operation | None = op
    while current is not None and current.parent is not block:
        current = current.parent_op()
    return current


def _blocks(function: func.FuncOp) -> list[Block]:
    return [b for op in function.walk() for region in op.regions for b in region.blocks]
