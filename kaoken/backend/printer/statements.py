"""How each op outside the vector nests is printed: a table from op class to a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from xdsl.dialects import affine, arith, func, memref, scf, vector
from xdsl.dialects.builtin import (
    DenseIntOrFPElementsAttr,
    IntegerAttr,
    StringAttr,
)
from xdsl.ir import Attribute, BlockArgument, Operation, Region, SSAValue

from kaoken.backend.printer.contractions import print_contract
from kaoken.backend.printer.elements import ELEMENT_OPS, describe
from kaoken.backend.printer.function import FunctionPrinter
from kaoken.backend.printer.indexing import dim_text, flatten, least, map_texts
from kaoken.backend.printer.literals import literal
from kaoken.backend.printer.text import (
    add,
    binary,
    is_atom,
    is_integer,
    multiply,
    unary,
    wrap,
)
from kaoken.backend.printer.tiles import carried, is_vector
from kaoken.backend.printer.types import element_bytes, element_type, memref_type, scalar_type
from kaoken.backend.printer.vectors import (
    assign_vector,
    assign_vectors,
    declare_vector,
    print_extract,
    print_reduction,
)
from kaoken.dialect import kaoken_loop
from kaoken.dialect.attributes import ShapeAttr
from kaoken.dialect.dims import DYNAMIC
from kaoken.errors import KaokenError

Statement = Callable[[FunctionPrinter, Any], None]


def _constant(p: FunctionPrinter, op: arith.ConstantOp) -> None:
    if isinstance(op.value, DenseIntOrFPElementsAttr):
        p.splats[op.result] = literal(next(iter(op.value.iter_attrs())))
    else:
        p.values[op.result] = literal(op.value)


def _scalar(p: FunctionPrinter, op: Operation) -> None:
    element = describe(op)
    assert element is not None
    reads = any(p.reads_memory(v) for v in op.operands)
    p.define(op.results[0], element.scalar(*p.texts(op.operands)), reads)


def _apply(p: FunctionPrinter, op: affine.ApplyOp) -> None:
    operands = [p.stable(v) for v in op.mapOperands]
    p.define(op.result, map_texts(op.map.data, operands)[0])


def _minimum(p: FunctionPrinter, op: affine.MinOp) -> None:
    operands = [p.stable(v) for v in op.arguments]
    p.define(op.result, least(map_texts(op.map.data, operands)))


def _broadcast(p: FunctionPrinter, op: vector.BroadcastOp) -> None:
    if op.vector.uses:
        p.splats[op.vector] = p.atom(op.source)


def _bounds(p: FunctionPrinter, op: affine.ForOp) -> tuple[str, str]:
    lower = [p.stable(v) for v in op.lowerBoundOperands]
    upper = [p.stable(v) for v in op.upperBoundOperands]
    return (
        least(map_texts(op.lowerBoundMap.data, lower), "max"),
        least(map_texts(op.upperBoundMap.data, upper)),
    )


def _affine_for(p: FunctionPrinter, op: affine.ForOp) -> None:
    lower, upper = _bounds(p, op)
    _for(p, op, lower, upper, str(op.step.value.data))


def _scf_for(p: FunctionPrinter, op: scf.ForOp) -> None:
    _for(p, op, p.stable(op.lb), p.stable(op.ub), p.atom(op.step))


def _for(
    p: FunctionPrinter, op: affine.ForOp | scf.ForOp, lower: str, upper: str, step: str
) -> None:
    for init, arg, _, result in carried(op):
        _begin_carried(p, init, arg, result)
    p.flush_reads()
    index = op.body.block.args[0]
    if "(" in upper and not is_atom(upper):
        end = p.names.new(f"{_loop_name(op, index)}_end")
        p.line(f"const int64_t {end} = {upper};")
        upper = end
    p.names.push()
    name = p.names.new(_loop_name(op, index))
    p.values[index] = name
    advance = f"{name}++" if step == "1" else f"{name} += {step}"
    p.targets.append(list(op.body.block.args[1:]))
    type_ = scalar_type(index.type)
    if isinstance(unroll := op.attributes.get(kaoken_loop.UNROLL), IntegerAttr):
        p.pragma(f"GCC unroll {unroll.value.data}")
    with p.braces(f"for ({type_} {name} = {lower}; {binary('<', name, upper)}; {advance})"):
        p.block(op.body.block)
    p.targets.pop()
    p.names.pop()
    for result in op.results:
        if not result.uses and not is_vector(result):
            p.line(f"(void){p.values[result]};")


def _loop_name(op: affine.ForOp | scf.ForOp, index: SSAValue) -> str:
    given = op.attributes.get(kaoken_loop.NAME)
    name = given.data if isinstance(given, StringAttr) else None
    return index.name_hint or name or "i"


def _begin_carried(p: FunctionPrinter, init: SSAValue, arg: SSAValue, result: SSAValue) -> None:
    if is_vector(init):
        assign_vector(p, arg, init)
        return
    if _goes_on(init, result):
        p.values[arg] = p.values[result] = p.values[init]
        return
    text = p.text(init)
    name = p.names.new(result.name_hint or arg.name_hint, "acc")
    p.line(f"{p.c_type(arg)}{name} = {text};")
    p.values[arg] = p.values[result] = name


def _goes_on(init: SSAValue, result: SSAValue) -> bool:
    """Whether an inner loop carries on what an outer loop carries: one variable serves both."""
    if not isinstance(init, BlockArgument) or not (init.has_one_use() and result.has_one_use()):
        return False
    if not isinstance(init.owner.parent_op(), affine.ForOp | scf.ForOp):
        return False
    (use,) = result.uses
    same_place = isinstance(use.operation, affine.YieldOp | scf.YieldOp)
    return same_place and use.operation.parent is init.owner and use.index == init.index - 1


def _yield(p: FunctionPrinter, op: Operation) -> None:
    pairs = list(zip(p.targets[-1], op.operands, strict=True))
    assign_vectors(p, [(t, v) for t, v in pairs if is_vector(v)])
    scalars = [(t, v) for t, v in pairs if not is_vector(v) and p.values.get(v) != p.values[t]]
    texts = [p.text(v) for _, v in scalars]
    if len(scalars) > 1:
        texts = [_held(p, v, text) for (_, v), text in zip(scalars, texts, strict=True)]
    for (target, _), text in zip(scalars, texts, strict=True):
        p.line(f"{p.values[target]} = {text};")


def _held(p: FunctionPrinter, value: SSAValue, text: str) -> str:
    """A name for a value that the assignments to come might change."""
    if is_integer(text):
        return text
    name = p.names.new(value.name_hint, "next")
    p.line(f"{p.declaration(value, name)} = {text};")
    return name


def _begin_results(p: FunctionPrinter, op: Operation) -> None:
    for result in op.results:
        if is_vector(result):
            declare_vector(p, result)
        else:
            p.values[result] = p.new_name(result)
            p.line(f"{p.c_type(result)}{p.values[result]};")
    p.targets.append(list(op.results))


def _region(p: FunctionPrinter, region: Region) -> None:
    p.block(region.block)


def _if(p: FunctionPrinter, op: scf.IfOp) -> None:
    condition = p.text(op.cond)
    p.flush_reads()
    _begin_results(p, op)
    has_else = bool(op.false_region.blocks) and not _is_empty(op.false_region)
    with p.braces(f"if ({condition})", "} else {" if has_else else "}"):
        _region(p, op.true_region)
    if has_else:
        with p.braces_continued():
            _region(p, op.false_region)
    p.targets.pop()


def _is_empty(region: Region) -> bool:
    first = region.block.first_op
    return isinstance(first, scf.YieldOp | affine.YieldOp) and not first.operands


def _switch(p: FunctionPrinter, op: scf.IndexSwitchOp) -> None:
    subject = p.text(op.arg)
    p.flush_reads()
    _begin_results(p, op)
    with p.braces(f"switch ({subject})"):
        for value, region in zip(op.cases.iter_values(), op.case_regions, strict=True):
            _case(p, f"case {value}", region)
        if not _is_empty(op.default_region):
            _case(p, "default", op.default_region)
    p.targets.pop()


def _case(p: FunctionPrinter, label: str, region: Region) -> None:
    with p.case(label):
        _region(p, region)
        p.line("break;")


def _address(p: FunctionPrinter, buffer: SSAValue, indices: Sequence[SSAValue | str]) -> str:
    texts = [i if isinstance(i, str) else p.text(i) for i in indices]
    offset = flatten(texts, lambda position: p.size(buffer, position))
    return f"{wrap(p.stable(buffer), 15)}[{offset}]"


def _load(p: FunctionPrinter, op: memref.LoadOp) -> None:
    if op.res.uses:
        memref_type(op.memref)
        p.define(op.res, _address(p, op.memref, op.indices), reads=True)


def _affine_load(p: FunctionPrinter, op: affine.LoadOp) -> None:
    if op.result.uses:
        indices = map_texts(op.map.data, [p.stable(v) for v in op.indices])
        p.define(op.result, _address(p, op.memref, indices), reads=True)


def _store(p: FunctionPrinter, op: memref.StoreOp) -> None:
    memref_type(op.memref)
    place, value = _address(p, op.memref, op.indices), p.text(op.value)
    p.flush_reads()
    p.line(f"{place} = {value};")


def _affine_store(p: FunctionPrinter, op: affine.StoreOp) -> None:
    indices = map_texts(op.map.data, [p.stable(v) for v in op.indices])
    place, value = _address(p, op.memref, indices), p.text(op.value)
    p.flush_reads()
    p.line(f"{place} = {value};")


def _alloc(p: FunctionPrinter, op: memref.AllocOp) -> None:
    """Only stages before plan-memory allocate; the buffer dies with its block."""
    count = _note_sizes(p, op)
    name = p.new_name(op.memref, "buffer")
    p.values[op.memref] = name
    bytes_ = multiply(count, str(element_bytes(element_type(op.memref))))
    p.line(f"{p.c_type(op.memref)}const {name} = kk_alloc({bytes_});")
    p.allocated[-1].append(name)


def _note_sizes(p: FunctionPrinter, op: memref.AllocOp | memref.AllocaOp) -> str:
    """Remember the sizes of a new buffer; gives its number of elements."""
    dynamic = iter([p.stable(v) for v in op.dynamic_sizes])
    shape = memref_type(op.memref).get_shape()
    sizes = [next(dynamic) if n == DYNAMIC else str(n) for n in shape]
    p.sizes[op.memref] = sizes
    count = "1"
    for size in sizes:
        count = multiply(count, size)
    return count


def _alloca(p: FunctionPrinter, op: memref.AllocaOp) -> None:
    count = _note_sizes(p, op)
    name = p.new_name(op.memref, "scratch")
    p.values[op.memref] = name
    type_ = scalar_type(element_type(op.memref))
    p.line(f"_Alignas(64) {type_} {name}[{count}];")


def _dealloc(p: FunctionPrinter, op: memref.DeallocOp) -> None:
    name = p.text(op.memref)
    p.flush_reads()
    for names in p.allocated:
        if name in names:
            names.remove(name)
    p.line(f"free({name});")


def _copy(p: FunctionPrinter, op: memref.CopyOp) -> None:
    type_ = memref_type(op.source)
    count = "1"
    for position in range(len(type_.get_shape())):
        count = multiply(count, p.size(op.source, position))
    source, target = p.text(op.source), p.text(op.destination)
    p.flush_reads()
    bytes_ = multiply(count, str(element_bytes(type_.element_type)))
    p.line(f"memcpy({target}, {source}, {bytes_});")


def _dim(p: FunctionPrinter, op: memref.DimOp) -> None:
    position = p.text(op.index)
    if not is_integer(position):
        raise KaokenError("the C printer knows memref.dim only of a constant dimension")
    p.values[op.result] = p.size(op.source, int(position))


def _cast(p: FunctionPrinter, op: memref.CastOp) -> None:
    p.values[op.dest] = p.stable(op.source)
    if (sizes := p.sizes.get(op.source)) is not None:
        p.sizes[op.dest] = sizes


def _get_global(p: FunctionPrinter, op: memref.GetGlobalOp) -> None:
    p.values[op.memref] = p.module.globals[op.name_.string_value()]


def _weight(p: FunctionPrinter, op: kaoken_loop.WeightOp) -> None:
    offset = p.module.weight_offset(op.key.data, memref_type(op.result))
    p.define(op.result, unary(f"({p.c_type(op.result)})", add("weights", str(offset))))


def _view(p: FunctionPrinter, op: kaoken_loop.ViewOp) -> None:
    if not op.result.uses:
        return
    note_shape(p, op.result, op.attributes.get("kaoken.shape"))
    offset = str(op.offset.value.data)
    if op.extra is not None:
        offset = add(p.text(op.extra), offset)
    base, source = p.stable(op.source), element_type(op.source)
    result = p.c_type(op.result)
    if offset != "0" and element_bytes(source) != 1:
        byte = "const char *" if result.startswith("const") else "char *"
        base = unary(f"({byte})", base)
    inner = add(base, offset)
    same = source == element_type(op.result) and element_bytes(source) == 1
    p.define(op.result, inner if same else unary(f"({result})", wrap(inner, 14)))


def note_shape(p: FunctionPrinter, value: SSAValue, attr: Attribute | None) -> None:
    """Learn a memref's open sizes from its `kaoken.shape`, whose symbols the arguments carry."""
    if not isinstance(attr, ShapeAttr):
        return
    p.sizes[value] = [_known_size(dim, p.symbols) for dim in attr.data]


