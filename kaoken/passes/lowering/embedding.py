"""Nests that look rows up in a table, plain or packed for a linear layer.

parallel m:                                      # plain: [V][H]
  row = ids[m]                                   # 0, and a word in `status`, where it is not in V
  parallel h: y[m, h] = table[row, h]

parallel m:                                      # panels of bf16: [V / R][H / 2][R][2]
  row = ids[m]
  parallel w:
    parallel j: y[m, w * 2 + j] = table[row / R, w, row % R, j]

Panels of codes are read as words, which hold the codes of four bytes plane by plane (in several
words where a code has several parts):

  parallel w:
    word = table[row / R, w, row % R]
    codes = (word >> (p * 4)) & 0x0f0f0f0f                               # for each plane p
    y[m, w * 8 + 4 * p + b] = (codes >> (8 * b)) & 15                    # and each of its bytes
"""

from __future__ import annotations

from xdsl.dialects import arith
from xdsl.dialects.builtin import bf16, i8, i32
from xdsl.ir import SSAValue

from kaoken.dialect.base import tensor_type
from kaoken.dialect.dims import Dim, product
from kaoken.dialect.formats import WORD_BYTES, Format
from kaoken.dialect.kaoken_loop import ConvertOp
from kaoken.dialect.nn import UI8, EmbeddingOp
from kaoken.passes.lowering.few_bits import code_words
from kaoken.passes.lowering.kernel import Kernel
from kaoken.passes.lowering.nest import Index
from kaoken.passes.lowering.rows import checked_index


def lower_embedding(op: EmbeddingOp, kernel: Kernel) -> None:
    vocabulary, width = op.table_shape
    kernel.name = f"embedding_{vocabulary}x{width}"
    where = ", packed in panels" if op.is_packed else ""
    kernel.comment = f"rows of a table [{vocabulary}][{width}]{where}"
    rows = product(kernel.shape(op.indices))
    words = None if op.format is None else kernel.shape(op.table)[:3]
    table = kernel.buffer("table", op.table, words, element=None if words is None else i32)
    ids = kernel.buffer("ids", op.indices, (rows,))
    y = kernel.buffer("y", op.result, (rows, Dim.of(width)))
    status = kernel.status()
    name = op.indices.name_hint or "an index"
    code = kernel.add_error(f"{name} holds a value outside 0..{vocabulary - 1}")
    with kernel.parallel("m", kernel.size("m", rows)) as m:
        row = checked_index(kernel, kernel.load(ids, m), vocabulary, status, code)
        if op.is_packed:
            _packed_row(op, kernel, table, row, y, m)
            return
        with kernel.parallel("h", width) as h:
            kernel.store(kernel.load(table, row, h), y, m, h)


def _packed_row(
    op: EmbeddingOp, kernel: Kernel, table: SSAValue, row: SSAValue, y: SSAValue, m: SSAValue
) -> None:
    panel_width, columns = tensor_type(op.table).get_shape()[2], op.table_shape[1]
    panel = kernel.affine(lambda row: row // panel_width, row)
    lane = kernel.affine(lambda row: row % panel_width, row)
    if op.format is not None:
        _codes(kernel, op.format.data, columns, (table, panel, lane), (y, m))
        return
    element = tensor_type(op.table).element_type
    if tensor_type(op.table).get_num_dims() == 3:
        with kernel.parallel("h", columns) as h:
            kernel.store(kernel.load(table, panel, h, lane), y, m, h)
        return
    count = 2 if element == bf16 else WORD_BYTES
    first = 1 if element == i8 else 0  # Panels of i8 begin with the sums of their columns.
    with kernel.parallel("w", columns // count) as w, kernel.parallel("j", count) as j:
        line = kernel.affine(lambda w: w + first, w)
        at = kernel.affine(lambda w, j: w * count + j, w, j)
        kernel.store(kernel.load(table, panel, line, lane, j), y, m, at)


def _codes(
    kernel: Kernel,
    format_: Format,
    columns: int,
    source: tuple[SSAValue, SSAValue, SSAValue],
    target: tuple[SSAValue, SSAValue],
) -> None:
    """A row of codes, each a byte; the last chunk may hold some past the row's end."""
    table, panel, lane = source
    size, words = format_.chunk_codes, format_.chunk_words
    whole, rest = divmod(columns, size)

    def unpack(w: Index, count: int) -> None:
        def word(i: int) -> SSAValue:
            return kernel.load(table, panel, kernel.affine(lambda w: w * words + i, w), lane)

        mask = kernel.constant(format_.largest, i32)
        for plane, codes in enumerate(code_words(kernel, format_, word)):
            for byte in range(min(WORD_BYTES, count - plane * WORD_BYTES)):
                shift = kernel.constant(byte * 8, i32)
                value = kernel.insert(arith.ShRUIOp(codes, shift))
                value = kernel.insert(arith.AndIOp(value, mask))
                code = plane * WORD_BYTES + byte
                at = kernel.affine(lambda w, code=code: w * size + code, w)
                kernel.store(kernel.insert(ConvertOp(value, UI8)), *target, at)

    if whole:
        with kernel.parallel("w", whole) as w:
            unpack(w, size)
    if rest:
        unpack(whole, rest)
