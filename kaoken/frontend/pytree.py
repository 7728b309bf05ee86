"""The structure of a module's inputs and outputs as JSON, so that run time needs no torch.

A tree is one of
```
{"kind": "tensor"}                                     the next tensor
{"kind": "constant", "value": 3}                       a number, string, bool or null
{"kind": "tuple" | "list", "items": [tree, ...]}
{"kind": "dict", "keys": ["a", ...], "items": [tree, ...]}
{"kind": "model_output", "class": "package.Class", "keys": [...], "items": [tree, ...]}
```
Entries of a Hugging Face ModelOutput that are None are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kaoken.errors import KaokenError

Tree = dict[str, Any]
Path = tuple[str | int, ...]
TENSOR: Tree = {"kind": "tensor"}


def tree_of(spec: Any, leaves: Iterator[Tree]) -> Tree:
    """A torch TreeSpec whose leaves are given in order. KaokenError for an unknown container."""
    if spec.is_leaf():
        return next(leaves)
    items = [tree_of(child, leaves) for child in spec.children()]
    kind, context = spec.type, spec.context
    if kind in (tuple, list):
        return {"kind": kind.__name__, "items": items}
    if isinstance(kind, type) and issubclass(kind, tuple):
        return {"kind": "tuple", "items": items}
    if kind is dict:
        return {"kind": "dict", "keys": list(context), "items": items}
    if isinstance(kind, type) and hasattr(kind, "to_tuple"):
        return _model_output(kind, list(context), items)
    if isinstance(kind, type) and issubclass(kind, dict):
        return {"kind": "dict", "keys": _keys(context), "items": items}
    raise KaokenError(f"a module with {kind} among its inputs or outputs is not supported")


def _keys(context: Any) -> list[Any]:
    return list(context[1] if isinstance(context, tuple | list) and len(context) == 2 else context)


def _model_output(kind: type, keys: list[str], items: list[Tree]) -> Tree:
    kept = [(k, t) for k, t in zip(keys, items, strict=True) if not _is_none(t)]
    return {
        "kind": "model_output",
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "keys": [k for k, _ in kept],
        "items": [t for _, t in kept],
    }


def _is_none(tree: Tree) -> bool:
    return tree["kind"] == "constant" and tree["value"] is None


def tensor_names(tree: Tree, default: str = "output") -> list[str]:
    """A distinct C identifier for each tensor of a tree: from its keys and positions."""
    names: list[str] = []
    for path in _paths(tree):
        name = re.sub(r"\W", "_", "_".join(map(str, path))) or default
        names.append(name if name[0].isalpha() else f"{default}_{name}")
    return [n if names.count(n) == 1 else f"{n}_{i}" for i, n in enumerate(names)]


def _paths(tree: Tree, path: Path = ()) -> Iterator[Path]:
    if tree["kind"] == "tensor":
        yield path
    keys = tree.get("keys", range(len(tree.get("items", ()))))
    for key, item in zip(keys, tree.get("items", ()), strict=True):
        yield from _paths(item, (*path, key))
