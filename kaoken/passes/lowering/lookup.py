"""Nests of tables: a row's numbers times all codes, and sums of what the tables say.

tables:
  for each word of codes, its two nibbles:
    parallel e: 0 .. 16
      sum[byte] = sum over codes c: (e >> c * bits & mask) * x[word, nibble, c, byte]
      low[e], high[e] = the sums' bytes, four in a word
products:
  reduce k: word = w[n0, g, k, n1]
    sum[nibble, part] = lookup(tables[g, k, nibble, part], word, sum[nibble, part])
  total = low sums + (high sums << 8)

A product with few bits takes a table's answer for 4 codes of 1 bit, where a dot product of bytes
needs a shift and a mask for each.
"""

from __future__ import annotations

from xdsl.dialects import arith
from xdsl.dialects.builtin import i32
from xdsl.ir import SSAValue

from kaoken.dialect.dims import product
from kaoken.dialect.kaoken_loop import BytePart, LookupOp
from kaoken.dialect.lookup import TABLES, VALUES, LookupTablesOp
from kaoken.passes.lowering.kernel import Kernel
from kaoken.passes.lowering.skipping import single_row


def lower_lookup_tables(op: LookupTablesOp, kernel: Kernel) -> None:
    kernel.name = f"lookup_tables_{op.groups * op.block_words * 4}_q{op.bits.value.data}"
    kernel.comment = "a row's numbers times all codes"
    x = kernel.buffer("x", op.input)
    x_rows = product(kernel.shape(op.input)[:-2])
    y = kernel.buffer("y", op.result)
    chunks, codes = op.chunks, op.codes
    with (
        kernel.parallel("m", single_row(kernel, kernel.size("m", x_rows))) as m,
        kernel.parallel("g", op.groups) as g,
        kernel.parallel("u", chunks) as u,
        kernel.parallel("e", VALUES) as e,
    ):
        leading = [m] + [kernel.index(0)] * (len(kernel.shape(op.input)) - 3)
        value = kernel.insert(arith.IndexCastOp(e, i32))
        for nibble in range(2):
            words = []
            for c in range(codes):
                at = kernel.affine(lambda u, n=nibble * codes + c: u * (2 * codes) + n, u)
                words.append(kernel.load(x, *leading, g, at))
            sums = [_sum(kernel, value, words, op.bits.value.data, byte) for byte in range(4)]
            for part, shift in enumerate((0, 8)):
                first = (nibble * 2 + part) * VALUES
                at = kernel.affine(
                    lambda g, u, e, f=first: (g * chunks + u) * (TABLES * VALUES) + f + e, g, u, e
                )
                kernel.store(_packed(kernel, sums, shift), y, at)


def _sum(kernel: Kernel, value: SSAValue, words: list[SSAValue], bits: int, byte: int) -> SSAValue:
    """A byte of each word times the code that a nibble's value has for it, summed."""
    total = kernel.constant(0, i32)
    for c, word in enumerate(words):
        up = kernel.insert(arith.ShLIOp(word, kernel.constant(24 - 8 * byte, i32)))
        number = kernel.insert(arith.ShRSIOp(up, kernel.constant(24, i32)))
        code = kernel.insert(arith.ShRUIOp(value, kernel.constant(c * bits, i32)))
        code = kernel.insert(arith.AndIOp(code, kernel.constant((1 << bits) - 1, i32)))
        total = kernel.insert(arith.AddiOp(total, kernel.insert(arith.MuliOp(code, number))))
    return total


def _packed(kernel: Kernel, sums: list[SSAValue], shift: int) -> SSAValue:
    """A byte of each of four sums, in a word."""
    word = kernel.constant(0, i32)
    for byte, total in enumerate(sums):
        part = kernel.insert(arith.ShRSIOp(total, kernel.constant(shift, i32))) if shift else total
        part = kernel.insert(arith.AndIOp(part, kernel.constant(255, i32)))
        part = kernel.insert(arith.ShLIOp(part, kernel.constant(8 * byte, i32)))
        word = kernel.insert(arith.OrIOp(word, part))
    return word


def add_lookups(
    kernel: Kernel, tables: SSAValue, chunk: SSAValue, word: SSAValue, sums: list[SSAValue]
) -> list[SSAValue]:
    """Add what the tables of a word of codes, the `chunk`-th of the row, say for it."""
    for i in range(TABLES):
        at = kernel.affine(lambda k, i=i: k * (TABLES * VALUES) + i * VALUES, chunk)
        part = BytePart.HIGH if i % 2 else BytePart.LOW
        sums[i] = kernel.insert(LookupOp(part, i // 2, tables, at, word, sums[i]))
    return sums


def total_of_tables(kernel: Kernel, sums: list[SSAValue]) -> SSAValue:
    """The sum that low and high bytes make."""
    low, high = (kernel.insert(arith.AddiOp(sums[i], sums[i + 2])) for i in range(2))
    high = kernel.insert(arith.ShLIOp(high, kernel.constant(8, i32)))
    return kernel.insert(arith.AddiOp(low, high))
