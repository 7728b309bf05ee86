"""torch's symbolic sizes as `Dim`s: names from the user's `Dim`s, bounds from the export.

torch calls an open size `s43`. Users called it `batch` when they gave `dynamic_shapes`; where an
exported program no longer says so, it is named after the argument: `input_ids_0`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kaoken.dialect.attributes import Shape
from kaoken.dialect.dims import Dim, product
from kaoken.errors import KaokenError

if TYPE_CHECKING:
    import sympy
    from torch.export import ExportedProgram
    from torch.nn import Module

Names = Mapping[tuple[str, int], str]
"""(argument, dimension) to the name that the user gave the size."""


class Symbols:
    """What each symbol of an exported program is called, and its largest value."""

    def __init__(self, program: ExportedProgram, given: Names | None = None):
        self.names: dict[str, str] = {}
        self.maxima: dict[str, int] = {}
        self._expressions: dict[sympy.Basic, Dim] = {}
        inputs = set(program.graph_signature.user_inputs)
        for node in program.graph.nodes:
            if node.op == "placeholder" and node.name in inputs:
                self._name_sizes(str(node.name), node.meta.get("val"), given or {})
        self._ranges = program.range_constraints
        self._bound(program.range_constraints)

    def dim(self, size: Any) -> Dim:
        """An int or SymInt as a Dim. Raises KaokenError when it is no polynomial of the symbols."""
        if isinstance(size, int):
            return Dim.of(size)
        return self._expression(size.node.expr)

    def shape(self, tensor: Any) -> Shape:
        """The shape of a (fake) torch tensor."""
        return tuple(self.dim(size) for size in tensor.shape)

    def _name_sizes(self, argument: str, tensor: Any, given: Names) -> None:
        for i, size in enumerate(getattr(tensor, "shape", ())):
            free = [] if isinstance(size, int) else sorted(map(str, size.node.expr.free_symbols))
            for symbol in free:
                fallback = self.names.get(symbol, f"{argument}_{i}")
                self.names[symbol] = given.get((argument, i), fallback)

    def _bound(self, constraints: Mapping[sympy.Symbol, Any]) -> None:
        for symbol, name in self.names.items():
            bounds = [int(r.upper) for s, r in constraints.items() if _bounds(s, r, symbol)]
            if not bounds:
                raise KaokenError(
                    f'the size "{name}" has no largest value: '
                    f'give one with torch.export.Dim("{name}", max=...)'
                )
            self.maxima[name] = min(bounds)

    def _expression(self, expression: sympy.Basic) -> Dim:
        if (dim := self._expressions.get(expression)) is None:
            dim = self._expressions[expression] = self._convert(expression)
        return dim

    def _convert(self, expression: Any) -> Dim:
        if expression.is_Integer:
            return Dim.of(int(expression))
        if expression.is_Symbol and str(expression) in self.names:
            return Dim.symbol(self.names[str(expression)])
        if expression.is_Add:
            parts = [self._expression(e) for e in expression.args]
            return sum(parts[1:], parts[0])
        if expression.is_Mul:
            return product(self._expression(e) for e in expression.args)
        if expression.is_Pow and expression.exp.is_Integer and expression.exp > 0:
            return product([self._expression(expression.base)] * int(expression.exp))
        if (chosen := self._chosen(expression)) is not None:
            return self._expression(chosen)
        raise KaokenError(
            f"the size {self._readable(expression)} is no polynomial of the open sizes: "
            "fix the dimension that it comes from, or rewrite the module"
        )

    def _chosen(self, expression: Any) -> Any | None:
        """The argument of a maximum or minimum that is it whatever the sizes are, or None."""
        from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

        kind = expression.func.__name__
        if kind not in ("Max", "Min"):
            return None
        sign = 1 if kind == "Max" else -1
        ranges = {s: ValueRanges(max(1, r.lower), r.upper) for s, r in self._ranges.items()}
        for argument in expression.args:
            ahead = [sign * (argument - other) for other in expression.args]
            if all(bound_sympy(lead, ranges).lower >= 0 for lead in ahead):
                return argument
        return None

    def _readable(self, expression: Any) -> str:
        text = str(expression)
        for symbol, name in self.names.items():
            text = text.replace(symbol, name)
        return text


def given_names(
    program: ExportedProgram,
    module: Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    dynamic_shapes: Any,
) -> Names:
    """The names of the `torch.export.Dim`s with which a module was exported."""
    from torch.export.dynamic_shapes import _combine_args
    from torch.utils._pytree import tree_flatten

    if not dynamic_shapes:
        return {}
    combined = _combine_args(module, tuple(args), dict(kwargs))
    if not isinstance(dynamic_shapes, Mapping):
        combined = tuple(combined.values())
    specs = dict(_leaf_specs(combined, dynamic_shapes))
    leaves, _ = tree_flatten((tuple(args), dict(kwargs)))
    names: dict[tuple[str, int], str] = {}
    for argument, leaf in zip(program.graph_signature.user_inputs, leaves, strict=False):
        for i, dim in _items(specs.get(id(leaf))):
            if (name := _dim_name(dim)) is not None:
                names[str(argument), i] = name
    return names


def _bounds(symbol: Any, value_range: Any, wanted: str) -> bool:
    """True if a range constraint gives the wanted symbol a finite upper bound."""
    return str(symbol) == wanted and bool(value_range.upper.is_Integer)


def _leaf_specs(value: Any, spec: Any) -> Iterator[tuple[int, Any]]:
    """(identity of a tensor, its part of `dynamic_shapes`) for each tensor in `value`."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaf_specs(item, spec.get(key) if isinstance(spec, Mapping) else None)
    elif isinstance(value, list | tuple) and isinstance(spec, list | tuple):
        for item, inner in zip(value, spec, strict=False):
            yield from _leaf_specs(item, inner)
    elif spec is not None:
        yield id(value), spec


def _items(spec: Any) -> list[tuple[int, Any]]:
    return list(spec.items()) if isinstance(spec, Mapping) else list(enumerate(spec or ()))


def _dim_name(dim: Any) -> str | None:
    name = getattr(getattr(dim, "root", dim), "__name__", None)
    return name if isinstance(name, str) and name.isidentifier() else None
