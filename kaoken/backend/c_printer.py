"""Prints a module of loop functions as C11.

Every stage from `lower-to-loops` down has a C form: scalar loops, register tiles, and what lies
between. The text holds static functions, callees first; the public API is the package's matter
(`kaoken.backend.package`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from xdsl.dialects import affine, func, memref, vector
from xdsl.dialects.builtin import (
    DenseIntOrFPElementsAttr,
    MemRefType,
    ModuleOp,
    StringAttr,
)
from xdsl.ir import Operation, SSAValue

from kaoken.backend.machine import TargetMachine
from kaoken.backend.printer.contractions import begin_tiles, end_tiles
from kaoken.backend.printer.function import (
    FunctionPrinter,
    ModuleState,
    Signature,
    filled_lines,
)
from kaoken.backend.printer.literals import literal
from kaoken.backend.printer.names import identifier
from kaoken.backend.printer.nests import print_nest
from kaoken.backend.printer.prelude import prelude
from kaoken.backend.printer.statements import STATEMENTS, note_shape
from kaoken.backend.printer.types import element_bytes, memref_type, scalar_type
from kaoken.dialect.kaoken_loop import ContractOp, ViewOp, WeightOp
from kaoken.errors import KaokenError

WEIGHT_ALIGNMENT = 64
_API_VERBS = ("create", "run", "error", "destroy", "timers", "reset_timers", "encode")


@dataclass(frozen=True)
class WeightPlacement:
    """Where a weight lies in the weights file: bytes from the start of its data."""

    key: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class CParameter:
    """A parameter of a printed function: `const float *x`."""

    type: str
    name: str

    def __str__(self) -> str:
        return f"{self.type}{self.name}" if self.type.endswith("*") else f"{self.type} {self.name}"


@dataclass(frozen=True)
class CFunction:
    """The C side of a function. `uses_weights` puts `const unsigned char *weights` first."""

    name: str
    parameters: tuple[CParameter, ...]
    uses_weights: bool


@dataclass(frozen=True)
class CSource:
    """C text and what it expects of the weights file; `functions` is by name in the IR."""

    code: str
    weights: list[WeightPlacement]
    functions: dict[str, CFunction]


def print_module(module: ModuleOp, machine: TargetMachine) -> CSource:
    """The C of all functions that public ones reach (all, where none is public).

    Raises KaokenError for an op or type without a C form.
    """
    return _ModulePrinter(module, machine).print()


@dataclass
class _Weights:
    """Lays out weights in the order in which they appear."""

    placements: dict[str, WeightPlacement] = field(default_factory=dict)
    end: int = 0

    def offset(self, key: str, type_: MemRefType) -> int:
        count = 1
        for size in type_.get_shape():
            count *= size
        nbytes = count * element_bytes(type_.element_type)
        if (known := self.placements.get(key)) is not None:
            if known.nbytes != nbytes:
                raise KaokenError(f"weight '{key}' is used with {known.nbytes} and {nbytes} bytes")
            return known.offset
        offset = -(-self.end // WEIGHT_ALIGNMENT) * WEIGHT_ALIGNMENT
        self.placements[key] = WeightPlacement(key, offset, nbytes)
        self.end = offset + nbytes
        return offset


class _ModulePrinter:
    def __init__(self, module: ModuleOp, machine: TargetMachine):
        self.module = module
        self.machine = machine
        self.weights = _Weights()
        self.functions: dict[str, CFunction] = {}
        functions = [op for op in module.ops if isinstance(op, func.FuncOp) and op.body.blocks]
        self.by_name = {f.sym_name.data: f for f in functions}
        self.order = self._reachable(functions)
        self.state = self._state()

    def print(self) -> CSource:
        for function in self.by_name.values():
            if function in self.order:
                self._place_weights(function)
        printed = [self._function(f) for f in self.order]
        body = "\n\n".join([*self._globals(), *printed]) + "\n"
        header = '#include "kaoken_runtime.h"\n\n' if "kk_t" in body else ""
        code = prelude(body, self.machine)
        first, _, rest = code.partition("\n\n")
        code = f"{first}\n\n{header}{rest}\n{body}" if rest else f"{code}\n{header}{body}"
        return CSource(code, list(self.weights.placements.values()), self.functions)

    def _place_weights(self, function: func.FuncOp) -> None:
        for op in function.walk():
            if isinstance(op, WeightOp):
                self.weights.offset(op.key.data, memref_type(op.result))

    def _reachable(self, functions: list[func.FuncOp]) -> list[func.FuncOp]:
        """What is to be printed, callees before callers."""
        public = [f for f in functions if not _is_private(f)] or functions
        order: list[func.FuncOp] = []
        for function in public:
            self._visit(function, order, ())
        return order

    def _visit(
        self, function: func.FuncOp, order: list[func.FuncOp], callers: tuple[func.FuncOp, ...]
    ) -> None:
        if function in callers:
            raise KaokenError(f"function '{function.sym_name.data}' calls itself")
        if function in order:
            return
        for callee in _callees(function):
            if callee in self.by_name:
                self._visit(self.by_name[callee], order, (*callers, function))
        order.append(function)

    def _state(self) -> ModuleState:
        attribute = self.module.attributes.get("kaoken.name")
        model = identifier(attribute.data) if isinstance(attribute, StringAttr) else "kaoken"
        signatures: dict[str, Signature] = {}
        for function in self.order:
            signatures[function.sym_name.data] = Signature(
                _c_name(function, model),
                _written_arguments(function, signatures),
                _uses_weights(function, signatures),
            )
        constants = {v for f in self.order for v in _constant_pointers(f, signatures)}
        state = ModuleState(self.machine, signatures, self.weights.offset, constants)
        state.globals = {g.sym_name.data: identifier(g.sym_name.data) for g in self._global_ops()}
        names = (s.c_name for s in signatures.values())
        state.reserved = frozenset([*names, *state.globals.values(), "weights"])
        return state

    def _global_ops(self) -> list[memref.GlobalOp]:
        return [op for op in self.module.ops if isinstance(op, memref.GlobalOp)]

    def _globals(self) -> list[str]:
        return [_global_text(op, self.state) for op in self._global_ops()]

    def _function(self, function: func.FuncOp) -> str:
        p = FunctionPrinter(self.state, function, STATEMENTS, print_nest)
        signature = self.state.signatures[function.sym_name.data]
        parameters = _name_parameters(p)
        self.functions[function.sym_name.data] = CFunction(
            signature.c_name, tuple(parameters), signature.uses_weights
        )
        head = ["const unsigned char *weights"] if signature.uses_weights else []
        head += [str(parameter) for parameter in parameters]
        lines = _comment(function)
        lines += _head(f"static {_return_type(function)} {signature.c_name}", head or ["void"])
        for argument, parameter in zip(function.body.block.args, parameters, strict=True):
            if not argument.uses and parameter.name not in p.symbols.values():
                p.line(f"(void){parameter.name};")
        begin_tiles(p)
        p.block(function.body.block)
        end_tiles(p)
        _void_unused_sizes(p)
        return "\n".join([*lines, "{", *p.lines, "}"])


def _is_private(function: func.FuncOp) -> bool:
    visibility = function.sym_visibility
    return visibility is not None and visibility.data == "private"


def _callees(function: func.FuncOp) -> list[str]:
    return [op.callee.string_value() for op in function.walk() if isinstance(op, func.CallOp)]


def _c_name(function: func.FuncOp, model: str) -> str:
    """Public functions carry the model's name: `minilm_main`. None has a name of its API."""
    prefix = "" if _is_private(function) else f"{model}_"
    name = identifier(f"{prefix}{function.sym_name.data}")
    api = {model, *(f"{model}_{verb}" for verb in _API_VERBS)}
    return f"{name}_kernel" if name in api else name


