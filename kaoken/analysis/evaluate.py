"""What an op gives for given arrays: constant folding by the reference semantics.

Importing this module imports numpy; passes do so only when there is something to fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.interpreter import Interpreter

from kaoken.dialect.base import KaokenOp
from kaoken.dialect.reference import KaokenFunctions


@cache
def _interpreter(sizes: tuple[tuple[str, int], ...]) -> Interpreter:
    interpreter = Interpreter(ModuleOp([]))
    interpreter.register_implementations(KaokenFunctions(dict(sizes)))
    return interpreter


def evaluate(
    op: KaokenOp, operands: Sequence[np.ndarray], sizes: Mapping[str, int] | None = None
) -> np.ndarray:
    """The result of an op whose sizes are all known, open ones by `sizes`.

    Raises InterpretationError where the op has no value, such as an index that is out of range.
    """
    interpreter = _interpreter(tuple(sorted((sizes or {}).items())))
    with np.errstate(all="ignore"):
        (result,) = interpreter.run_op(op, tuple(operands))
    return np.asarray(result)
