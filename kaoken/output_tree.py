"""The structure of a module's arguments and result: tensor, tuple, list, dict, ModelOutput.

The manifest keeps it as JSON, and `build` puts a call's flat outputs back into it:

    {"kind": "model_output", "class": "transformers.modeling_outputs.BaseModelOutput",
     "keys": ["last_hidden_state"]}

A node may have `items`, a node for each child; without them every child is a tensor. A
`{"kind": "constant", "value": 3}` is a child that is always the same.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kaoken.errors import KaokenError

Tree = Mapping[str, Any]

_TENSOR: Tree = {"kind": "tensor"}


class Output(dict[str, Any]):
    """What stands for a ModelOutput where transformers is not loaded.

    Values by key, attribute, or position, as there: `out["a"]`, `out.a`, `out[0]`.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, key: str | int | slice) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self.values())


def build(tree: Tree, outputs: Sequence[Any], load_class: bool = False) -> Any:
    """The outputs, in flat order, in the tree's structure.

    `load_class` says whether a ModelOutput's module may be imported for it; otherwise the class is
    used only where its module is loaded already.
    """
    values = iter(outputs)
    result = _build(tree, values, len(outputs), load_class)
    if next(values, None) is not None:
        raise KaokenError("the manifest's output tree has fewer leaves than the model has outputs")
    return result


def flatten(tree: Tree, value: Any, path: str) -> list[tuple[str, Any]]:
    """The tensors of an argument that has the tree's structure, named `path_key_index`.

    Raises KaokenError where the structure differs or a constant is not the one compiled in.
    """
    kind = tree["kind"]
    if kind == "tensor":
        return [(path, value)]
    if kind == "constant":
        if value != tree["value"]:
            raise KaokenError(f"{path} was compiled in as {tree['value']!r}, but is {value!r}")
        return []
    keys = tree.get("keys", range(len(tree["items"])))
    if not hasattr(value, "__getitem__") or len(value) != len(tree["items"]):
        raise KaokenError(f"{path}: expected a {kind} of {len(tree['items'])}")
    pairs = zip(keys, tree["items"], strict=True)
    return [leaf for key, item in pairs for leaf in flatten(item, value[key], f"{path}_{key}")]


def depth(tree: Tree) -> int:
    """How many containers stand around the deepest leaf; constants count as one more."""
    if tree["kind"] == "constant":
        return 1
    return 1 + max(map(depth, tree["items"]), default=0) if "items" in tree else 0


def leaf_count(tree: Tree, default: int = 1) -> int:
    """How many tensors a tree holds; `default` for a tuple that does not say it."""
    if tree["kind"] in ("tensor", "constant"):
        return int(tree["kind"] == "tensor")
    if "items" in tree:
        return sum(map(leaf_count, tree["items"]))
    return len(tree["keys"]) if "keys" in tree else default


def _build(tree: Tree, values: Iterator[Any], count: int, load_class: bool) -> Any:
    kind = tree["kind"]
    if kind == "tensor":
        return _next(values)
    if kind == "constant":
        return tree["value"]
    nodes = tree.get("items", [_TENSOR] * leaf_count(tree, count))
    children = [_build(node, values, count, load_class) for node in nodes]
    if kind in ("tuple", "list"):
        return tuple(children) if kind == "tuple" else children
    named = dict(zip(tree["keys"], children, strict=True))
    if kind == "dict":
        return named
    if kind == "model_output":
        return _output_class(tree.get("class", ""), load_class)(**named)
    raise KaokenError(f"the manifest's output tree has the unknown kind {kind}")


def _next(values: Iterator[Any]) -> Any:
    try:
        return next(values)
    except StopIteration:
        raise KaokenError(
            "the manifest's output tree has more leaves than the model has outputs"
        ) from None


def _output_class(path: str, load: bool) -> Callable[..., Any]:
    module_name, _, name = path.rpartition(".")
    module = sys.modules.get(module_name)
    if module is None and load and module_name:
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            return Output
    return getattr(module, name, Output)
