"""Widening the ops of a loop body: what each value becomes when loops turn into vector lanes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from xdsl.builder import Builder
from xdsl.dialects import affine, arith, math, memref, scf, vector
from xdsl.dialects.arith import CMPF_COMPARISON_OPERATIONS, CMPI_COMPARISON_OPERATIONS
from xdsl.dialects.builtin import (
    AffineMapAttr,
    ArrayAttr,
    BFloat16Type,
    BoolAttr,
    DenseIntOrFPElementsAttr,
    Float16Type,
    Float32Type,
    FloatAttr,
    IndexType,
    IntegerAttr,
    IntegerType,
    MemRefType,
    VectorType,
    i1,
    i32,
)
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.ir.affine import (
    AffineBinaryOpExpr,
    AffineBinaryOpKind,
    AffineConstantExpr,
    AffineDimExpr,
    AffineExpr,
    AffineMap,
    AffineSymExpr,
)
from xdsl.rewriter import InsertPoint

from kaoken.dialect.kaoken_loop import CompareOp, ConvertOp, LookupOp, SelectOp, StepOp

_LANE_INTEGERS = (1, 8, 32)
"""Widths of integers that vectors may hold."""
_LANE_FLOATS = (Float32Type, Float16Type, BFloat16Type)

_SCALAR_ONLY = (
    arith.IndexCastOp,
    arith.FPToSIOp,
    arith.TruncIOp,
)
"""What xDSL 0.74 verifies on scalars alone and kaoken_loop has no vector form of."""


class CannotWiden(Exception):
    """A loop body holds something that has no vector form; the loop stays scalar."""


@dataclass(frozen=True)
class IndexForm:
    """An index as base + sum of stride times lane number, one stride a vector dimension."""

    base: SSAValue
    strides: tuple[int, ...]

    @property
    def is_uniform(self) -> bool:
        return not any(self.strides)


@dataclass
class Widener:
    """Rewrites ops into `block`; loop indices in `lanes` become the dimensions of `shape`."""

    shape: tuple[int, ...]
    lanes: dict[SSAValue, int]
    block: Block
    values: dict[SSAValue, SSAValue] = field(default_factory=dict)
    forms: dict[SSAValue, IndexForm] = field(default_factory=dict)
    zero: SSAValue | None = None
    """The index of every widened loop's first lane."""

    def __post_init__(self) -> None:
        self.builder = Builder(InsertPoint.at_end(self.block))
        if self.zero is None:
            self.zero = self.insert(arith.ConstantOp(IntegerAttr.from_index_int_value(0)))
        for iv, dim in self.lanes.items():
            strides = tuple(int(d == dim) for d in range(len(self.shape)))
            self.forms[iv] = IndexForm(self.zero, strides)

    def insert(self, op: Operation, like: SSAValue | None = None) -> SSAValue:
        self.builder.insert(op)
        if like is not None:
            op.results[0].name_hint = like.name_hint
        return op.results[0]

    def body(self, ops: list[Operation]) -> None:
        """Widen ops in order. Raises CannotWiden."""
        for op in ops:
            self.widen(op)

    def widen(self, op: Operation) -> None:
        match op:
            case affine.ForOp() | scf.ForOp():
                self._loop(op)
            case memref.LoadOp():
                self._load(op)
            case memref.StoreOp():
                self._store(op)
            case _ if op.regions or not op.results:
                raise CannotWiden(op.name)
            case _ if all(isinstance(r.type, IndexType) for r in op.results):
                self._index(op)
            case _:
                self._compute(op)

    # Values

    def scalar(self, value: SSAValue) -> SSAValue:
        """The new value of one that is the same in all lanes."""
        if value in self.forms and not self.forms[value].is_uniform:
            raise CannotWiden("an index that differs from lane to lane")
        new = self.forms[value].base if value in self.forms else self.values.get(value, value)
        if isinstance(new.type, VectorType):
            raise CannotWiden("a value that differs from lane to lane")
        return new

    def vector(self, value: SSAValue) -> SSAValue:
        """The new value as a vector of the full shape."""
        if isinstance(value.type, IndexType):
            form = self.form(value)
            return self.insert(StepOp(form.base, form.strides, self.shape))
        new = self.values.get(value, value)
        if isinstance(new.type, VectorType):
            return new
        type_ = self.vector_type(new.type)
        if isinstance(new.owner, arith.ConstantOp):
            return self._splat(new.owner, type_)
        return self.insert(vector.BroadcastOp(new, type_), new)

    def vector_type(self, element: Attribute) -> VectorType[Attribute]:
        is_lane = isinstance(element, _LANE_FLOATS) or (
            isinstance(element, IntegerType) and element.width.data in _LANE_INTEGERS
        )
        if not is_lane:
            raise CannotWiden(f"vectors of {element}")
        return VectorType(element, self.shape)

    def _splat(self, constant: arith.ConstantOp, type_: VectorType[Attribute]) -> SSAValue:
        value = constant.value
        assert isinstance(value, FloatAttr | IntegerAttr)
        return self.insert(_splat(value.value.data, type_))

    def is_varying(self, value: SSAValue) -> bool:
        if value in self.forms:
            return not self.forms[value].is_uniform
        return isinstance(self.values.get(value, value).type, VectorType)

    # Ops

    def _compute(self, op: Operation) -> None:
        """arith and math on one element, or on all lanes when an operand differs between them."""
        if not any(map(self.is_varying, op.operands)):
            self._clone(op)
            return
        wide = self._wide(op)
        self.builder.insert(wide)
        for old, new in zip(op.results, wide.results, strict=True):
            self.values[old] = new
            new.name_hint = old.name_hint

    def _wide(self, op: Operation) -> Operation:
        """The op on vectors; where xDSL verifies scalars alone, another that means the same."""
        match op:
            case arith.SelectOp() if not self.is_varying(op.cond):
                lhs, rhs = self.vector(op.lhs), self.vector(op.rhs)
                return arith.SelectOp(self.scalar(op.cond), lhs, rhs)
            case LookupOp():
                table = [self.scalar(op.table), self.scalar(op.at)]
                values = [self.vector(op.word), self.vector(op.acc)]
                return LookupOp(op.part.data, op.nibble.value.data, *table, *values)
            case arith.IndexCastOp() if op.result.type == i32:
                form = self.form(op.input)
                return StepOp(form.base, form.strides, self.shape)
            case _ if isinstance(op, _SCALAR_ONLY):
                raise CannotWiden(op.name)
            case _:
                operands = [self.vector(v) for v in op.operands]
                types = [self.vector_type(r.type) for r in op.results]
                return self._on_vectors(op, operands, types)

    def _on_vectors(
        self, op: Operation, operands: list[SSAValue], types: list[VectorType[Attribute]]
    ) -> Operation:
        match op:
            case math.FmaOp():
                return vector.FMAOp.build(operands=operands, result_types=types)
            case arith.CmpfOp():
                return CompareOp(CMPF_COMPARISON_OPERATIONS[op.predicate.value.data], *operands)
            case arith.CmpiOp():
                return CompareOp(CMPI_COMPARISON_OPERATIONS[op.predicate.value.data], *operands)
            case arith.SelectOp():
                return SelectOp(*operands)
            case arith.ExtUIOp() | arith.UIToFPOp() | arith.ExtSIOp() | arith.SIToFPOp():
                return self._converted(op, operands[0], types[0])
            case _:
                return type(op).create(
                    operands=operands,
                    result_types=types,
                    properties=op.properties,
                    attributes=op.attributes,
                )

    def _converted(self, op: Operation, value: SSAValue, type_: VectorType[Attribute]) -> Operation:
        """A conversion from an integer; that of a truth value chooses between two numbers."""
        signed = isinstance(op, arith.ExtSIOp | arith.SIToFPOp)
        if op.operands[0].type == i1:
            one, zero = (self.insert(_splat(n, type_)) for n in (-1 if signed else 1, 0))
            return SelectOp(value, one, zero)
        if not signed:
            raise CannotWiden(op.name)
        return ConvertOp(value, type_)

    def _clone(self, op: Operation) -> None:
        copy = op.clone()
        copy.operands = [self.scalar(v) for v in op.operands]
        self.builder.insert(copy)
        for old, new in zip(op.results, copy.results, strict=True):
            self.values[old] = new

    def _index(self, op: Operation) -> None:
        if not any(map(self.is_varying, op.operands)):
            self._clone(op)
            return
        forms = [self.form(v) for v in op.operands]
        strides = _strides_of(op, forms)
        self.forms[op.results[0]] = IndexForm(self._first_lane(op, forms), strides)

    def _first_lane(self, op: Operation, forms: list[IndexForm]) -> SSAValue:
        """An index op where every widened loop is at 0, which is left out of the arithmetic."""
        bases = [f.base for f in forms]
        others = [b for b in bases if b is not self.zero]
        if isinstance(op, arith.AddiOp) and len(others) == 1:
            return others[0]
        if isinstance(op, affine.ApplyOp) and len(others) < len(bases):
            map_ = _without_zeros(op.map.data, [b is self.zero for b in bases])
            if not others:
                number = IntegerAttr.from_index_int_value(map_.eval([], [])[0])
                return self.insert(arith.ConstantOp(number))
            if map_.results == (AffineExpr.dimension(0),):
                return others[0]
            return self.insert(affine.ApplyOp(others, AffineMapAttr(map_)), op.result)
        copy = op.clone()
        copy.operands = bases
        return self.insert(copy)

    def form(self, value: SSAValue) -> IndexForm:
        if value in self.forms:
            return self.forms[value]
        return IndexForm(self.scalar(value), (0,) * len(self.shape))

    def _load(self, op: memref.LoadOp) -> None:
        if not any(map(self.is_varying, op.indices)):
            self._clone(op)
            return
        source = self.scalar(op.memref)
        base, map_ = self.access(source, list(op.indices))
        assert isinstance(source.type, MemRefType)
        element = source.type.element_type
        type_ = self.vector_type(element)
        padding = self.insert(arith.ConstantOp(_zero(element)))
        read = vector.TransferReadOp(
            source, base, padding, type_, self._in_bounds(), AffineMapAttr(map_)
        )
        self.values[op.res] = self.insert(read, op.res)

    def _store(self, op: memref.StoreOp) -> None:
        target = self.scalar(op.memref)
        base, map_ = self.access(target, list(op.indices))
        if any(not isinstance(e, AffineDimExpr) for e in map_.results):
            raise CannotWiden("lanes that write to one place")
        self.builder.insert(
            vector.TransferWriteOp(
                self.vector(op.value),
                target,
                base,
                self._in_bounds(),
                permutation_map=AffineMapAttr(map_),
            )
        )

    def _in_bounds(self) -> ArrayAttr[BoolAttr]:
        return ArrayAttr([BoolAttr.from_bool(True)] * len(self.shape))

    def access(self, source: SSAValue, indices: list[SSAValue]) -> tuple[list[SSAValue], AffineMap]:
        """The first element's indices, and which memory dimension each vector dimension walks."""
        forms = [self.form(i) for i in indices]
        results: list[AffineExpr] = []
        for dim in range(len(self.shape)):
            walked = [i for i, f in enumerate(forms) if f.strides[dim]]
            if len(walked) > 1 or any(forms[i].strides[dim] != 1 for i in walked):
                raise CannotWiden("an access with a stride")
            results.append(AffineExpr.dimension(walked[0]) if walked else AffineExpr.constant(0))
        dims = [e.position for e in results if isinstance(e, AffineDimExpr)]
        if len(set(dims)) != len(dims):
            raise CannotWiden("two lanes along one dimension")
        return [f.base for f in forms], AffineMap(len(indices), 0, tuple(results))

    def _loop(self, op: affine.ForOp | scf.ForOp) -> None:
        """A loop inside: what it carries becomes vectors."""
        inits = [self.vector(v) for v in inits_of(op)]
        body = Block(arg_types=[IndexType(), *(v.type for v in inits)])
        for new, old in zip(body.args, op.body.block.args, strict=True):
            new.name_hint = old.name_hint
        inner = Widener(self.shape, {}, body, dict(self.values), dict(self.forms), self.zero)
        inner.values.update(zip(op.body.block.args, body.args, strict=True))
        *ops, last = op.body.block.ops
        try:
            inner.body(ops)
            results = [inner.vector(v) for v in last.operands]
            loop = self.loop_like(op, inits, body, results)
        except CannotWiden:
            erase_block(body)
            raise
        self.values.update(zip(op.results, loop.results, strict=True))

    def loop_like(
        self,
        op: affine.ForOp | scf.ForOp,
        inits: list[SSAValue],
        body: Block,
        results: list[SSAValue],
    ) -> affine.ForOp | scf.ForOp:
        """A loop with the bounds of another around a new body, which gives `results`."""
        end = Builder(InsertPoint.at_end(body))
        bounds = [self.scalar(v) for v in op.operands[: len(op.operands) - len(inits)]]
        if isinstance(op, scf.ForOp):
            end.insert(scf.YieldOp(*results))
            low, high, step = bounds
            loop = scf.ForOp(low, high, step, inits, Region(body))
        else:
            end.insert(affine.YieldOp.get(*results))
            lower = len(op.lowerBoundOperands)
            loop = affine.ForOp.from_region(
                bounds[:lower],
                bounds[lower:],
                inits,
                [v.type for v in inits],
                op.lowerBoundMap,
                op.upperBoundMap,
                Region(body),
                op.step.value.data,
            )
        loop.attributes.update(op.attributes)
        self.builder.insert(loop)
        return loop


