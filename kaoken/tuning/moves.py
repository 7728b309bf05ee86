"""What may be changed about a schedule, one kind of change after another.

Each kind is a function from a schedule to others like it; none of them knows an op. They look at
the directives that are there, and the loops that these name:

    panel(48) tile(m, 512) tile(m_in, 8) order(m, n0, m_in, m_in_in, n1) vectorize(m_in_in, n1)

    matrix_units     vectorize(m_in_in, n1) in place of tensorize(m_in_in, n1, k)
    register_tiles   panel(64) ... tile(m_in, 6) ... and other shapes that the registers hold, or
                     several panels: panel(16) ... tile(n0, 4) ... vectorize(m_in_in, n0_in, n1)
    vector_widths    tile(h, 128), where h_in is a vector
    blocks           tile(m, 256), tile(m, 1024): blocks of no vector
    orders           order(n0, m, m_in, m_in_in, n1)
    shares           parallel(m_in): which loop the threads divide
    prefetches       prefetch(k, 8), prefetch(n0, 1)
    unrolls          unroll(k, 2)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations

from kaoken.backend.machine import LINE_BYTES, TargetMachine
from kaoken.dialect.attributes import Directive, ScheduleAttr
from kaoken.passes.choose_schedule import FLOAT_BITS

Move = Callable[[ScheduleAttr, TargetMachine], Iterator[ScheduleAttr]]
INNER = "_in"
"""What `tile` puts after a loop's name for the loop inside a block."""
MAX_ROWS = 16
MAX_VECTORS = 8
PLAIN_VECTORS = 4
"""The vectors of a panel where a product leaves the matrix unit, until others are tried."""
LEAST_USE = 0.5
"""Register tiles that use less of the registers are not tried."""
BLOCK_FACTORS = (0.25, 0.5, 2, 4)
WIDTH_FACTORS = (0.25, 0.5, 2, 4)
_NUMBERED = ("tile", "prefetch", "unroll", "vectorize")
DISTANCES = (4, 8, 16, 32)
UNROLLS = (2, 4)
_REDUCTION, _PANELS, _COLUMNS = "k", "n0", "n1"
"""What lowering calls the loop of a sum, over panels, and over the columns of one."""


def matrix_units(schedule: ScheduleAttr, machine: TargetMachine) -> Iterator[ScheduleAttr]:
    """Products of few rows may be faster in vector registers than in a matrix unit."""
    unit, panel, rows = _find(schedule, "tensorize"), _find(schedule, "panel"), _rows(schedule)
    if unit is None or panel is None or rows is None:
        return
    over_rows, columns, _ = unit.args
    plain = [d for d in schedule.data if d != Directive("vectorize", (columns,))]
    vectors = Directive("vectorize", (over_rows, columns))
    found = ScheduleAttr(tuple(vectors if d == unit else d for d in plain))
    count = machine.vector_registers * 3 // 4 // PLAIN_VECTORS
    yield _tiled(found, PLAIN_VECTORS * machine.lanes(FLOAT_BITS), 1, rows, max(1, count))


