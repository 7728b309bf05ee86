"""A function of tensors as one of buffers: memory for each value, a call for each op."""

from __future__ import annotations

from xdsl.builder import Builder
from xdsl.dialects import arith, func, memref
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    FunctionType,
    IndexType,
    IntegerAttr,
    MemRefType,
    StringAttr,
    i8,
)
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.rewriter import InsertPoint
from xdsl.transforms.common_subexpression_elimination import cse

from kaoken.analysis.shapes import declared_maxima
from kaoken.dialect.attributes import Norm, ScheduleAttr, Shape, ShapeAttr
from kaoken.dialect.base import HandleType, KaokenOp, tensor_type
from kaoken.dialect.decoder import (
    CacheAppendOp,
    CacheOp,
    CacheReadOp,
    CacheType,
    RopeOp,
    cache_type,
)
from kaoken.dialect.dims import Dim
from kaoken.dialect.kaoken_loop import StateOp, ViewOp
from kaoken.dialect.kaoken_loop import WeightOp as WeightPointerOp
from kaoken.dialect.nn import AttentionOp, LinearOp, WeightOp
from kaoken.dialect.tensor import ReshapeOp, SliceOp
from kaoken.errors import KaokenError
from kaoken.passes.annotate_cost import COMBINE_COST, COST, NORM_COST
from kaoken.passes.lowering.attention_plan import columns_of
from kaoken.passes.lowering.cache_parts import shared_types
from kaoken.passes.lowering.cached_attention import (
    lower_cached_attention,
    lower_combine,
    reads_caches,
)
from kaoken.passes.lowering.kernel import (
    STATUS_TYPE,
    BufferArgument,
    Kernel,
    KernelArgument,
    SizeArgument,
)
from kaoken.passes.lowering.module import LoweredModule
from kaoken.passes.lowering.pointwise import lower_copy
from kaoken.passes.lowering.rows import lower_norm_epilogue
from kaoken.passes.lowering.table import LOWERINGS
from kaoken.passes.strict import demanded_of


