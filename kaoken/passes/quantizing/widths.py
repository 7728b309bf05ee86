"""How many bits each weight takes, within a budget: `--dtype mixed`.

    gate_up [3072, 576]    int3 0.77 MB 0.021    int4 1.00 MB 0.0052    int5 1.22 MB 0.0013  ...
    down    [576, 1536]    int3 0.39 MB 0.022    int4 0.50 MB 0.0055    int5 0.61 MB 0.0014  ...
->
    gate_up int4    down int5            # the least sum of errors within a budget of 1.7 MB

A weight's error is that of a layer's results, or of the weight itself where no samples were seen,
relative to what it is of: the mean square of one over that of the other. With samples it counts as
much as it shows in the model's outputs (`effects.py`). All weights begin at their fewest bits; then
whatever step gains most for its bytes comes next, until nothing fits. That is the best choice for
the bytes that it takes (Everett, 1963), since steps that gain less than the next ones are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from heapq import heapify, heappop, heappush

import numpy as np
from xdsl.dialects.builtin import ModuleOp, f32
from xdsl.ir import Block, SSAValue

from kaoken.analysis.constants import is_constant
from kaoken.analysis.tied import identity
from kaoken.calibration import Samples
from kaoken.dialect.base import tensor_type
from kaoken.dialect.nn import EmbeddingOp, LinearOp, WeightOp
from kaoken.errors import KaokenError
from kaoken.passes.baking.folding import source_key, source_keys
from kaoken.passes.baking.workspace import Workspace
from kaoken.passes.quantizing.effects import Effects
from kaoken.passes.quantizing.few_bits import EDGE, is_given, stored_format
from kaoken.passes.quantizing.policy import Choice, Policy, Rule
from kaoken.rounding import Grid, grid_of, rounded

_LAYERS = (EDGE, "int6", "int5", "int4", "int3", "int2", "ternary", "int1")
_EDGES = (EDGE, "int6")
"""What weights may become; tables of embeddings and the layer of logits keep six bits or more, and
eight where no samples tell what fewer would cost, or where nothing multiplies them: codes that are
looked up alone are stored as bytes."""
_ROWS = 64
"""Of a weight so many rows tell how large its errors are."""
_PROBE = "int3"
"""What a weight is rounded to in order to see what that does to the model's outputs."""


@dataclass(frozen=True)
class Budget:
    """What may be used: bits a weight on average, or bytes of the file or of what a call reads."""

    amount: float | None = None
    """None: the bytes of `int4`."""
    unit: str = ""
    """`` for bits a weight, `MB`, or `MB/token`."""

    @staticmethod
    def parse(text: str | None) -> Budget:
        """`4.5`, `60MB` or `60MB/token`. KaokenError for anything else."""
        if text is None:
            return Budget()
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*(|MB|MB/token)\s*", text)
        if found is None or not float(found[1]):
            raise KaokenError(
                f"the budget is {text!r}: give bits a weight such as 4.5, the size of all weights "
                "such as 60MB, or what a token reads of them such as 60MB/token"
            )
        return Budget(float(found[1]), found[2])


@dataclass(frozen=True)
class Site:
    """A weight [N, K] that layers multiply or ids look up, stored once."""

    weight: SSAValue
    is_edge: bool
    """Whether it is a table of embeddings or gives logits."""
    is_multiplied: bool

    @property
    def shape(self) -> tuple[int, int]:
        n, k = tensor_type(self.weight).get_shape()
        return n, k


@dataclass(frozen=True)
class Width:
    """What a weight may become, the bytes that it then takes, and what that costs."""

    name: str
    size: int
    error: float


