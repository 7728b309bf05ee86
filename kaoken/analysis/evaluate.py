"""What an op gives for given arrays: constant folding by the reference semantics.

Importing this module imports numpy; passes do so only when there is something to fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.interpreter import Interpreter

from kaoken.dialect.base import KaokenOp
from kaoken.dialect.reference import KaokenFunctions


@cache
def _interpreter() -> Interpreter:
    interpreter = Interpreter(ModuleOp([]))
    interpreter.register_implementations(KaokenFunctions())
    return interpreter


def evaluate(op: KaokenOp, operands: Sequence[np.ndarray]) -> np.ndarray:
    """The result of an op whose sizes are all known.

    Raises InterpretationError where the op has no value, such as an index that is out of range.
    """
    with np.errstate(all="ignore"):
        (result,) = _interpreter().run_op(op, tuple(operands))
    return np.asarray(result)