def _uses_weights(function: func.FuncOp, signatures: dict[str, Signature]) -> bool:
    own = any(isinstance(op, WeightOp) for op in function.walk())
    return own or any(signatures[c].uses_weights for c in _callees(function) if c in signatures)


def _written_arguments(function: func.FuncOp, signatures: dict[str, Signature]) -> frozenset[int]:
    written = _written_pointers(function, signatures)
    return frozenset(a.index for a in function.body.block.args if a in written)


def _written_pointers(function: func.FuncOp, signatures: dict[str, Signature]) -> set[SSAValue]:
    """Pointers that the function writes through, with those they were made from."""
    written: set[SSAValue] = set()
    for op in function.walk():
        written.update(_written_by(op, signatures))
    for op in list(function.walk())[::-1]:
        if isinstance(op, ViewOp | memref.CastOp) and op.results[0] in written:
            written.add(op.operands[0])
    return written


def _written_by(op: Operation, signatures: dict[str, Signature]) -> list[SSAValue]:
    if isinstance(op, memref.StoreOp | affine.StoreOp):
        return [op.memref]
    if isinstance(op, vector.TransferWriteOp):
        return [op.source]
    if isinstance(op, vector.StoreOp):
        return [op.base]
    if isinstance(op, memref.CopyOp):
        return [op.destination]
    if isinstance(op, ContractOp):
        return [op.target]
    if isinstance(op, func.CallOp) and (callee := signatures.get(op.callee.string_value())):
        return [op.arguments[i] for i in callee.written]
    return []


