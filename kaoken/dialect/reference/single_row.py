"""What makes products of a single row quicker: lists of what is not zero, and tables."""

from __future__ import annotations

import numpy as np
from xdsl.interpreter import Interpreter, impl

from kaoken.dialect.base import tensor_type
from kaoken.dialect.lookup import VALUES, LookupTablesOp
from kaoken.dialect.nn import BLOCK_EXTRA
from kaoken.dialect.reference.results import Arrays, OpFunctions
from kaoken.dialect.sparsity import NonzerosOp


class SingleRowFunctions(OpFunctions):
    """Of `kaoken.dialect.sparsity` and `kaoken.dialect.lookup`."""

    @impl(LookupTablesOp)
    def lookup_tables(self, interpreter: Interpreter, op: LookupTablesOp, args: Arrays) -> Arrays:
        (size,) = tensor_type(op.result).get_shape()
        rows = args[0].reshape(-1, op.groups, op.block_words + BLOCK_EXTRA)
        if len(rows) != 1:
            return (np.zeros(size, np.int32),)
        numbers = np.ascontiguousarray(rows[0, :, : op.block_words]).view(np.int8)
        numbers = numbers.reshape(-1, 2, op.codes, 4).astype(np.int32)
        bits, values = op.bits.value.data, np.arange(VALUES)
        codes = values[:, None] >> np.arange(0, 4, bits) & (1 << bits) - 1
        sums = np.einsum("vc,wncb->wnvb", codes, numbers)
        halves = np.stack([sums & 255, sums >> 8 & 255], 2).astype(np.uint8)
        return (halves.reshape(-1, 4).view(np.int32)[:, 0],)

    @impl(NonzerosOp)
    def nonzeros(self, interpreter: Interpreter, op: NonzerosOp, args: Arrays) -> Arrays:
        (size,) = tensor_type(op.result).get_shape()
        found = np.zeros(size, np.int32)
        rows = args[0].reshape(-1, op.row_words)
        if len(rows) != 1:
            return (found,)
        starts, steps = [0], []
        for first in range(0, op.row_words, op.block_words):
            numbers = rows[0, first : first + op.block_words]
            numbers = numbers[: len(numbers) - BLOCK_EXTRA] if op.is_blocked else numbers
            steps.extend(np.flatnonzero(numbers.reshape(-1, op.words.value.data).any(1)))
            starts.append(len(steps))
        found[: len(starts) + len(steps)] = [*starts, *steps]
        return (found,)
