"""From torch.export to a `kaoken` module: every aten call becomes kaoken ops, weights keep names.

```
%linear = aten.linear(%x, %p_fc_weight, %p_fc_bias)
```
becomes
```mlir
%0 = kaoken.weight "fc.weight" : tensor<4x8xf32>
%1 = kaoken.weight "fc.bias" : tensor<4xf32>
%2 = kaoken.linear %x, %0 bias %1 : tensor<4xf32> : tensor<?x8xf32>, tensor<4x8xf32> -> ...
```
"""

from __future__ import annotations

import json
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xdsl.builder import Builder
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FunctionType, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import SSAValue
from xdsl.rewriter import InsertPoint
from xdsl.utils.exceptions import VerifyException

from kaoken.dialect.attributes import ShapeAttr, int_attr
from kaoken.dialect.base import shaped, tensor_type
from kaoken.dialect.dims import Dim
from kaoken.errors import KaokenError
from kaoken.frontend.aten import Importer, find_builder
from kaoken.frontend.aten.registry import element_type_of
from kaoken.frontend.parameters import Parameters
from kaoken.frontend.pytree import TENSOR, Tree, tensor_names, tree_of
from kaoken.frontend.recognise import recognise
from kaoken.frontend.symbols import Names, Symbols, given_names
from kaoken.frontend.unknown import is_ignored, is_size, require_known, source_of
from kaoken.weights import WeightStore, attach_store

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram
    from torch.fx import Node

_NOISE = {
    "copy",
    "device",
    "layout",
    "memory_format",
    "non_blocking",
    "pin_memory",
    "requires_grad",
}
"""Keywords that say where and how a tensor is stored, which is kaoken's to decide."""


def import_module(
    module: torch.nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    name: str | None = None,
) -> ModuleOp:
    """Export a module with example inputs and import it; the arguments are torch.export's.

    Raises KaokenError when torch cannot export it, when an open size has no maximum, and when
    the module calls ops that kaoken does not know (all of them at once).
    """
    args, kwargs = _distinct(tuple(args), dict(kwargs or {}))
    program = _export(module, args, kwargs, dynamic_shapes)
    names = given_names(program, module, args, kwargs, dynamic_shapes)
    return import_exported(program, name or type(module).__name__, names)


def import_exported(
    program: ExportedProgram, name: str | None = None, names: Names | None = None
) -> ModuleOp:
    """An exported program as a module with its WeightStore attached.

    `names` says what the open sizes are called: (argument, dimension) to name. Raises KaokenError
    for unknown ops, unbounded sizes, unsupported element types and modules that change themselves.
    """
    with quietly():
        program = require_known(program)
        module = _Import(program, name or "model", names).run()
    recognise(module)
    module.verify()
    return module