def _known_size(dim: Any, symbols: dict[str, str]) -> str:
    return dim_text(dim, symbols) if dim.symbols <= symbols.keys() else ""


def _call(p: FunctionPrinter, op: func.CallOp) -> None:
    callee = p.module.signatures.get(op.callee.string_value())
    if callee is None:
        raise KaokenError(f"call of unknown function '{op.callee.string_value()}'")
    arguments = ["weights"] if callee.uses_weights else []
    arguments += p.texts(op.arguments)
    p.flush_reads()
    if not op.res:
        p.call_line(callee.c_name, arguments)
        return
    if len(op.res) > 1:
        raise KaokenError(f"the C printer knows no function with {len(op.res)} results")
    p.values[op.res[0]] = p.new_name(op.res[0])
    head = f"{p.declaration(op.res[0], p.values[op.res[0]])} = {callee.c_name}"
    p.call_line(head, arguments)


def _return(p: FunctionPrinter, op: func.ReturnOp) -> None:
    for names in p.allocated:
        for name in names:
            p.line(f"free({name});")
        names.clear()
    if op.arguments:
        p.line(f"return {p.text(op.arguments[0])};")


def _thread_id(p: FunctionPrinter, op: kaoken_loop.ThreadIdOp) -> None:
    p.define(op.result, f"kk_thread_id({p.text(op.team)})")