class FunctionLowering:
    """One function: a buffer for each tensor, a call for each op."""

    def __init__(self, shared: LoweredModule, function: func.FuncOp):
        self.shared = shared
        self.function = function
        self.shapes = shared.shapes[function.sym_name.data]
        self.maxima = declared_maxima(function)
        self.buffers: dict[SSAValue, SSAValue] = {}
        self.sizes: dict[Dim, SSAValue] = {}
        self.constants: set[SSAValue] = set()
        self.block = Block()
        self.builder = Builder(InsertPoint.at_end(self.block))
        self.attributes: list[dict[str, Attribute]] = []
        self.returned = _return_of(function)

    def run(self) -> func.FuncOp:
        self._add_arguments()
        for op in self.function.body.block.ops:
            if op is not self.returned:
                self._lower(op)
        self._copy_results()
        self.builder.insert(func.ReturnOp())
        lowered = func.FuncOp(
            self.function.sym_name.data,
            FunctionType.from_lists(self.block.arg_types, []),
            Region(self.block),
            self.function.sym_visibility,
            arg_attrs=ArrayAttr([DictionaryAttr(a) for a in self.attributes]),
        )
        lowered.attributes.update(self.function.attributes)
        cse(lowered)
        return lowered

    # Signature: inputs, results, sizes, status

    def _add_arguments(self) -> None:
        names = self._argument_names()
        for argument, name in zip(self.function.args, names, strict=True):
            attributes: dict[str, Attribute] = {"kaoken.name": StringAttr(name)}
            self.buffers[argument] = self._add_buffer(argument, name, attributes)
        self.results = self._add_results()
        for symbol in self._symbols():
            value = self._add_argument(IndexType(), symbol, {"kaoken.name": StringAttr(symbol)})
            self.sizes[Dim.symbol(symbol)] = value
        self.status = self._add_argument(STATUS_TYPE, "status", {})

    def _argument_names(self) -> list[str]:
        declared = self.function.arg_attrs.data if self.function.arg_attrs is not None else ()
        names: list[str] = []
        for i, argument in enumerate(self.function.args):
            attributes = declared[i].data if i < len(declared) else {}
            name = attributes.get("kaoken.name")
            hint = argument.name_hint or f"arg{i}"
            names.append(name.data if isinstance(name, StringAttr) else hint)
        return names

    def _add_results(self) -> list[SSAValue]:
        """Result buffers; a value that is computed here is computed right into its buffer."""
        declared = self.function.attributes.get("kaoken.results")
        names = [n.data for n in declared.data] if isinstance(declared, ArrayAttr) else []
        results: list[SSAValue] = []
        for i, value in enumerate(self.returned.operands):
            name = names[i] if i < len(names) else f"out{i}"
            attributes: dict[str, Attribute] = {"kaoken.result": StringAttr(name)}
            buffer = self._add_buffer(value, name, attributes)
            if isinstance(value.owner, Operation) and value not in self.buffers:
                self.buffers[value] = buffer
            results.append(buffer)
        return results

    def _add_buffer(self, value: SSAValue, name: str, attributes: dict[str, Attribute]) -> SSAValue:
        shape = self.shapes[value]
        if not isinstance(value.type, HandleType):
            attributes["kaoken.shape"] = ShapeAttr(shape)
        return self._add_argument(_memref(value, shape), name, attributes)

    def _add_argument(
        self, type_: Attribute, name: str, attributes: dict[str, Attribute]
    ) -> SSAValue:
        self.attributes.append(attributes)
        value = self.block.insert_arg(type_, len(self.block.args))
        value.name_hint = name.replace(".", "_")
        return value

    def _symbols(self) -> list[str]:
        """The declared symbols in their order, then those that only shapes name."""
        used = {s for shape in self.shapes.values() for dim in shape for s in dim.symbols}
        names = [*self.maxima, *sorted(used - set(self.maxima))]
        if undeclared := names[len(self.maxima) :]:
            raise KaokenError(
                f"the size {undeclared[0]} has no declared maximum: add it to kaoken.max"
            )
        self.shared.symbols[self.function.sym_name.data] = names
        return names

    # Ops

    def _lower(self, op: Operation) -> None:
        if isinstance(op, WeightOp):
            pointer = WeightPointerOp(op.key.data, _memref(op.result, self.shapes[op.result]))
            self.buffers[op.result] = self._insert(pointer, op.result)
        elif isinstance(op, CacheOp):
            memory = _memref(op.result, self.shapes[op.result])
            state = StateOp(op.key.data, memory, _parts(op))
            self.buffers[op.result] = self._insert(state, op.result)
        elif isinstance(op, arith.ConstantOp):
            self.constants.add(op.result)
        elif isinstance(op, ReshapeOp) and op.result not in self.buffers:
            type_ = _memref(op.result, self.shapes[op.result])
            self.buffers[op.result] = self._view(self.buffers[op.input], type_)
        elif isinstance(op, func.CallOp):
            self._lower_call(op)
        elif isinstance(op, KaokenOp | CacheAppendOp):
            self._lower_op(op)
        else:
            raise KaokenError(f"lower-to-loops knows no lowering of {op.name}")

    def _lower_op(self, op: KaokenOp | CacheAppendOp) -> None:
        if isinstance(op, SliceOp | CacheReadOp) and _is_read_in_place(op):
            return
        if isinstance(op, AttentionOp) and reads_caches(op):
            self._lower_cached_attention(op)
            return
        if type(op) not in LOWERINGS:
            raise KaokenError(f"lower-to-loops knows no lowering of {op.name}")
        kernel = self._kernel()
        LOWERINGS[type(op)](op, kernel)
        schedule = schedule_of(op)
        call = self._call(kernel, schedule, demanded_of(op, schedule))
        _hand_on(op, COST, call)
        if isinstance(op, LinearOp) and op.norm.data is not Norm.NONE:
            kernel = self._kernel()
            lower_norm_epilogue(op, kernel)
            _hand_on(op, NORM_COST, self._call(kernel, norm_schedule_of(op)))

    def _lower_cached_attention(self, op: AttentionOp) -> None:
        """Two kernels: attention to parts of the keys, and what the parts give together."""
        allocs = [memref.AllocOp([], [], type_) for type_ in shared_types(op)]
        shared = [self.builder.insert(alloc).memref for alloc in allocs]
        schedule = schedule_of(op)
        kernel = self._kernel()
        lower_cached_attention(op, kernel, shared)
        _hand_on(op, COST, self._call(kernel, schedule, demanded_of(op, schedule)))
        kernel = self._kernel()
        lower_combine(op, kernel, shared)
        _hand_on(op, COMBINE_COST, self._call(kernel, schedule))

    def _kernel(self) -> Kernel:
        return Kernel(Block(), self.shapes, self.maxima, self.shared.add_error)

    def _call(
        self,
        kernel: Kernel,
        schedule: ScheduleAttr | None,
        demanded: ScheduleAttr | None = None,
    ) -> func.CallOp:
        """Share the finished kernel and call it with this function's buffers and sizes."""
        function = kernel.finish(schedule, demanded)
        cse(function)
        name = self.shared.share(function)
        arguments = [self._argument(a) for a in kernel.arguments]
        return self.builder.insert(func.CallOp(name, arguments, []))

    def _argument(self, argument: KernelArgument) -> SSAValue:
        if isinstance(argument, BufferArgument):
            buffer = argument.buffer or self._buffer(argument.value)
            return self._view(buffer, argument.type, argument.offset)
        if isinstance(argument, SizeArgument):
            return self._size(argument.dim)
        return self.status

    def _lower_call(self, op: func.CallOp) -> None:
        name = op.callee.root_reference.data
        given = [self.shapes[v] for v in op.arguments]
        inner = callee_symbols(self.shared.parameters[name], given)
        arguments = [self._buffer(v) for v in (*op.arguments, *op.results)]
        sizes = [self._size(inner.get(s, Dim.symbol(s))) for s in self.shared.symbols[name]]
        self.builder.insert(func.CallOp(name, [*arguments, *sizes, self.status], []))

    # Buffers and sizes

    def _buffer(self, value: SSAValue) -> SSAValue:
        """The buffer of a tensor; one that is computed here gets its memory now."""
        if value in self.constants:
            raise KaokenError("a dense constant is left in the module: run bake first")
        if value not in self.buffers:
            shape = self.shapes[value]
            dynamic = [self._size(d) for d in shape if d.constant is None]
            alloc = memref.AllocOp(dynamic, [], _memref(value, shape))
            self.buffers[value] = self._insert(alloc, value)
        return self.buffers[value]

    def _view(self, buffer: SSAValue, type_: MemRefType[Attribute], offset: int = 0) -> SSAValue:
        if buffer.type == type_:
            return buffer
        return self._insert(ViewOp(buffer, type_, offset), buffer)

    def _insert(self, op: Operation, like: SSAValue) -> SSAValue:
        op.results[0].name_hint = like.name_hint
        self.builder.insert(op)
        return op.results[0]

    def _size(self, dim: Dim) -> SSAValue:
        """An index value for a size: a symbol's argument, or arithmetic on those."""
        if dim not in self.sizes:
            total: SSAValue | None = None
            for monomial, coefficient in dim.terms:
                term = self._term(monomial, coefficient)
                total = term if total is None else self._index_op(arith.AddiOp(total, term))
            self.sizes[dim] = total if total is not None else self._number(0)
        return self.sizes[dim]

    def _term(self, monomial: tuple[str, ...], coefficient: int) -> SSAValue:
        value = None if monomial and coefficient == 1 else self._number(coefficient)
        for symbol in monomial:
            factor = self.sizes[Dim.symbol(symbol)]
            value = factor if value is None else self._index_op(arith.MuliOp(value, factor))
        assert value is not None
        return value

    def _number(self, value: int) -> SSAValue:
        return self._index_op(arith.ConstantOp(IntegerAttr.from_index_int_value(value)))

    def _index_op(self, op: Operation) -> SSAValue:
        self.builder.insert(op)
        return op.results[0]

    def _copy_results(self) -> None:
        """Results that are arguments, weights, or given back twice need a copy."""
        for value, result in zip(self.returned.operands, self.results, strict=True):
            if self.buffers[value] is not result:
                kernel = self._kernel()
                lower_copy(value, result, kernel)
                self._call(kernel, None)