def _constant_pointers(function: func.FuncOp, signatures: dict[str, Signature]) -> list[SSAValue]:
    """Pointers to const: weights and what is made from arguments that are only read."""
    written = _written_arguments(function, signatures)
    found = [
        a
        for a in function.body.block.args
        if isinstance(a.type, MemRefType) and a.index not in written
    ]
    constant: set[SSAValue] = set(found)
    for op in function.walk():
        weight = isinstance(op, WeightOp)
        derived = isinstance(op, ViewOp | memref.CastOp) and op.operands[0] in constant
        if weight or derived:
            constant.add(op.results[0])
    return list(constant)


def _name_parameters(p: FunctionPrinter) -> list[CParameter]:
    """Give the arguments their names; learn which symbolic sizes they carry."""
    parameters: list[CParameter] = []
    function = p.function
    attributes = function.arg_attrs.data if function.arg_attrs else ()
    for i, argument in enumerate(function.body.block.args):
        given = attributes[i].data if i < len(attributes) else {}
        name = given.get("kaoken.name")
        hint = name.data if isinstance(name, StringAttr) else argument.name_hint
        c_name = p.names.new(hint, f"arg{i}")
        p.values[argument] = c_name
        if isinstance(name, StringAttr) and not isinstance(argument.type, MemRefType):
            p.symbols[name.data] = c_name
        parameters.append(CParameter(p.c_type(argument).rstrip(" "), c_name))
    for i, argument in enumerate(function.body.block.args):
        given = attributes[i].data if i < len(attributes) else {}
        if isinstance(argument.type, MemRefType):
            note_shape(p, argument, given.get("kaoken.shape"))
    return parameters


def _void_unused_sizes(p: FunctionPrinter) -> None:
    """Sizes are used implicitly, by indices into buffers, or not at all."""
    body = "\n".join(p.lines)
    for argument in p.function.body.block.args:
        name = p.values[argument]
        if not argument.uses and name in p.symbols.values() and name not in _words(body):
            p.lines.insert(0, f"    (void){name};")


def _words(text: str) -> set[str]:
    return set("".join(c if c.isalnum() or c == "_" else " " for c in text).split())


def _comment(function: func.FuncOp) -> list[str]:
    comment = function.attributes.get("kaoken.comment")
    if not isinstance(comment, StringAttr):
        return []
    lines = comment.data.replace("*/", "* /").splitlines()
    return ["/* " + "\n * ".join(lines) + " */"]


def _head(name: str, parameters: list[str]) -> list[str]:
    text = f"{name}({', '.join(parameters)})"
    if len(text) <= 100:
        return [text]
    rows = filled_lines(parameters, 94)
    return [f"{name}(", *(f"    {row}" for row in rows[:-1]), f"    {rows[-1]})"]


def _return_type(function: func.FuncOp) -> str:
    results = list(function.function_type.outputs)
    if len(results) > 1:
        raise KaokenError(
            f"the C printer knows no function with {len(results)} results: "
            f"'{function.sym_name.data}'"
        )
    return scalar_type(results[0]) if results else "void"


def _global_text(op: memref.GlobalOp, state: ModuleState) -> str:
    type_ = op.type
    assert isinstance(type_, MemRefType)
    count = 1
    for size in type_.get_shape():
        count *= size
    name = state.globals[op.sym_name.data]
    const = "const " if op.constant is not None else ""
    head = f"static {const}{scalar_type(type_.element_type)} {name}[{count}]"
    if not isinstance(op.initial_value, DenseIntOrFPElementsAttr):
        return f"{head};"
    numbers = [literal(a) for a in op.initial_value.iter_attrs()]
    if len(numbers) < count:
        numbers *= count
    rows = filled_lines(numbers, 94)
    return "\n".join([f"{head} = {{", *(f"    {row}" for row in rows), "};"])


__all__ = ["CFunction", "CParameter", "CSource", "WeightPlacement", "print_module"]
