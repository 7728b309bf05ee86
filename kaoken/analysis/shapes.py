"""The symbolic shape of every tensor of a function.

```mlir
func.func @main(%x: tensor<?x384xf32> {kaoken.shape = #kaoken.shape<[tokens, 384]>}) {
  %y = kaoken.concat %x, %x {dim = 0} : tensor<?x384xf32>, tensor<?x384xf32> -> tensor<?x384xf32>
```
gives `[tokens, 384]` for %x and `["2*tokens", 384]` for %y. Symbols are names of the whole program:
a callee's symbol that its arguments do not bind means the caller's symbol of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, IntegerAttr, StringAttr, TensorType
from xdsl.dialects.func import CallOp, FuncOp, ReturnOp
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.traits import SymbolTable

from kaoken.dialect.attributes import Shape, ShapeAttr
from kaoken.dialect.base import HandleType, KaokenOp, type_shape
from kaoken.dialect.dims import Dim, product
from kaoken.errors import KaokenError

SHAPE = "kaoken.shape"
NAME = "kaoken.name"
MAX = "kaoken.max"
RESULT_SHAPES = "kaoken.result_shapes"
"""Function attribute: a list of `#kaoken.shape`, in the function's own symbols."""

Shapes = dict[SSAValue, Shape]


def symbolic_shapes(func: FuncOp) -> Shapes:
    """The shape of each tensor value of `func`: arguments and results of all its ops.

    Raises KaokenError when an argument's `kaoken.shape` contradicts its type, VerifyException when
    an op's operands do not fit together.
    """
    return _Analysis().shapes(func)


def result_shapes(func: FuncOp) -> list[Shape | None]:
    """The shapes of what a function returns, in its own symbols; None for what is no tensor."""
    return _Analysis().results(func)


def argument_shapes(func: FuncOp) -> list[Shape | None]:
    """The shapes of a function's arguments; None for those that are no tensors.

    An argument without `kaoken.shape` gets the symbols `<its name>_<dimension>`.
    """
    types = func.function_type.inputs.data
    return [_argument_shape(func, i, type_) for i, type_ in enumerate(types)]


def argument_name(func: FuncOp, index: int) -> str:
    """What users call an argument: `kaoken.name`, else its name in the text, else `arg<index>`."""
    name = _argument_attribute(func, index, NAME)
    if isinstance(name, StringAttr):
        return name.data
    return (func.args[index].name_hint if func.body.blocks else None) or f"arg{index}"


def substitute(dim: Dim, symbols: Mapping[str, Dim]) -> Dim:
    """The size with symbols replaced; those that are not in `symbols` stay."""
    if not dim.symbols & symbols.keys():
        return dim
    total = Dim.of(0)
    for monomial, coefficient in dim.terms:
        total = total + product(symbols.get(s, Dim.symbol(s)) for s in monomial) * coefficient
    return total


def bind_symbols(func: FuncOp, sizes: Sequence[Sequence[int]]) -> dict[str, int]:
    """The value of each symbol, given the actual sizes of each argument (() for scalars).

    Raises KaokenError naming the argument whose sizes contradict its shape or another argument.
    """
    bound: dict[str, int] = {}
    open_: list[tuple[str, int, Dim, int]] = []
    for i, shape in enumerate(argument_shapes(func)):
        if shape is None:
            continue
        name = argument_name(func, i)
        if len(shape) != len(sizes[i]):
            raise KaokenError(f"{name} has {len(sizes[i])} dimensions, but needs {len(shape)}")
        open_ += [(name, d, *pair) for d, pair in enumerate(zip(shape, sizes[i], strict=True))]
    while open_:
        rest = [item for item in open_ if not _bind(bound, *item)]
        if len(rest) == len(open_):
            break
        open_ = rest
    return bound


def _bind(bound: dict[str, int], name: str, d: int, dim: Dim, size: int) -> bool:
    """Solve `dim = size` for its only unknown symbol; False when there are several."""
    known = substitute(dim, {s: Dim.of(n) for s, n in bound.items()})
    unknown = known.symbols
    value = size
    if len(unknown) == 1:
        (symbol,) = unknown
        coefficient = dict(known.terms).get((symbol,), 0)
        slope = Dim.symbol(symbol) * coefficient
        offset = (known - slope).constant
        if not coefficient or offset is None:
            return False
        value, remainder = divmod(size - offset, coefficient)
        if not remainder and value >= 0:
            bound[symbol] = value
            return True
    elif unknown:
        return False
    elif known.constant == size:
        return True
    raise KaokenError(f"dimension {d} of {name} has size {size}, but {_wanted(dim, known)}")


