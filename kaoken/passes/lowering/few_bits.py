"""Sums of products with weights of few bits, straight from packed codes.

acc = bias
reduce g: 0 .. groups                             # the last two words of a block x[m, g]: what a
  sum[p] = 0                                      # step is worth, and the sum of its numbers
  reduce k: word = w[n0, g * words + k, n1]       # four bytes full of codes
    for each plane p of the bytes:                # written out: a shift and a mask
      sum[p] = dot((word >> p * bits) & mask, x[m, g, k * planes + p], sum[p])
  total = sum of sum[p] - offset * x[m, g, sum]
  acc += float(total) * scale[n0, g, n1] * x[m, g, scale]

Each plane has a sum of its own, since a sum that waits for its own last addition takes as many
cycles as one product lasts. In long groups codes are multiplied where they stand in their bytes, as
far as these stay below 128: a shift of each sum at the end takes the place of one of each word.
Codes of several parts come in chunks of a few words: k counts those, and a plane's codes are put
together from its bits in a word of each part.

With super-blocks the numbers of a group are integers, and there is a loop around:

reduce s: factor = supers[n0, s, n1]
  reduce g: ...   acc += float(total) * (float(scale[n0, s * 8 + g, n1]) * factor) * ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from xdsl.dialects import arith
from xdsl.dialects.builtin import f32, i32
from xdsl.ir import SSAValue

from kaoken.dialect.dims import product
from kaoken.dialect.formats import Format
from kaoken.dialect.kaoken_loop import DotKind, DotOp
from kaoken.dialect.lookup import TABLES
from kaoken.dialect.nn import BLOCK_EXTRA, LinearOp
from kaoken.errors import KaokenError
from kaoken.passes.lowering.kernel import Kernel, as_f32
from kaoken.passes.lowering.lookup import add_lookups, total_of_tables
from kaoken.passes.lowering.nest import Index
from kaoken.passes.lowering.skipping import NonzeroSteps

_BYTE = 0x01010101
_SIGNS = -0x7F7F7F80
"""The highest bit of each byte of a word, 0x80808080."""
_MIDDLE = 128
_LONG_GROUP = 16
"""In groups of so many chunks a shift of each row's sum costs less than one of each word."""


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
    supers: SSAValue | None
    """What scales and minima are worth in each super-block."""
    nonzeros: NonzeroSteps | None = None
    """Which chunks of a single row are to be multiplied, where others are passed over."""
    tables: SSAValue | None = None
    """Sums for all codes of a single row."""

    @property
    def chunks(self) -> int:
        """Chunks of codes in a group."""
        return self.block_words // self.format.planes

    def place(self, kernel: Kernel, g: SSAValue, chunk: SSAValue, word: int) -> SSAValue:
        """Which word of a column a word of a group's chunk is."""
        chunks, size = self.chunks, self.format.chunk_words
        return kernel.affine(lambda g, k: g * (chunks * size) + k * size + word, g, chunk)


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
        None if op.weight_supers is None else kernel.buffer("wsupers", op.weight_supers),
    )


Read = Callable[[SSAValue, Index], SSAValue]
"""What a buffer in panels holds for one column, at a word or group."""


def sum_of_groups(
    kernel: Kernel,
    b: FewBitsBuffers,
    i: SSAValue,
    start: SSAValue,
    read: Read,
    total_of: Callable[[SSAValue], SSAValue] | None = None,
) -> SSAValue:
    """One sum, as `kaoken.quantized.multiply` says. `total_of` gives the exact sum of a group of
    steps from the offset; by default straight from packed codes."""

    def from_packed(g: SSAValue) -> SSAValue:
        return _from_offset(kernel, b, i, g, _sum_of_codes(kernel, b, i, g, read))

    def number(buffer: SSAValue, g: SSAValue, factor: SSAValue | None) -> SSAValue:
        value = as_f32(kernel, read(buffer, g))
        return value if factor is None else kernel.insert(arith.MulfOp(value, factor))

    def group(g: SSAValue, acc: SSAValue, factors: Sequence[SSAValue | None]) -> SSAValue:
        total = (total_of or from_packed)(g)
        scale = number(b.scale, g, factors[0])
        minimum = None if b.minimum is None else number(b.minimum, g, factors[1])
        return add_group(kernel, b, (i, g), acc, total, (scale, minimum))

    if b.supers is None:
        return kernel.fold("g", b.groups, start, lambda g, acc: group(g, acc, (None, None)))
    return _by_super_blocks(kernel, b, start, read, group)