def _hand_on(op: Operation, key: str, call: func.CallOp) -> None:
    """Let the call of a kernel carry what the op says that it costs."""
    if key in op.attributes:
        call.attributes[COST] = op.attributes[key]


def _return_of(function: func.FuncOp) -> func.ReturnOp:
    last = function.body.block.last_op
    assert isinstance(last, func.ReturnOp)
    return last


def _memref(value: SSAValue, shape: Shape) -> MemRefType[Attribute]:
    if isinstance(value.type, CacheType):
        return _cache_memory(value.type)
    return MemRefType(tensor_type(value).element_type, [d.static for d in shape])


def _parts(op: CacheOp) -> list[tuple[int, ...]]:
    """What belongs to how many rows, and to which sequence where there are several."""
    sequence = () if op.sequence is None else (op.sequence.value.data,)
    return [(*part, *sequence) for part in cache_type(op.result).parts]


def _cache_memory(type_: CacheType) -> MemRefType[Attribute]:
    """The numbers; where scales follow them, bytes for both."""
    if type_.has_scales:
        return MemRefType(i8, [type_.scales_offset + type_.scales_bytes])
    return MemRefType(type_.element_type, type_.memory_shape)


def _is_read_in_place(op: SliceOp | CacheReadOp) -> bool:
    """Whether all users of a slice of the last dimension, or of a cache, read it where it is."""
    if isinstance(op, CacheReadOp):
        users = [use.operation for use in op.result.uses]
        return all(isinstance(user, AttentionOp) and reads_caches(user) for user in users)
    if columns_of(op.result).source is op.result:
        return False
    return all(_reads_columns(use.operation, use.index) for use in op.result.uses)


def _reads_columns(op: Operation, operand: int) -> bool:
    """Whether a kernel reads that operand through a slice."""
    if isinstance(op, AttentionOp):
        return operand < 3
    return isinstance(op, RopeOp | CacheAppendOp) and operand == 0


def callee_symbols(parameters: list[Shape], arguments: list[Shape]) -> dict[str, Dim]:
    """What the callee's symbols are in the caller, read off the shapes of the arguments."""
    symbols: dict[str, Dim] = {}
    for parameter, argument in zip(parameters, arguments, strict=True):
        for own, given in zip(parameter, argument, strict=True):
            name = str(own)
            if own == Dim.symbol(name):
                symbols[name] = given
    return symbols


def norm_schedule_of(op: LinearOp) -> ScheduleAttr | None:
    """The schedule of a linear layer's norm epilogue."""
    schedule = op.attributes.get("norm_schedule")
    return schedule if isinstance(schedule, ScheduleAttr) else None


def schedule_of(op: Operation) -> ScheduleAttr | None:
    """The schedule that `choose-schedule` or a person wrote on an op."""
    schedule = op.properties.get("schedule", op.attributes.get("schedule"))
    return schedule if isinstance(schedule, ScheduleAttr) else None
