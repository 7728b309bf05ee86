"""Where vector values live: along which dimensions they vary, and which of them share variables.

A vector is printed as an array of registers over its last dimension, but only along the
dimensions it varies in: `vector<8x48xf32>` read with the map `(d0, d1) -> (d0, 0)` is 8 scalars.
An accumulator that a loop carries, its initial value, the value yielded and the loop's result
share one array, updated in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from xdsl.dialects import affine, arith, func, scf, vector
from xdsl.dialects.builtin import AffineMapAttr, DenseIntOrFPElementsAttr, VectorType
from xdsl.ir import BlockArgument, Operation, SSAValue
from xdsl.ir.affine import AffineDimExpr

from kaoken.backend.printer.elements import describe
from kaoken.backend.printer.types import vector_shape
from kaoken.dialect.kaoken_loop import StepOp

Dims = frozenset[int]


@dataclass(frozen=True)
class Transfer:
    """A vector read from or written to memory: vector dimension i moves along memref dimension
    `dims[i]`, or along none."""

    memref: SSAValue
    indices: tuple[SSAValue, ...]
    dims: tuple[int | None, ...]
    vector: SSAValue
    is_read: bool


def transfer_of(op: Operation) -> Transfer | None:
    """How a reading or writing op moves its vector, or None for another op."""
    if isinstance(op, vector.TransferReadOp | vector.TransferWriteOp):
        read = isinstance(op, vector.TransferReadOp)
        value = op.results[0] if read else op.operands[0]
        dims = _map_dims(op.permutation_map)
        return Transfer(op.source, tuple(op.indices), dims, value, read)
    if isinstance(op, vector.LoadOp | vector.StoreOp):
        read = isinstance(op, vector.LoadOp)
        value = op.results[0] if read else op.operands[0]
        rank, width = len(op.indices), len(vector_shape(value))
        dims = tuple(range(rank - width, rank))
        return Transfer(op.base, tuple(op.indices), dims, value, read)
    return None


def _map_dims(attr: AffineMapAttr) -> tuple[int | None, ...]:
    results = attr.data.results
    return tuple(e.position if isinstance(e, AffineDimExpr) else None for e in results)


def is_tile_op(op: Operation) -> bool:
    """Whether an op is printed inside a loop nest over the elements of a vector."""
    if isinstance(op, vector.TransferReadOp | vector.TransferWriteOp):
        return True
    if isinstance(op, vector.LoadOp | vector.StoreOp):
        return True
    if not op.results or not is_vector(op.results[0]):
        return False
    if isinstance(op, vector.BroadcastOp):
        return is_vector(op.source)
    if isinstance(op, StepOp):
        return True
    if isinstance(op, arith.ConstantOp):
        return not is_splat(op)
    return describe(op) is not None


def hint_of(value: SSAValue) -> str | None:
    """What to call a value; one read from memory is called after that memory."""
    if value.name_hint or not isinstance(value.owner, Operation):
        return value.name_hint
    transfer = transfer_of(value.owner)
    return f"{transfer.memref.name_hint or 't'}_v" if transfer else None


def is_vector(value: SSAValue) -> bool:
    return isinstance(value.type, VectorType)


def is_splat(op: arith.ConstantOp) -> bool:
    """Whether the lanes of a vector constant are all equal."""
    return isinstance(op.value, DenseIntOrFPElementsAttr) and op.value.is_splat()


@dataclass(eq=False)
class Storage:
    """The C variables of one or several vector values: an array over the dims they vary in."""

    shape: tuple[int, ...]
    element: str
    dims: Dims = frozenset()
    hint: str | None = None
    in_registers: bool = False
    """Whether some unrolled nest uses it: then no loop may index it with a variable."""
    is_carried: bool = False
    """Whether a loop or branch assigns it, so that it is no constant."""
    name: str | None = None

    @property
    def is_register(self) -> bool:
        """Whether the array's elements are vector registers, not scalars."""
        return len(self.shape) - 1 in self.dims