Group = Callable[[SSAValue, SSAValue, Sequence[SSAValue | None]], SSAValue]
"""What a sum is after a group, which is numbered; what integers in it are worth comes last."""


def _by_super_blocks(
    kernel: Kernel, b: FewBitsBuffers, start: SSAValue, read: Read, group: Group
) -> SSAValue:
    """The sum of all groups; the last super-block may have fewer of them."""
    supers, groups = b.supers, b.format.groups_of_super
    assert supers is not None
    count = 1 if b.minimum is None else 2

    def block(s: Index, size: int, acc: SSAValue) -> SSAValue:
        places = [kernel.affine(lambda s, i=i: s * count + i, s) for i in range(count)]
        factors = [as_f32(kernel, read(supers, at)) for at in places]

        def one(g: SSAValue, acc: SSAValue) -> SSAValue:
            return group(kernel.affine(lambda s, g: s * groups + g, s, g), acc, factors)

        return kernel.fold("g", size, acc, one)

    whole, rest = divmod(b.groups, groups)
    total = start
    if whole:
        total = kernel.fold("s", whole, total, lambda s, acc: block(s, groups, acc))
    return block(whole, rest, total) if rest else total


def add_group(
    kernel: Kernel,
    b: FewBitsBuffers,
    at: tuple[SSAValue, SSAValue],
    acc: SSAValue,
    total: SSAValue,
    numbers: tuple[SSAValue, SSAValue | None],
) -> SSAValue:
    """`acc` and what a group of a row is worth, `at` (row, group), whose exact sum is `total` and
    whose scale and minimum are `numbers`."""
    i, g = at
    scale, minimum = numbers
    value = kernel.insert(arith.MulfOp(as_f32(kernel, total), scale))
    if minimum is not None:
        inputs = kernel.load(b.x, i, g, b.block_words + 1)
        offset = kernel.insert(arith.MulfOp(minimum, as_f32(kernel, inputs)))
        value = kernel.insert(arith.AddfOp(value, offset))
    step = kernel.load(b.steps, i, g, b.block_words)
    return kernel.insert(arith.AddfOp(acc, kernel.insert(arith.MulfOp(value, step))))


def _sum_of_codes(
    kernel: Kernel, b: FewBitsBuffers, i: SSAValue, g: SSAValue, read: Read
) -> SSAValue:
    """The exact sum of a group's codes times its inputs."""
    if b.tables is not None:
        return _sum_by_tables(kernel, b, b.tables, g, read)
    planes = b.format.planes
    kind = DotKind.UI8_I8 if b.format.bits == 8 else DotKind.UI7_I8
    shifts = [0] * planes if b.chunks < _LONG_GROUP else places_in_byte(b.format)

    def word(k: SSAValue, at: int) -> SSAValue:
        return read(b.w, b.place(kernel, g, k, at))

    def chunk(k: SSAValue, sums: list[SSAValue]) -> list[SSAValue]:
        codes = code_words(kernel, b.format, lambda i: word(k, i), shifts)
        for plane, four in enumerate(codes):
            at = kernel.affine(lambda k, plane=plane: k * planes + plane, k)
            product = DotOp(kind, four, kernel.load(b.x, i, g, at), sums[plane])
            sums[plane] = kernel.insert(product)
        return sums

    starts = [kernel.constant(0, i32)] * planes
    sums = _over_chunks(kernel, b, g, starts, chunk)
    total, *rest = (_shifted_down(kernel, one, by) for one, by in zip(sums, shifts, strict=True))
    for one in rest:
        total = kernel.insert(arith.AddiOp(total, one))
    return total


def _over_chunks(
    kernel: Kernel,
    b: FewBitsBuffers,
    g: SSAValue,
    starts: list[SSAValue],
    chunk: Callable[[SSAValue, list[SSAValue]], list[SSAValue]],
) -> list[SSAValue]:
    """Sums over a group's chunks, those that are listed if there is a list."""
    if b.nonzeros is not None:
        return b.nonzeros.fold(kernel, g, starts, chunk)
    return kernel.reduce("k", b.chunks, starts, chunk)


