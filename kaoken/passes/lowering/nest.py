"""Building loop nests: thin words over affine, memref, arith and math ops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from xdsl.builder import Builder
from xdsl.dialects import affine, arith, memref, scf
from xdsl.dialects.builtin import (
    AffineMapAttr,
    AnyFloat,
    FloatAttr,
    IndexType,
    IntegerAttr,
    IntegerType,
    MemRefType,
    StringAttr,
)
from xdsl.ir import Attribute, Block, BlockArgument, Operation, Region, SSAValue
from xdsl.ir.affine import (
    AffineBinaryOpExpr,
    AffineBinaryOpKind,
    AffineConstantExpr,
    AffineDimExpr,
    AffineExpr,
    AffineMap,
)
from xdsl.rewriter import InsertPoint

from kaoken.dialect import kaoken_loop

Index = int | SSAValue

_ARITHMETIC = {
    AffineBinaryOpKind.Mul: arith.MuliOp,
    AffineBinaryOpKind.FloorDiv: arith.FloorDivSIOp,
    AffineBinaryOpKind.CeilDiv: arith.CeilDivSIOp,
    AffineBinaryOpKind.Mod: arith.RemSIOp,
}


@dataclass(frozen=True)
class Extent:
    """A loop bound: an affine map (its least result counts) over SSA sizes."""

    map: AffineMap
    operands: tuple[SSAValue, ...] = ()

    @staticmethod
    def of(size: Index | Extent) -> Extent:
        if isinstance(size, Extent):
            return size
        if isinstance(size, int):
            return Extent(AffineMap.constant_map(size))
        return Extent(AffineMap(0, 1, (AffineExpr.symbol(0),)), (size,))

    @property
    def constant(self) -> int | None:
        """The number of iterations where it is known."""
        if self.operands:
            return None
        return min(self.map.eval([], []))

    def ceildiv(self, divisor: int) -> Extent:
        """The number of blocks of `divisor` that cover this extent."""
        return self._each(lambda e: e.ceil_div(divisor), lambda n: -(-n // divisor))

    def floordiv(self, divisor: int) -> Extent:
        """The number of whole blocks of `divisor` in this extent."""
        return self._each(lambda e: e // divisor, lambda n: n // divisor)

    def rest(self, divisor: int) -> Extent:
        """What whole blocks of `divisor` leave of this extent, which must have one bound."""
        assert len(self.map.results) == 1
        return self._each(lambda e: e % divisor, lambda n: n % divisor)

    def times(self, factor: int) -> Extent:
        """This extent so many times."""
        return self._each(lambda e: e * factor, lambda n: n * factor)

    def _each(
        self, affine_form: Callable[[AffineExpr], AffineExpr], number: Callable[[int], int]
    ) -> Extent:
        if self.constant is not None:
            return Extent.of(number(self.constant))
        results = tuple(map(affine_form, self.map.results))
        return Extent(AffineMap(self.map.num_dims, self.map.num_symbols, results), self.operands)


@dataclass(frozen=True)
class Span:
    """The bounds first .. last of a loop, known only when it is reached: it is an `scf.for`."""

    first: SSAValue
    last: SSAValue


Bounds = Index | Extent | Span


class Nest:
    """Appends ops to a block; loops are context managers that move the place of insertion."""

    def __init__(self, block: Block):
        self.builder = Builder(InsertPoint.at_end(block))

    def insert(self, op: Operation) -> SSAValue:
        """Append an op and give its first result."""
        self.builder.insert(op)
        return op.results[0]

    @contextmanager
    def parallel(self, name: str, bounds: Bounds, step: int = 1) -> Iterator[SSAValue]:
        """A loop over 0 .. size, or over a span, whose iterations are independent."""
        block = Block(arg_types=[IndexType()])
        block.args[0].name_hint = name
        self._loop(name, kaoken_loop.PARALLEL, bounds, [], block, step)
        with self._inside(block):
            yield block.args[0]
            self._yield(bounds, [])

    def reduce(
        self,
        name: str,
        bounds: Bounds,
        inits: Sequence[SSAValue],
        body: Callable[[SSAValue, list[SSAValue]], Sequence[SSAValue]],
    ) -> list[SSAValue]:
        """A loop that carries values; `body` takes the index and them, and gives the next ones."""
        block = Block(arg_types=[IndexType(), *(v.type for v in inits)])
        block.args[0].name_hint = name
        for arg in block.args[1:]:
            arg.name_hint = "acc"
        loop = self._loop(name, kaoken_loop.REDUCTION, bounds, inits, block, 1)
        with self._inside(block):
            self._yield(bounds, body(block.args[0], list(block.args[1:])))
        return list(loop.results)

    def fold(
        self,
        name: str,
        bounds: Bounds,
        init: SSAValue,
        body: Callable[[SSAValue, SSAValue], SSAValue],
    ) -> SSAValue:
        """`reduce` of one value."""
        return self.reduce(name, bounds, [init], lambda i, acc: [body(i, acc[0])])[0]

    def _loop(
        self,
        name: str,
        kind: StringAttr,
        bounds: Bounds,
        inits: Sequence[SSAValue],
        block: Block,
        step: int,
    ) -> Operation:
        if isinstance(bounds, Span):
            region = Region(block)
            loop = scf.ForOp(bounds.first, bounds.last, self.index(step), inits, region)
        else:
            loop = _for(Extent.of(bounds), inits, block, step)
        loop.attributes[kaoken_loop.NAME] = StringAttr(name)
        loop.attributes[kaoken_loop.KIND] = kind
        self.builder.insert(loop)
        return loop

    def _yield(self, bounds: Bounds, values: Sequence[SSAValue]) -> None:
        is_span = isinstance(bounds, Span)
        self.builder.insert(scf.YieldOp(*values) if is_span else affine.YieldOp.get(*values))

    @contextmanager
    def when(self, condition: SSAValue) -> Iterator[None]:
        """`scf.if` without results."""
        block = Block()
        self.builder.insert(scf.IfOp(condition, [], Region(block)))
        with self._inside(block):
            yield
            self.builder.insert(scf.YieldOp())

    @contextmanager
    def _inside(self, block: Block) -> Iterator[None]:
        outer = self.builder.insertion_point
        self.builder.insertion_point = InsertPoint.at_end(block)
        try:
            yield
        finally:
            self.builder.insertion_point = outer

    def alloc(self, type_: MemRefType[Attribute], name: str) -> SSAValue:
        """Scratch memory of a known size; `plan-memory` finds it a place."""
        op = memref.AllocOp([], [], type_)
        op.results[0].name_hint = name
        return self.insert(op)

    def index(self, value: Index) -> SSAValue:
        if isinstance(value, SSAValue):
            return value
        return self.insert(arith.ConstantOp(IntegerAttr.from_index_int_value(value)))

    def affine(self, function: Callable[..., AffineExpr], *operands: Index) -> SSAValue:
        """An index that is an affine function of others; numbers among them are folded in.

        It is an `affine.apply`, or where that must not read an operand, arithmetic.
        """
        values = [v for v in operands if isinstance(v, SSAValue)]
        dims = iter(AffineExpr.dimension(i) for i in range(len(values)))
        arguments = [
            next(dims) if isinstance(v, SSAValue) else AffineExpr.constant(v) for v in operands
        ]
        expression = function(*arguments)
        if not all(map(may_be_dimension, values)):
            return self.index(self._arithmetic(expression, values))
        map_ = AffineMapAttr(AffineMap(len(values), 0, (expression,)))
        return self.insert(affine.ApplyOp(values, map_))

    def _arithmetic(self, expression: AffineExpr, values: list[SSAValue]) -> Index:
        match expression:
            case AffineConstantExpr():
                return expression.value
            case AffineDimExpr():
                return values[expression.position]
            case AffineBinaryOpExpr():
                a = self._arithmetic(expression.lhs, values)
                b = self._arithmetic(expression.rhs, values)
                if expression.kind is AffineBinaryOpKind.Add:
                    return self.add_index(a, b)
                return self.insert(_ARITHMETIC[expression.kind](self.index(a), self.index(b)))
        raise ValueError(f"no arithmetic for {expression}")

    def add_index(self, a: Index, b: Index) -> Index:
        """The sum of two indices, folded where both are numbers."""
        if isinstance(a, int) and isinstance(b, int):
            return a + b
        if a == 0 or b == 0:
            return b if a == 0 else a
        return self.insert(arith.AddiOp(self.index(a), self.index(b)))

    def multiply_index(self, a: Index, b: Index) -> Index:
        """The product of two indices, folded where both are numbers."""
        if isinstance(a, int) and isinstance(b, int):
            return a * b
        return self.insert(arith.MuliOp(self.index(a), self.index(b)))

    def load(self, source: SSAValue, *indices: Index) -> SSAValue:
        return self.insert(memref.LoadOp.get(source, [self.index(i) for i in indices]))

    def store(self, value: SSAValue, target: SSAValue, *indices: Index) -> None:
        indices_ = [self.index(i) for i in indices]
        self.builder.insert(memref.StoreOp.get(value, target, indices_))

    def constant(self, value: float, type_: Attribute) -> SSAValue:
        """A number of a float, integer or index type."""
        if isinstance(type_, IndexType):
            return self.index(int(value))
        if isinstance(type_, IntegerType):
            return self.insert(arith.ConstantOp(IntegerAttr(int(value), type_)))
        assert isinstance(type_, AnyFloat)
        return self.insert(arith.ConstantOp(FloatAttr(value, type_)))


def _for(size: Extent, inits: Sequence[SSAValue], block: Block, step: int) -> affine.ForOp:
    return affine.ForOp.from_region(
        [],
        size.operands,
        inits,
        [v.type for v in inits],
        0,
        AffineMapAttr(size.map),
        Region(block),
        step,
    )


def may_be_dimension(value: SSAValue) -> bool:
    """Whether MLIR lets affine ops read an index: what a span's loop counts, it does not."""
    if isinstance(value, BlockArgument):
        return not isinstance(value.owner.parent_op(), scf.ForOp)
    return isinstance(value.owner, affine.ApplyOp | arith.ConstantOp)