def choose_widths(
    module: ModuleOp,
    blocks: Sequence[Block],
    work: Workspace,
    policy: Policy,
    moments: Mapping[SSAValue, np.ndarray],
    samples: Samples | None,
    budget: Budget,
) -> Policy:
    """A policy with a line for each weight that a given one does not name.

    Raises KaokenError for a budget that is too small, and for weights that cannot be rounded.
    """
    sites = [s for s in sites_of(blocks) if not policy.has_rule(source_keys(s.weight))]
    if not sites:
        return policy
    menus = _menus(sites, work, moments, Effects(module, samples), policy.default.group)
    counted = [s.is_multiplied or budget.unit != "MB/token" for s in sites]
    allowed = _allowed(module, budget, sites, counted, policy)
    weighed = [
        [Width(w.name, w.size * counts, w.error) for w in menu]
        for menu, counts in zip(menus, counted, strict=True)
    ]
    chosen = cheapest_errors(weighed, allowed)
    group = policy.default.group
    rules = [
        Rule(escape(name), Choice(width.name, group, is_named=True))
        for site, width in zip(sites, chosen, strict=True)
        for name in source_keys(site.weight)
    ]
    return Policy(policy.default, (*policy.rules, *rules))


def summary(policy: Policy) -> list[str]:
    """How many weights take which bits, as a note to the user; none where there are none."""
    counts = Counter(rule.choice.dtype for rule in policy.rules)
    known = ", ".join(f"{counts[name]} {name}" for name in _LAYERS if counts[name])
    return [f"weights by width: {known}"] if known else []


def sites_of(blocks: Iterable[Block]) -> list[Site]:
    """The weights that are floats and may be rounded, each once."""
    ops = [op for block in blocks for op in block.ops]
    tables = [op.table for op in ops if isinstance(op, EmbeddingOp) and is_given(op)]
    edges = {identity(table): table for table in tables if _is_plain(table)}
    sizes = {tensor_type(table).get_shape()[0] for table in edges.values()}
    layers = [op for op in ops if isinstance(op, LinearOp) and _is_plain_layer(op)]
    multiplied = {identity(op.weight): op for op in layers}
    found = [
        Site(op.weight, key in edges or op.n in sizes, is_multiplied=True)
        for key, op in multiplied.items()
    ]
    found += [Site(t, True, is_multiplied=False) for k, t in edges.items() if k not in multiplied]
    return found


def _is_plain(weight: SSAValue) -> bool:
    is_f32 = tensor_type(weight).element_type == f32
    return is_f32 and is_constant(weight) and stored_format(weight) is None


def _is_plain_layer(op: LinearOp) -> bool:
    is_f32 = tensor_type(op.input).element_type == f32
    return is_f32 and op.format is None and not op.is_packed and _is_plain(op.weight)


# ---- what widths cost ----


def _menus(
    sites: Sequence[Site],
    work: Workspace,
    moments: Mapping[SSAValue, np.ndarray],
    effects: Effects,
    group: int,
) -> list[list[Width]]:
    """For each weight what it may become."""
    found: list[list[Width]] = []
    for site in sites:
        weight, seen = work.value(site.weight), moments.get(site.weight)
        edges = _EDGES if effects.are_measured and site.is_multiplied else _EDGES[:1]
        try:
            factor = _factor(site, weight, seen, effects, group)
            menu = [
                Width(
                    name, grid.stored_bytes(*site.shape), factor * _error(weight, seen, name, group)
                )
                for name in (edges if site.is_edge else _LAYERS)
                if (grid := _grid(name, group)) is not None
            ]
        except KaokenError as error:
            name = source_key(site.weight)
            raise KaokenError(f'the weight "{name}" cannot be rounded: {error}') from None
        found.append(menu)
        effects.progress(len(found), len(sites))
    return found


def _grid(name: str, group: int) -> Grid | None:
    """A grid with groups of that size, where its codes can have such."""
    try:
        return grid_of(name, group)
    except KaokenError:
        return None


