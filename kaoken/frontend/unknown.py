"""What to do with aten ops that have no builder: let torch decompose them, else list them all."""

from __future__ import annotations

import operator
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from kaoken.errors import KaokenError
from kaoken.frontend.aten import find_builder

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

_IGNORED = ("aten._assert", "aten.sym_")
_MAX_ROUNDS = 4


def is_ignored(target: str) -> bool:
    """True for calls that compute no tensor."""
    return target.startswith(_IGNORED)


def require_known(program: ExportedProgram) -> ExportedProgram:
    """The program without mutation, and every op that kaoken lacks decomposed into ops that it has.

    Raises KaokenError that lists all ops for which that fails, each with the user's line.
    """
    # Most programs need neither, and run_decompositions takes as long as the export itself.
    if _mutates(program) or _unknown_nodes(program):
        program = program.run_decompositions({})
    return _decomposed(program)


def _mutates(program: ExportedProgram) -> bool:
    """True if a node changes a tensor in place."""
    return any(_is_mutable(node) for node in program.graph.nodes)


def _is_mutable(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable and str(node.target) != "aten.detach_.default"


def _decomposed(program: ExportedProgram) -> ExportedProgram:
    from torch._decomp import decomposition_table
    from torch.export import default_decompositions

    for _ in range(_MAX_ROUNDS):
        unknown = {node.target for node in _unknown_nodes(program)}
        if not unknown:
            return program
        table: dict[Any, Any] = {**decomposition_table, **default_decompositions()}
        chosen: dict[Any, Any] = {target: table[target] for target in unknown if target in table}
        if not chosen:
            break
        program = program.run_decompositions(chosen)
    raise KaokenError(_message(_unknown_nodes(program)))


def source_of(node: Node) -> str:
    """The user's line that made a node, such as `model.py:7: x = x + 1`."""
    trace = node.meta.get("stack_trace") or ""
    frames = re.findall(r'File "([^"]+)", line (\d+), in [^\n]*\n\s*([^\n]*)', trace)
    own = [f for f in frames if "/torch/" not in f[0]] or frames
    if not own:
        return "source unknown"
    path, line, code = own[-1]
    return f"{path}:{line}: {code.strip()}"


def _unknown_nodes(program: ExportedProgram) -> list[Node]:
    return [n for n in program.graph.nodes if n.op not in ("placeholder", "output") and _unknown(n)]


def _unknown(node: Node) -> bool:
    if node.op != "call_function":
        return True
    if node.target is operator.getitem or is_size(node.meta.get("val")):
        return False
    target = str(node.target)
    return not is_ignored(target) and find_builder(target) is None


def is_size(value: Any) -> bool:
    """True for what an fx node that computes a size or a condition on sizes yields."""
    import torch

    return isinstance(value, int | float | bool | torch.SymInt | torch.SymBool | torch.SymFloat)


def _message(nodes: list[Node]) -> str:
    places = Counter((str(n.target), source_of(n)) for n in nodes)
    lines = [
        f"  {target} at {place}" + (f" ({count} times)" if count > 1 else "")
        for (target, place), count in places.items()
    ]
    kinds = len({str(n.target) for n in nodes})
    ops = "1 op" if kinds == 1 else f"{kinds} ops"
    return "\n".join([f"kaoken has no meaning for {ops} of the module:", *lines])