def _wanted(dim: Dim, known: Dim) -> str:
    if dim.constant is not None or known.constant is None:
        return f"needs {dim}"
    return f"{dim} is {known} by the other inputs"


class _Analysis:
    """Remembers what callees return, so that each is analysed once."""

    def __init__(self) -> None:
        self._results: dict[FuncOp, list[Shape | None]] = {}
        self._fresh = 0

    def shapes(self, func: FuncOp) -> Shapes:
        shapes: Shapes = {}
        if not func.body.blocks:
            return shapes
        for argument, shape in zip(func.args, argument_shapes(func), strict=True):
            if shape is not None:
                shapes[argument] = shape
        for op in func.walk():
            if op is not func:
                self._visit(op, shapes)
        return shapes

    def results(self, func: FuncOp) -> list[Shape | None]:
        if func not in self._results:
            self._results[func] = self._declared(func) or self._computed(func)
        return self._results[func]

    def _declared(self, func: FuncOp) -> list[Shape | None] | None:
        declared = func.attributes.get(RESULT_SHAPES)
        if not isinstance(declared, ArrayAttr):
            return None
        return [shape.data if isinstance(shape, ShapeAttr) else None for shape in declared]

    def _computed(self, func: FuncOp) -> list[Shape | None]:
        shapes = self.shapes(func)
        block = func.body.blocks.last
        if block is None or not isinstance(end := block.last_op, ReturnOp):
            return [self._unknown(type_) for type_ in func.function_type.outputs.data]
        return [shapes.get(value) for value in end.arguments]

    def _visit(self, op: Operation, shapes: Shapes) -> None:
        if isinstance(op, KaokenOp):
            inferred = op.infer_shape(*(shapes[v] for v in op.operands))
            shapes[op.result] = _refine(inferred, op.result.type)
            return
        if not op.results:
            return
        if isinstance(op, CallOp) and (called := self._call(op, shapes)) is not None:
            shapes.update(zip(op.results, called, strict=True))
            return
        for result in op.results:
            if (shape := self._unknown(result.type)) is not None:
                shapes[result] = shape

    def _call(self, op: CallOp, shapes: Shapes) -> list[Shape] | None:
        callee = SymbolTable.lookup_symbol(op, op.callee)
        if not isinstance(callee, FuncOp):
            return None
        symbols: dict[str, Dim] = {}
        for value, shape in zip(op.arguments, argument_shapes(callee), strict=True):
            for dim, actual in zip(shape or (), shapes.get(value, ()), strict=False):
                if dim == Dim.symbol(name := str(dim)):
                    symbols.setdefault(name, actual)
        results = self.results(callee)
        if any(shape is None for shape in results):
            return None
        return [
            _refine(tuple(substitute(dim, symbols) for dim in shape or ()), value.type)
            for shape, value in zip(results, op.results, strict=True)
        ]

    def _unknown(self, type_: Attribute) -> Shape | None:
        if isinstance(type_, HandleType):
            return type_.shape
        if not isinstance(type_, TensorType):
            return None
        self._fresh += 1
        return type_shape(type_, f"unknown{self._fresh}_")


def _argument_attribute(func: FuncOp, index: int, name: str) -> Attribute | None:
    return func.arg_attrs.data[index].data.get(name) if func.arg_attrs is not None else None


def _argument_shape(func: FuncOp, index: int, type_: Attribute) -> Shape | None:
    if isinstance(type_, HandleType):
        return type_.shape
    if not isinstance(type_, TensorType):
        return None
    declared = _argument_attribute(func, index, SHAPE)
    if not isinstance(declared, ShapeAttr):
        return type_shape(type_, f"{argument_name(func, index)}_")
    static = tuple(dim.static for dim in declared.data)
    if static != tuple(type_.get_shape()):
        raise KaokenError(f"{argument_name(func, index)} has type {type_}, but shape {declared}")
    return declared.data


def _refine(shape: Shape, type_: Attribute) -> Shape:
    """The inferred shape, with the sizes that the type knows and the inference does not."""
    if not isinstance(type_, TensorType):
        return shape
    known = type_shape(type_)
    return tuple(
        k if k.constant is not None and s.constant is None else s
        for s, k in zip(shape, known, strict=True)
    )


def declared_maxima(func: FuncOp) -> dict[str, int]:
    """`kaoken.max`: the largest value of each symbolic size."""
    declared = func.attributes.get(MAX)
    if not isinstance(declared, DictionaryAttr):
        return {}
    values = declared.data.items()
    return {k: v.value.data for k, v in values if isinstance(v, IntegerAttr)}