def _error(weight: np.ndarray, moments: np.ndarray | None, name: str, group: int) -> float:
    """The relative squared error of a layer's results, or of the weight [N, K] itself."""
    rows = weight[:: max(1, len(weight) // _ROWS)]
    importance = None if moments is None else np.diag(moments)
    errors = rounded(rows, name, group, importance).dequantized() - rows
    return _square(errors, moments) / (_square(rows, moments) or 1)


def _square(rows: np.ndarray, moments: np.ndarray | None) -> float:
    return float(np.vdot(rows if moments is None else rows @ moments, rows))


def _factor(
    site: Site, weight: np.ndarray, moments: np.ndarray | None, effects: Effects, group: int
) -> float:
    """What a relative error of 1 costs, as far as samples tell, from what the probe's costs."""
    if not effects.are_measured:
        return 1.0
    probe = next(name for name in (_PROBE, *_LAYERS) if _grid(name, group) is not None)
    error = _error(weight, moments, probe, group)
    changed = rounded(weight, probe, group).dequantized()
    return effects.of(site.weight, changed) / error if error else 0.0


def _allowed(
    module: ModuleOp,
    budget: Budget,
    sites: Sequence[Site],
    counted: Sequence[bool],
    policy: Policy,
) -> int:
    """How many bytes the weights to choose for may take."""
    shapes = [s.shape for s, counts in zip(sites, counted, strict=True) if counts]
    if budget.amount is None:
        like = [EDGE if s.is_edge else policy.default.dtype for s in sites]
        grids = [grid_of(name, policy.default.group) for name in like]
        return sum(g.stored_bytes(*s.shape) for g, s in zip(grids, sites, strict=True))
    if not budget.unit:
        return int(budget.amount / 8 * sum(n * k for n, k in shapes))
    chosen = {key for site in sites for key in source_keys(site.weight)}
    return int(budget.amount * 1e6) - _other_bytes(module, chosen)


def _other_bytes(module: ModuleOp, chosen: set[str]) -> int:
    """What the module's other weights take, as they are now."""
    others = {op.key.data: op for op in module.walk() if isinstance(op, WeightOp)}
    types = [tensor_type(op.result) for key, op in others.items() if key not in chosen]
    return sum(int(np.prod(t.get_shape())) * t.element_type.size for t in types)  # pyright: ignore


# ---- the choice ----


def cheapest_errors(menus: Sequence[Sequence[Width]], allowed: int) -> list[Width]:
    """One width of each menu, with the least sum of errors within so many bytes.

    Raises KaokenError when the smallest ones take more.
    """
    curves = [list(_worthwhile(menu)) for menu in menus]
    at = [0] * len(curves)
    spent = sum(curve[0].size for curve in curves)
    if spent > allowed:
        raise KaokenError(
            f"the budget leaves {allowed / 1e6:.3g} MB for weights of layers and tables, which "
            f"take {spent / 1e6:.3g} MB with the fewest bits: give more"
        )
    steps = [(-_gain(*curve[:2]), i) for i, curve in enumerate(curves) if len(curve) > 1]
    heapify(steps)
    while steps:
        _, i = heappop(steps)
        low, high = curves[i][at[i] : at[i] + 2]
        if spent + high.size - low.size > allowed:
            continue
        spent += high.size - low.size
        at[i] += 1
        if at[i] + 1 < len(curves[i]):
            heappush(steps, (-_gain(high, curves[i][at[i] + 1]), i))
    return [curve[i] for curve, i in zip(curves, at, strict=True)]


def _worthwhile(menu: Iterable[Width]) -> Iterator[Width]:
    """Widths from the smallest on, each of which gains less a byte than the one before."""
    kept: list[Width] = []
    for width in sorted(menu, key=lambda w: (w.size, w.error)):
        if kept and width.error >= kept[-1].error:
            continue
        while kept and kept[-1].size == width.size:
            kept.pop()
        while len(kept) > 1 and _gain(kept[-2], kept[-1]) <= _gain(kept[-1], width):
            kept.pop()
        kept.append(width)
    return iter(kept)


def _gain(low: Width, high: Width) -> float:
    """How much less the error is for each byte more."""
    return (low.error - high.error) / max(high.size - low.size, 1)
