"""Sums of products with weights of few bits, straight from packed codes.

acc = bias
reduce g: 0 .. groups                             # the last two words of a block x[m, g]: what a
  sum[0] = -offset * x[m, g, sum]                 # step is worth, and the sum of its numbers
  reduce k: word = w[n0, g * words + k, n1]       # four bytes full of codes
    for each plane p of the bytes:                # written out: a shift and a mask
      sum[p] = dot((word >> p * bits) & mask, x[m, g, k * planes + p], sum[p])
  acc += float(sum of sum[p]) * scale[n0, g, n1] * x[m, g, scale]

Each plane has a sum of its own, since a sum that waits for its own last addition takes as many
cycles as one product lasts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xdsl.dialects import arith
from xdsl.dialects.builtin import f32, i32
from xdsl.ir import SSAValue

from kaoken.dialect.dims import product
from kaoken.dialect.formats import Format
from kaoken.dialect.kaoken_loop import ConvertOp, DotKind, DotOp
from kaoken.dialect.nn import BLOCK_EXTRA, LinearOp
from kaoken.errors import KaokenError
from kaoken.passes.lowering.kernel import Kernel
from kaoken.passes.lowering.nest import Index

_BYTE = 0x01010101


@dataclass(frozen=True)
class FewBitsBuffers:
    """The arguments of a kernel whose weight is of few bits."""

    format: Format
    groups: int
    block_words: int
    """The words of numbers in a block of the input."""
    x: SSAValue
    """Blocks as words: numbers, what a step is worth, the sum of the numbers."""
    steps: SSAValue
    """The same memory as floats."""
    w: SSAValue
    scale: SSAValue
    minimum: SSAValue | None

    @property
    def words(self) -> int:
        """Words of codes in a group."""
        return self.block_words // self.format.planes


def few_bits_buffers(op: LinearOp, kernel: Kernel) -> FewBitsBuffers:
    """Arguments for the input and the weight. Raises KaokenError for one that is not packed."""
    if not op.is_packed:
        raise KaokenError(f"a linear layer of {op.format} needs a packed weight: run bake first")
    assert op.format is not None
    assert op.weight_scale is not None
    *rows, groups, words = kernel.shape(op.input)
    shape = (product(rows), groups, words)
    minimum = None if op.weight_min is None else kernel.buffer("wm", op.weight_min)
    return FewBitsBuffers(
        op.format.data,
        groups.constant or 0,
        (words.constant or 0) - BLOCK_EXTRA,
        kernel.buffer("x", op.input, shape),
        kernel.buffer("xs", op.input, shape, element=f32),
        kernel.buffer("w", op.weight, kernel.shape(op.weight)[:3], element=i32),
        kernel.buffer("ws", op.weight_scale),
        minimum,
    )


Read = Callable[[SSAValue, Index], SSAValue]
"""What a buffer in panels holds for one column, at a word or group."""


def sum_of_groups(
    kernel: Kernel, b: FewBitsBuffers, i: SSAValue, start: SSAValue, read: Read
) -> SSAValue:
    """One sum, as `kaoken.quantized.multiply` says."""

    def group(g: SSAValue, acc: SSAValue) -> SSAValue:
        inputs = kernel.load(b.x, i, g, b.block_words + 1)
        total = _integer_sum(kernel, b, i, g, inputs, read)
        value = kernel.insert(ConvertOp(total, f32))
        value = kernel.insert(arith.MulfOp(value, _number(kernel, read(b.scale, g))))
        if b.minimum is not None:
            offset = kernel.insert(
                arith.MulfOp(
                    _number(kernel, read(b.minimum, g)), kernel.insert(ConvertOp(inputs, f32))
                )
            )
            value = kernel.insert(arith.AddfOp(value, offset))
        step = kernel.load(b.steps, i, g, b.block_words)
        return kernel.insert(arith.AddfOp(acc, kernel.insert(arith.MulfOp(value, step))))

    return kernel.fold("g", b.groups, start, group)


def _integer_sum(
    kernel: Kernel, b: FewBitsBuffers, i: SSAValue, g: SSAValue, inputs: SSAValue, read: Read
) -> SSAValue:
    """The exact sum of a group, codes counted from their offset."""
    planes, bits, step = b.format.planes, b.format.bits, b.format.step
    kind = DotKind.UI8_I8 if bits == 8 else DotKind.UI7_I8
    zero = kernel.constant(0, i32)
    offset = zero
    if b.format.offset:
        times = kernel.constant(-b.format.offset, i32)
        offset = kernel.insert(arith.MuliOp(inputs, times))

    def word(k: SSAValue, sums: list[SSAValue]) -> list[SSAValue]:
        codes = read(b.w, kernel.affine(lambda g, k: g * b.words + k, g, k))
        for plane in range(planes):
            part = codes
            if plane:
                part = kernel.insert(arith.ShRUIOp(codes, kernel.constant(plane * bits, i32)))
            if planes > 1:
                mask = kernel.constant(_BYTE * b.format.largest, i32)
                part = kernel.insert(arith.AndIOp(part, mask))
            at = kernel.affine(lambda k, plane=plane: k * planes + plane, k)
            product = DotOp(kind, part, kernel.load(b.x, i, g, at), sums[plane])
            sums[plane] = kernel.insert(product)
        return sums

    starts = [offset if step == 1 else zero] + [zero] * (planes - 1)
    total, *rest = kernel.reduce("k", b.words, starts, word)
    for one in rest:
        total = kernel.insert(arith.AddiOp(total, one))
    if step == 1:
        return total
    total = kernel.insert(arith.MuliOp(total, kernel.constant(step, i32)))
    return kernel.insert(arith.AddiOp(total, offset))


def _number(kernel: Kernel, value: SSAValue) -> SSAValue:
    """A scale as f32."""
    return value if value.type == f32 else kernel.insert(ConvertOp(value, f32))