def inits_of(loop: affine.ForOp | scf.ForOp) -> Sequence[SSAValue]:
    """What a loop carries, at its start."""
    return loop.inits if isinstance(loop, affine.ForOp) else loop.iter_args


def erase_block(block: Block) -> None:
    """Drop a detached block and all that its ops refer to."""
    for op in reversed(list(block.ops)):
        op.detach()
        op.erase(safe_erase=False)


def _without_zeros(map_: AffineMap, is_zero: list[bool]) -> AffineMap:
    """The map with the operands that are 0 put in, as a map of dimensions alone."""
    count = iter(range(len(is_zero)))
    new = [
        AffineExpr.constant(0) if zero else AffineExpr.dimension(next(count)) for zero in is_zero
    ]
    dims, symbols = new[: map_.num_dims], new[map_.num_dims :]
    left = len(is_zero) - sum(is_zero)
    return map_.replace_dims_and_symbols(dims, symbols, left, 0)


def _splat(number: float, type_: VectorType[Attribute]) -> arith.ConstantOp:
    return arith.ConstantOp(DenseIntOrFPElementsAttr.from_list(type_, [number]))  # pyright: ignore


def _zero(element: Attribute) -> FloatAttr | IntegerAttr:
    if isinstance(element, IntegerType):
        return IntegerAttr(0, element)
    assert isinstance(element, _LANE_FLOATS)
    return FloatAttr(0.0, element)