class _Import:
    """One exported program on its way to a module."""

    def __init__(self, program: ExportedProgram, name: str, names: Names | None):
        self.program = program
        self.name = identifier(name)
        self.symbols = Symbols(program, names)
        self.store = WeightStore()
        self.values: dict[str, Any] = {}
        inputs = self._inputs()
        self.function = self._function(inputs)
        self.values.update({node.name: value for node, value in zip(inputs, self.function.args)})
        builder = Builder(InsertPoint.at_end(self.function.body.block))
        self.importer = Importer(builder, self.symbols)
        self.weights = Parameters(program, self.importer, self.store)

    def run(self) -> ModuleOp:
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                self.values[node.name] = self._call(node)
        return self._finish()

    def _inputs(self) -> list[Node]:
        """The placeholders of the tensors that users give."""
        names = set(self.program.graph_signature.user_inputs)
        placeholders = [n for n in self.program.graph.nodes if n.op == "placeholder"]
        return [n for n in placeholders if n.name in names and hasattr(n.meta.get("val"), "dtype")]

    def _function(self, inputs: Sequence[Node]) -> FuncOp:
        """@main with its arguments and nothing else."""
        tensors = [node.meta["val"] for node in inputs]
        shapes = [self.symbols.shape(tensor) for tensor in tensors]
        types = [
            shaped(shape, element_type_of(tensor.dtype))
            for shape, tensor in zip(shapes, tensors, strict=True)
        ]
        names = [identifier(node.name) for node in inputs]
        attributes = ArrayAttr(
            DictionaryAttr({"kaoken.shape": ShapeAttr(shape), "kaoken.name": StringAttr(name)})
            for shape, name in zip(shapes, names, strict=True)
        )
        function = FuncOp("main", (types, []), arg_attrs=attributes)
        for argument, name in zip(function.args, names, strict=True):
            argument.name_hint = name
        return function

    def _call(self, node: Node) -> Any:
        result = node.meta.get("val")
        if node.target is operator.getitem:
            return self.values[node.args[0].name][node.args[1]]  # pyright: ignore
        if is_size(result):
            return self._size(result)
        target = str(node.target)
        if is_ignored(target):
            return None
        builder = find_builder(target)
        assert builder is not None, target
        return self._build(node, builder, result)

    def _size(self, size: Any) -> Any:
        """A number, the Dim of a SymInt, or None for what only guards are made of."""
        import torch

        if isinstance(size, torch.SymInt):
            try:
                return self.symbols.dim(size)
            except KaokenError as error:
                return error
        return size if isinstance(size, bool | int | float) else None

    def _build(self, node: Node, builder: Callable[..., Any], result: Any) -> Any:
        args = [self._argument(a) for a in node.args]
        kwargs = {k: self._argument(v) for k, v in node.kwargs.items() if k not in _NOISE}
        self.importer.results = result
        try:
            value = builder(self.importer, *args, **kwargs)
        except (KaokenError, VerifyException) as error:
            raise KaokenError(f"{node.target}: {_first_line(error)} ({source_of(node)})") from error
        if isinstance(value, SSAValue):
            _check_type(node, value)
        return value

    def _argument(self, argument: Any) -> Any:
        """An argument of an aten call as builders want it."""
        import torch

        if isinstance(argument, torch.fx.Node):
            value = self.values.get(argument.name)
            if value is None and argument.name in self.weights.keys:
                value = self.values[argument.name] = self.weights.load(argument.name)
            if isinstance(value, KaokenError):
                raise value
            constant = value.constant if isinstance(value, Dim) else None
            return value if constant is None else constant
        if isinstance(argument, list | tuple):
            return [self._argument(a) for a in argument]
        if isinstance(argument, torch.dtype):
            return element_type_of(argument)
        return argument

    def _finish(self) -> ModuleOp:
        tree, results = self._results()
        function = self.function
        function.body.block.add_op(ReturnOp(*results))
        function.function_type = FunctionType.from_lists(
            function.function_type.inputs.data, [value.type for value in results]
        )
        function.attributes["kaoken.max"] = DictionaryAttr(
            {name: int_attr(limit) for name, limit in self.symbols.maxima.items()}
        )
        names = [StringAttr(name) for name in tensor_names(tree)]
        function.attributes["kaoken.results"] = ArrayAttr(names)
        module = ModuleOp([function])
        module.attributes["kaoken.name"] = StringAttr(self.name)
        module.attributes["kaoken.input_tree"] = StringAttr(json.dumps(self._input_tree()))
        module.attributes["kaoken.output_tree"] = StringAttr(json.dumps(tree))
        attach_store(module, self.store)
        return module

    def _results(self) -> tuple[Tree, list[SSAValue]]:
        """The output structure, and the tensors in it."""
        self._refuse_mutation()
        (node,) = [n for n in self.program.graph.nodes if n.op == "output"]
        values = [self._argument(a) for a in node.args[0]]
        spec = self.program.call_spec.out_spec
        assert spec is not None
        leaves = [_leaf(value) for value in values]
        return tree_of(spec, iter(leaves)), [v for v in values if isinstance(v, SSAValue)]

    def _refuse_mutation(self) -> None:
        signature = self.program.graph_signature
        changed = [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]
        if changed:
            raise KaokenError(
                f"the module changes {', '.join(map(str, changed))} while it runs: "
                "return the new value instead"
            )

    def _input_tree(self) -> Tree:
        tensors = {node.name for node in self._inputs()}
        leaves = [
            TENSOR if str(name) in tensors else {"kind": "constant", "value": _plain(name)}
            for name in self.program.graph_signature.user_inputs
        ]
        spec = self.program.call_spec.in_spec
        assert spec is not None
        return tree_of(spec, iter(leaves))


def identifier(name: str) -> str:
    """A name as a C identifier."""
    cleaned = re.sub(r"\W", "_", name)
    return cleaned if cleaned[:1].isalpha() or cleaned[:1] == "_" else f"m_{cleaned}"


def _check_type(node: Node, value: SSAValue) -> None:
    """Raise KaokenError unless a value has the rank and element type that torch says."""
    expected = node.meta["val"]
    type_ = tensor_type(value)
    same_type = type_.element_type == element_type_of(expected.dtype)
    if not same_type or type_.get_num_dims() != expected.dim():
        raise KaokenError(
            f"kaoken imports {node.target} as {type_} where torch has {expected.dtype} "
            f"{list(expected.shape)} ({source_of(node)}): please report this"
        )


def _leaf(value: Any) -> Tree:
    if isinstance(value, SSAValue):
        return TENSOR
    if isinstance(value, Dim):
        raise KaokenError(f"the module returns the size {value}: return tensors alone")
    return {"kind": "constant", "value": _plain(value)}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _distinct(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs in which no tensor occurs twice: torch.export takes such for one input."""
    import torch
    from torch.utils._pytree import tree_map

    seen: set[int] = set()

    def distinct(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or id(value) not in seen:
            seen.add(id(value))
            return value
        return value.clone()

    return tree_map(distinct, (args, kwargs))


def _export(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any
) -> ExportedProgram:
    import torch
    from torch.fx.experimental import _config

    patch: Any = _config.patch  # pyright: ignore[reportAttributeAccessIssue]
    first: Exception | None = None
    # torch guards that sizes such as `tokens - 1` are not 1, where it could broadcast; the second
    # try takes it on trust that open sizes broadcast with their equals alone.
    for trusting in (False, True):
        # Without gradients, torch.no_grad() in a model is no graph of its own to be inlined.
        with quietly(), torch.no_grad(), patch(backed_size_oblivious=trusting):
            try:
                return torch.export.export(
                    module, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False
                )
            except Exception as error:
                first = first or error
        if "Constraints violated" not in str(first):
            break
    assert first is not None
    reason = _export_reason(first)
    raise KaokenError(f"torch.export cannot export the module: {reason}") from first


def _export_reason(error: Exception) -> str:
    """The first line of torch's error, with the constraints it lists below."""
    details = [line.strip(" -") for line in str(error).splitlines() if line.startswith("  - ")]
    first = _first_line(error).partition(" For more information")[0]
    return " ".join([first, *details])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def quietly() -> Iterator[None]:
    """Without torch's warnings, which are about its own plans."""
    import logging

    logger = logging.getLogger("torch")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