def register_tiles(schedule: ScheduleAttr, machine: TargetMachine) -> Iterator[ScheduleAttr]:
    """Rows of a tile by columns of a panel, as many as the registers hold."""
    panel, rows = _find(schedule, "panel"), _rows(schedule)
    if panel is None or rows is None:
        return
    if _find(schedule, "tensorize") is not None:
        for count, width in _matrix_tiles(machine):
            yield _tiled(schedule, width, 1, rows, count)
        return
    line = LINE_BYTES * 8 // FLOAT_BITS
    for count, width in _vector_tiles(machine):
        if width % line == 0 and width > line and _COLUMNS in _vector_loops(schedule):
            yield _tiled(schedule, line, width // line, rows, count)
        yield _tiled(schedule, width, 1, rows, count)


def _vector_tiles(machine: TargetMachine) -> Iterator[tuple[int, int]]:
    """Rows and columns of sums that fill half of the registers or more; one is for a factor."""
    for vectors in range(1, MAX_VECTORS + 1):
        for count in range(1, MAX_ROWS + 1):
            used = vectors * count + 1
            if LEAST_USE * machine.vector_registers <= used <= machine.vector_registers:
                yield count, vectors * machine.lanes(FLOAT_BITS)


def _matrix_tiles(machine: TargetMachine) -> Iterator[tuple[int, int]]:
    """Rows and columns of sums that leave a tile for each of the factors' rows and columns."""
    unit = machine.matrix_unit
    if unit is None:
        return
    most = _registers(*unit.block)
    for down in range(1, most):
        for across in range(1, most):
            if _registers(down, across) <= most:
                yield down * unit.rows, across * unit.columns


def _registers(down: int, across: int) -> int:
    return down * across + down + across


def vector_widths(schedule: ScheduleAttr, machine: TargetMachine) -> Iterator[ScheduleAttr]:
    """Shorter and longer vectors of a loop that is tiled for them, where there are no panels."""
    if _find(schedule, "panel") is None:
        for tile in schedule.data:
            if _is_vector_tile(tile, schedule):
                yield from _scaled(schedule, tile, WIDTH_FACTORS)


def blocks(schedule: ScheduleAttr, machine: TargetMachine) -> Iterator[ScheduleAttr]:
    """Smaller and larger blocks of tiles that are no vectors: whole multiples of those inside."""
    for tile in schedule.all("tile"):
        if not _is_vector_tile(tile, schedule):
            inside = f"{tile.args[0]}{INNER}"
            step = next((d.args[1] for d in schedule.all("tile") if d.args[0] == inside), 1)
            yield from _scaled(schedule, tile, BLOCK_FACTORS, int(step))


def orders(schedule: ScheduleAttr, machine: TargetMachine) -> Iterator[ScheduleAttr]:
    """The other ways to nest the loops that are no vectors; a block stays outside its inside."""
    order = _find(schedule, "order")
    if order is None:
        return
    vectors = _vector_loops(schedule)
    loops = [str(name) for name in order.args if name not in vectors]
    rest = [name for name in order.args if name in vectors]
    for outer in permutations(loops):
        if all(outer.index(n) < outer.index(n + INNER) for n in loops if n + INNER in loops):
            yield _with(schedule, order, *outer, *rest)


def shares(schedule: ScheduleAttr, machine: TargetMachine) -> Iterator[ScheduleAttr]:
    """Other loops for the threads to divide: those that `order` names, but vectors."""
    parallel, order = _find(schedule, "parallel"), _find(schedule, "order")
    if parallel is None or order is None:
        return
    for name in order.args:
        if name not in _vector_loops(schedule):
            yield _with(schedule, parallel, name)


def prefetches(schedule: ScheduleAttr, machine: TargetMachine) -> Iterator[ScheduleAttr]:
    """Nearer and farther reads ahead in the reduction, and none; the next panels, or not."""
    yield from _added(schedule, "prefetch", DISTANCES)
    next_panel = Directive("prefetch", (_PANELS, 1))
    rest = tuple(d for d in schedule.data if d != next_panel)
    yield ScheduleAttr(rest if len(rest) < len(schedule.data) else (*rest, next_panel))


def unrolls(schedule: ScheduleAttr, machine: TargetMachine) -> Iterator[ScheduleAttr]:
    """The reduction unrolled more, less, and not at all."""
    yield from _added(schedule, "unroll", UNROLLS)


MOVES: tuple[Move, ...] = (
    matrix_units,
    register_tiles,
    vector_widths,
    blocks,
    orders,
    shares,
    prefetches,
    unrolls,
)
"""In the order in which they are tried: what matters most comes first."""


def neighbours(schedule: ScheduleAttr, move: Move, machine: TargetMachine) -> list[ScheduleAttr]:
    """The other schedules that one kind of change leads to, the nearest first."""
    found = [s for s in dict.fromkeys(move(schedule, machine)) if s != schedule]
    return sorted(found, key=lambda s: _distance(schedule, s))


def _distance(a: ScheduleAttr, b: ScheduleAttr) -> float:
    """How much the numbers of two schedules differ, by their ratios; other changes count 1."""
    mine, other = ({_purpose(d): d for d in one.data} for one in (a, b))
    total = float(len(mine.keys() ^ other.keys()))
    for key in mine.keys() & other.keys():
        x, y = mine[key].args[-1:], other[key].args[-1:]
        if x and y and isinstance(x[0], int) and isinstance(y[0], int):
            total += max(x[0], y[0]) / min(x[0], y[0]) - 1
        elif mine[key] != other[key]:
            total += 1
    return total


def _purpose(directive: Directive) -> tuple[str | int, ...]:
    """What a directive is about, whatever number it gives."""
    return (
        (directive.name, *directive.args[:1]) if directive.name in _NUMBERED else (directive.name,)
    )


def _find(schedule: ScheduleAttr, name: str) -> Directive | None:
    return next((d for d in schedule.data if d.name == name), None)


def _vector_loops(schedule: ScheduleAttr) -> set[str | int]:
    directives = (*schedule.all("vectorize"), *schedule.all("tensorize"))
    return {name for d in directives for name in d.args}


def _is_vector_tile(directive: Directive, schedule: ScheduleAttr) -> bool:
    inner = f"{directive.args[0]}{INNER}" if directive.args else ""
    return directive.name == "tile" and inner in _vector_loops(schedule)


def _rows(schedule: ScheduleAttr) -> Directive | None:
    """The tile whose inside is the rows of a register tile."""
    tiles = (d for d in schedule.data if _is_vector_tile(d, schedule))
    return next((d for d in tiles if d.args[0] != _PANELS), None)


def _tiled(
    schedule: ScheduleAttr, width: int, panels: int, rows: Directive, count: int
) -> ScheduleAttr:
    """The schedule with register tiles of `count` rows and `panels` panels of `width` columns."""
    loop = str(rows.args[0])
    found = _aligned(_with(schedule, rows, loop, count), loop, count)
    split = [d for d in found.data if (d.name, *d.args[:1]) != ("tile", _PANELS)]
    plain = [_in_panels(d, width) for d in split]
    if panels == 1:
        return ScheduleAttr(tuple(plain))
    last = 1 + max(i for i, d in enumerate(plain) if d.name == "tile")
    inside = Directive("tile", (_PANELS, panels))
    return ScheduleAttr((*plain[:last], inside, *map(_with_inner_panels, plain[last:])))


def _in_panels(directive: Directive, width: int) -> Directive:
    """The directive without the loop inside a tile of panels, and for panels of that width."""
    if directive.name == "panel":
        return replace(directive, args=(width,))
    return replace(directive, args=tuple(a for a in directive.args if a != _PANELS + INNER))


def _with_inner_panels(directive: Directive) -> Directive:
    """The directive with the loop inside a tile of panels, outside that over their columns."""
    if directive.name not in ("order", "vectorize") or _COLUMNS not in directive.args:
        return directive
    at = directive.args.index(_COLUMNS)
    return replace(directive, args=(*directive.args[:at], _PANELS + INNER, *directive.args[at:]))


def _with(schedule: ScheduleAttr, old: Directive, *args: str | int) -> ScheduleAttr:
    """The schedule with other arguments for one of its directives."""
    new = replace(old, args=tuple(args))
    return ScheduleAttr(tuple(new if d == old else d for d in schedule.data))


def _aligned(schedule: ScheduleAttr, loop: str, step: int) -> ScheduleAttr:
    """The blocks that a loop is the inside of, as the next whole multiple of its tile."""
    for tile in schedule.all("tile"):
        name, size = tile.args
        if f"{name}{INNER}" == loop and isinstance(size, int):
            schedule = _with(schedule, tile, name, -(-size // step) * step)
    return schedule


def _scaled(
    schedule: ScheduleAttr, tile: Directive, factors: Sequence[float], step: int = 1
) -> Iterator[ScheduleAttr]:
    loop, size = tile.args
    assert isinstance(size, int)
    for factor in factors:
        yield _with(schedule, tile, loop, max(1, round(size * factor / step)) * step)


def _added(schedule: ScheduleAttr, name: str, values: Sequence[int]) -> Iterator[ScheduleAttr]:
    """The schedule with a directive on its reduction, one for each value, and without."""
    rest = tuple(d for d in schedule.data if (d.name, *d.args[:1]) != (name, _REDUCTION))
    yield ScheduleAttr(rest)
    for value in values:
        yield ScheduleAttr((*rest, Directive(name, (_REDUCTION, value))))