@dataclass(eq=False)
class TileNest:
    """Ops printed in one loop nest over `dims` of tiles of `shape`."""

    ops: list[Operation]
    shape: tuple[int, ...]
    dims: tuple[int, ...] = ()
    unrolled: bool = True


Item = Operation | TileNest


@dataclass
class Varying:
    """Along which dimensions every vector of a function varies: the least fixed point."""

    function: func.FuncOp
    dims: dict[SSAValue, Dims] = field(default_factory=dict)
    joined: list[tuple[SSAValue, SSAValue]] = field(default_factory=list)
    """Pairs of values that are to share their variables, so vary alike."""

    def solve(self) -> None:
        vector_ops = [op for op in self.function.walk() if _touches_vectors(op)]
        changed = True
        while changed:
            changed = any([self._visit(op) for op in vector_ops])
            for a, b in self.joined:
                changed |= self.add(a, self.of(b)) | self.add(b, self.of(a))

    def of(self, value: SSAValue) -> Dims:
        return self.dims.get(value, frozenset())

    def add(self, value: SSAValue, dims: Dims) -> bool:
        """Let a value vary along more dimensions; says whether that is news."""
        shape = vector_shape(value)
        new = self.of(value) | {d for d in dims if shape[d] > 1}
        if new == self.of(value):
            return False
        self.dims[value] = new
        return True

    def _visit(self, op: Operation) -> bool:
        if isinstance(op, affine.ForOp | scf.ForOp):
            return self._visit_loop(op)
        if isinstance(op, scf.IfOp | scf.IndexSwitchOp):
            return self._visit_branches(op)
        if not op.results or not is_vector(op.results[0]):
            return False
        return self.add(op.results[0], self._own_dims(op))

    def _visit_loop(self, op: affine.ForOp | scf.ForOp) -> bool:
        changed = False
        for init, arg, last, result in carried(op):
            if is_vector(init):
                changed |= self.add(arg, self.of(init) | self.of(last))
                changed |= self.add(result, self.of(arg))
        return changed

    def _visit_branches(self, op: Operation) -> bool:
        changed = False
        for region in op.regions:
            yielded = region.block.last_op.operands if region.blocks else ()  # type: ignore[union-attr]
            for value, result in zip(yielded, op.results, strict=False):
                if is_vector(value):
                    changed |= self.add(result, self.of(value))
        return changed

    def _own_dims(self, op: Operation) -> Dims:
        result = op.results[0]
        everything = frozenset(range(len(vector_shape(result))))
        if (transfer := transfer_of(op)) is not None:
            return frozenset(i for i, d in enumerate(transfer.dims) if d is not None)
        if isinstance(op, arith.ConstantOp):
            return frozenset() if is_splat(op) else everything
        if isinstance(op, StepOp):
            return frozenset(d for d, stride in enumerate(op.strides.get_values()) if stride)
        if isinstance(op, vector.ExtractOp):
            fixed = len(op.static_position)
            return frozenset(d - fixed for d in self.of(op.vector) if d >= fixed)
        return self._union(op, len(everything))

    def _union(self, op: Operation, rank: int) -> Dims:
        dims: set[int] = set()
        for operand in op.operands:
            if is_vector(operand):
                lead = rank - len(vector_shape(operand))
                dims.update(d + lead for d in self.of(operand))
        return frozenset(dims)


def _touches_vectors(op: Operation) -> bool:
    if isinstance(op, affine.ForOp | scf.ForOp | scf.IfOp | scf.IndexSwitchOp):
        return any(is_vector(r) for r in op.results)
    return bool(op.results) and is_vector(op.results[0])


def carried(
    op: affine.ForOp | scf.ForOp,
) -> Iterator[tuple[SSAValue, BlockArgument, SSAValue, SSAValue]]:
    """(initial value, value in the body, value yielded, result) for each that a loop carries."""
    block = op.body.block
    inits = op.inits if isinstance(op, affine.ForOp) else op.iter_args
    assert block.last_op is not None
    return zip(inits, block.args[1:], block.last_op.operands, op.results, strict=True)