def _sum_by_tables(
    kernel: Kernel, b: FewBitsBuffers, tables: SSAValue, g: SSAValue, read: Read
) -> SSAValue:
    """The same by what tables say for each nibble of the codes."""

    def chunk(k: SSAValue, sums: list[SSAValue]) -> list[SSAValue]:
        number = b.place(kernel, g, k, 0)
        return add_lookups(kernel, tables, number, read(b.w, number), sums)

    starts = [kernel.constant(0, i32)] * TABLES
    return total_of_tables(kernel, _over_chunks(kernel, b, g, starts, chunk))


def _shifted_down(kernel: Kernel, total: SSAValue, by: int) -> SSAValue:
    return kernel.insert(arith.ShRSIOp(total, kernel.constant(by, i32))) if by else total


def places_in_byte(format_: Format) -> list[int]:
    """By plane, how far up in their byte codes can stay and be below 128; 0 if in several parts."""
    if len(format_.parts) > 1:
        return [0] * format_.planes
    places = range(0, 8, format_.bits)
    return [place if place + format_.bits < 8 else 0 for place in places]


def _from_offset(
    kernel: Kernel, b: FewBitsBuffers, i: SSAValue, g: SSAValue, total: SSAValue
) -> SSAValue:
    """A group's sum of codes as one of steps from the offset."""
    if b.format.step != 1:
        total = kernel.insert(arith.MuliOp(total, kernel.constant(b.format.step, i32)))
    if not b.format.offset:
        return total
    return kernel.insert(arith.AddiOp(total, offset_of(kernel, b, i, g)))


def offset_of(kernel: Kernel, b: FewBitsBuffers, i: SSAValue, g: SSAValue) -> SSAValue:
    """What counting codes from the offset adds to a group's sum."""
    inputs = kernel.load(b.x, i, g, b.block_words + 1)
    return kernel.insert(arith.MuliOp(inputs, kernel.constant(-b.format.offset, i32)))


def code_words(
    kernel: Kernel, format_: Format, word: Callable[[int], SSAValue], shifts: Sequence[int] = ()
) -> Iterator[SSAValue]:
    """The codes of a chunk, four in a word, from where their bits are packed: `word(i)` gives the
    i-th word of the chunk. Those of a plane are moved up by its number of `shifts`."""
    words = [word(at) for at in range(format_.chunk_words)]
    for plane in range(format_.planes):
        codes, start = None, 0
        first = shifts[plane] if shifts else 0
        for bits in format_.parts:
            at, place = divmod(plane, 8 // bits)
            part = _bits(kernel, words[start + at], place * bits, first, bits)
            codes = part if codes is None else kernel.insert(arith.OrIOp(codes, part))
            start += format_.planes * bits // 8
            first += bits
        assert codes is not None
        yield codes


def signed_steps(kernel: Kernel, format_: Format, codes: SSAValue) -> SSAValue:
    """A word of codes as signed steps from the offset, which must fit bytes.

    A bit above what codes take keeps bytes from borrowing of their neighbours.
    """
    if format_.step != 1:
        codes = kernel.insert(arith.MuliOp(codes, kernel.constant(format_.step, i32)))
    if not format_.offset:
        return codes
    sign = kernel.constant(_SIGNS, i32)
    if format_.offset == _MIDDLE:
        return kernel.insert(arith.XOrIOp(codes, sign))
    codes = kernel.insert(arith.OrIOp(codes, sign))
    codes = kernel.insert(arith.SubiOp(codes, kernel.constant(_BYTE * format_.offset, i32)))
    return kernel.insert(arith.XOrIOp(codes, sign))


def has_small_steps(format_: Format) -> bool:
    """Whether steps from the offset fit signed bytes, and codes times the step unsigned ones."""
    most = format_.step * format_.largest
    fits = most - format_.offset < _MIDDLE and format_.offset <= _MIDDLE
    return fits and (most < _MIDDLE or format_.offset == _MIDDLE)


def _bits(kernel: Kernel, word: SSAValue, source: int, target: int, bits: int) -> SSAValue:
    """So many bits of each byte of a word, moved from one place to another, without the rest."""
    if source > target:
        word = kernel.insert(arith.ShRUIOp(word, kernel.constant(source - target, i32)))
    elif source < target:
        word = kernel.insert(arith.ShLIOp(word, kernel.constant(target - source, i32)))
    if bits == 8:
        return word
    mask = kernel.constant(_BYTE * (((1 << bits) - 1) << target), i32)
    return kernel.insert(arith.AndIOp(word, mask))