def _num_threads(p: FunctionPrinter, op: kaoken_loop.NumThreadsOp) -> None:
    p.define(op.result, f"kk_num_threads({p.text(op.team)})")


def _barrier(p: FunctionPrinter, op: kaoken_loop.BarrierOp) -> None:
    p.flush_reads()
    p.line(f"kk_barrier({p.text(op.team)});")


def _lap(p: FunctionPrinter, op: kaoken_loop.LapOp) -> None:
    p.flush_reads()
    verb = "kk_lap" if op.waited is None else "kk_lap_waited"
    p.line(f"{verb}({p.text(op.timers)}, {op.timer.value.data});")


def _prefetch(p: FunctionPrinter, op: kaoken_loop.PrefetchOp) -> None:
    place = _address(p, op.memref, op.indices)
    p.line(f"__builtin_prefetch(&{place}, 0, {op.locality.value.data});")


STATEMENTS: dict[type[Operation], Statement] = {
    **dict.fromkeys(ELEMENT_OPS, _scalar),
    arith.ConstantOp: _constant,
    affine.ApplyOp: _apply,
    affine.MinOp: _minimum,
    affine.ForOp: _affine_for,
    affine.LoadOp: _affine_load,
    affine.StoreOp: _affine_store,
    affine.YieldOp: _yield,
    scf.ForOp: _scf_for,
    scf.IfOp: _if,
    scf.IndexSwitchOp: _switch,
    scf.YieldOp: _yield,
    memref.LoadOp: _load,
    memref.StoreOp: _store,
    memref.AllocOp: _alloc,
    memref.AllocaOp: _alloca,
    memref.DeallocOp: _dealloc,
    memref.CopyOp: _copy,
    memref.DimOp: _dim,
    memref.CastOp: _cast,
    memref.GetGlobalOp: _get_global,
    vector.BroadcastOp: _broadcast,
    vector.ExtractOp: print_extract,
    vector.ReductionOp: print_reduction,
    func.CallOp: _call,
    func.ReturnOp: _return,
    kaoken_loop.WeightOp: _weight,
    kaoken_loop.ViewOp: _view,
    kaoken_loop.PrefetchOp: _prefetch,
    kaoken_loop.ContractOp: print_contract,
    kaoken_loop.ThreadIdOp: _thread_id,
    kaoken_loop.NumThreadsOp: _num_threads,
    kaoken_loop.BarrierOp: _barrier,
    kaoken_loop.LapOp: _lap,
}