def _strides_of(op: Operation, forms: list[IndexForm]) -> tuple[int, ...]:
    """How an index op's result moves from lane to lane. Raises CannotWiden when unevenly."""
    match op:
        case arith.AddiOp():
            a, b = (f.strides for f in forms)
            return tuple(x + y for x, y in zip(a, b, strict=True))
        case affine.ApplyOp():
            count = len(forms[0].strides)
            expr = op.mapOperands and op.map.data.results[0]
            assert isinstance(expr, AffineExpr)
            dims = op.map.data.num_dims
            return tuple(_slope(expr, [f.strides[d] for f in forms], dims) for d in range(count))
        case _:
            raise CannotWiden(op.name)


def _slope(expr: AffineExpr, strides: list[int], dims: int) -> int:
    """The change of an affine expression when its operands change by `strides`."""
    match expr:
        case AffineConstantExpr():
            return 0
        case AffineDimExpr():
            return strides[expr.position]
        case AffineSymExpr():
            return strides[dims + expr.position]
        case AffineBinaryOpExpr(kind=AffineBinaryOpKind.Add):
            return _slope(expr.lhs, strides, dims) + _slope(expr.rhs, strides, dims)
        case AffineBinaryOpExpr(kind=AffineBinaryOpKind.Mul):
            left, right = _slope(expr.lhs, strides, dims), _slope(expr.rhs, strides, dims)
            if right == 0 and isinstance(expr.rhs, AffineConstantExpr):
                return left * expr.rhs.value
            if left == right == 0:
                return 0
            raise CannotWiden("a product of indices")
        case AffineBinaryOpExpr():
            if _slope(expr.lhs, strides, dims) or _slope(expr.rhs, strides, dims):
                raise CannotWiden("a division of an index that differs from lane to lane")
            return 0
    raise CannotWiden(str(expr))
