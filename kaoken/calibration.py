"""Sample inputs of a model, and what its layers see of them.

A sample is one input array for each argument of @main. The model runs in numpy, in the precision
that statistics need: products in float32, and GELU by tanh.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.interpreter import Interpreter, impl, register_impls
from xdsl.ir import Operation, SSAValue
from xdsl.traits import SymbolTable

from kaoken.analysis.shapes import argument_name, argument_shapes, declared_maxima
from kaoken.analysis.tied import identity
from kaoken.dialect import nn
from kaoken.dialect.attributes import Activation, Norm
from kaoken.dialect.base import tensor_type
from kaoken.dialect.generation import ENCODE, OUTPUTS, SOURCE, hand_on_source
from kaoken.dialect.nn import MIDDLE, EmbeddingOp, LinearOp
from kaoken.dialect.quant import steps_above, steps_below
from kaoken.dialect.reference import KaokenFunctions, run_module
from kaoken.dialect.reference.results import Array, Arrays
from kaoken.dialect.reference.rows import layer_norm, relu, rms_norm, sigmoid, silu
from kaoken.dialect.tensor import CastOp
from kaoken.dtypes import numpy_dtype
from kaoken.errors import KaokenError

LOW_ZERO_POINT = 32
"""The zero point of inputs that are mostly positive, such as those behind a GELU."""
_GAIN = 0.8
"""Another zero point must make the mean squared step this much smaller."""
_ROWS = 512
"""Rows whose products are added at once: a matrix of them all is written each time."""
_RANDOM_BATCH, _RANDOM_TOKENS = 8, 64
"""How many texts of how many random tokens stand in for real ones."""


@dataclass(frozen=True)
class Samples:
    """Inputs of @main, and who is told after each sample: (how many are done, of how many)."""

    inputs: Sequence[Sequence[Array]]
    progress: Callable[[int, int], None] = lambda done, count: None


@dataclass
class Observation:
    """What was seen of the rows of one value, [..., K]."""

    least: Array
    largest: Array
    total: Array
    rows: int = 0
    squared_steps: dict[int, float] = field(default_factory=dict)
    """For each zero point to choose from: the sum of squares of the rows' scales."""

    @staticmethod
    def of(width: int) -> Observation:
        return Observation(np.full(width, np.inf), np.full(width, -np.inf), np.zeros(width))

    def add(self, x: Array) -> None:
        rows = x.reshape(-1, x.shape[-1])
        if not len(rows):
            return
        self.least = np.minimum(self.least, rows.min(0))
        self.largest = np.maximum(self.largest, rows.max(0))
        self.total += rows.sum(0, dtype=np.float64)
        self.rows += len(rows)
        top, bottom = rows.max(1), -rows.min(1)
        for z in (MIDDLE, LOW_ZERO_POINT):
            step = np.maximum(top / steps_above(z), bottom / steps_below(z))
            self.squared_steps[z] = self.squared_steps.get(z, 0.0) + float(np.square(step).sum())

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite([self.least, self.largest]).all())

    @property
    def mean(self) -> Array:
        return self.total / max(self.rows, 1)

    @property
    def zero_point(self) -> int:
        """The one with the smaller steps: steps are what rounding errors are made of."""
        steps = self.squared_steps
        return LOW_ZERO_POINT if steps[LOW_ZERO_POINT] < _GAIN * steps[MIDDLE] else MIDDLE


@dataclass
class Moments:
    """The products of each two channels of a value [..., K], summed over its rows."""

    total: Array
    rows: int = 0
    waiting: list[Array] = field(default_factory=list)
    """Rows that `total` does not contain yet."""

    @staticmethod
    def of(width: int) -> Moments:
        return Moments(np.zeros((width, width), np.float32))

    def add(self, x: Array) -> None:
        rows = x.reshape(-1, x.shape[-1])
        self.waiting.append(rows)
        self.rows += len(rows)
        if sum(map(len, self.waiting)) >= _ROWS:
            self._add_waiting()

    def _add_waiting(self) -> None:
        if self.waiting:
            rows = np.concatenate(self.waiting)
            self.waiting.clear()
            self.total += rows.T @ rows

    @property
    def is_finite(self) -> bool:
        self._add_waiting()
        return bool(np.isfinite(self.total).all())

    @property
    def mean(self) -> Array:
        self._add_waiting()
        return self.total / np.float32(max(self.rows, 1))


class Statistics(Protocol):
    """What is gathered of the rows of a value."""

    rows: int

    def add(self, x: Array) -> None: ...

    @property
    def is_finite(self) -> bool: ...


Seen = TypeVar("Seen", bound=Statistics)


class Observer(Generic[Seen]):
    """Runs a module and looks at the values that linear layers read."""

    def __init__(self, values: Iterable[SSAValue], of: Callable[[int], Seen]):
        self._seen = {v: of(tensor_type(v).get_shape()[-1]) for v in values}

    def run(self, module: ModuleOp, samples: Samples) -> dict[SSAValue, Seen]:
        """What was seen of the values that had rows. KaokenError when a sample does not fit."""
        for i, inputs in enumerate(samples.inputs):
            run_sample(module, inputs, lambda *state: Observing(self._seen, *state))
            samples.progress(i + 1, len(samples.inputs))
        reached = {value: seen for value, seen in self._seen.items() if seen.rows}
        for value, seen in reached.items():
            if not seen.is_finite:
                name = value.name_hint or "a layer's input"
                raise KaokenError(f"calibration saw numbers in {name} that are not finite")
        return reached


def run_sample(
    module: ModuleOp,
    inputs: Sequence[Array],
    functions: Callable[[Mapping[str, int], dict[str, Array]], KaokenFunctions],
    outputs: int = 0,
) -> tuple[Array, ...]:
    """What @main gives, from empty caches; of a decoder, behind so many of its last tokens.

    `functions` are made of the sizes that inputs do not tell, and the caches. An @encode reads
    random ids before.
    """
    nothing_before = {name: 0 for f in module.ops for name in _symbols(f)}
    caches: dict[str, Array] = {}
    sizes = nothing_before | _sizes_in_sums(module, inputs)
    sizes |= {name: outputs for name in nothing_before if name == str(OUTPUTS)}
    encode = SymbolTable.lookup_symbol(module, ENCODE)
    if isinstance(encode, FuncOp) and (sources := random_samples(encode)) is not None:
        run_module(module, sources[0], ENCODE, functions=functions(nothing_before, caches))
        hand_on_source(module, caches)
        count = sources[0][0].shape[1]
        sizes |= {name: count for name in sizes if name.split("_")[0] == SOURCE}
    return run_module(module, inputs, functions=functions(sizes, caches))


def _gelu(x: Array) -> Array:
    """GELU by tanh in the precision of x."""
    return 0.5 * x * (1 + np.tanh(x * (0.79788456 + 0.035677408 * (x * x))))


_ACTIVATIONS: Mapping[Activation, Callable[[Array], Array]] = {
    Activation.RELU: relu,
    Activation.GELU: _gelu,
    Activation.GELU_TANH: _gelu,
    Activation.SILU: silu,
    Activation.TANH: np.tanh,
    Activation.SIGMOID: sigmoid,
}


@register_impls
class Observing(KaokenFunctions):
    """The reference semantics, faster and less exact where time goes.

    Adds what layers read to `seen`; takes arrays `instead` of weights (by `identity`).
    """

    def __init__(
        self,
        seen: Mapping[SSAValue, Statistics],
        sizes: Mapping[str, int],
        caches: dict[str, Array] | None = None,
        instead: Mapping[object, Array] | None = None,
    ):
        super().__init__(sizes, caches)
        self._seen, self._instead = seen, instead or {}

    @impl(nn.LinearOp)
    def linear(self, interpreter: Interpreter, op: LinearOp, args: Arrays) -> Arrays:
        if (seen := self._seen.get(op.input)) is not None and op is _first_reader(op.input):
            seen.add(args[0])
        args = self._replaced(op.weight, 1, args)
        if args[0].dtype != np.float32 or args[1].dtype != np.float32 or op.is_packed:
            return KaokenFunctions.linear(self, interpreter, op, args).values  # pyright: ignore
        rest = list(args[2:])
        rows = args[0].reshape(-1, args[0].shape[-1])  # numpy is slow with stacks of matrices
        y = (rows @ args[1].T).reshape(*args[0].shape[:-1], len(args[1]))
        y = y if op.bias is None else y + rest.pop(0)
        if op.activation.data is not Activation.NONE:
            y = _ACTIVATIONS[op.activation.data](y)
        y = y if op.residual is None else y + rest.pop(0)
        if op.norm.data is not Norm.NONE:
            assert op.eps is not None
            norm = layer_norm if op.norm.data is Norm.LAYER_NORM else rms_norm
            bias = rest[1] if op.norm_bias is not None else None
            y = norm(y, rest[0], bias, op.eps.value.data)
        return (y.astype(np.float32),)

    @impl(nn.EmbeddingOp)
    def embedding(self, interpreter: Interpreter, op: EmbeddingOp, args: Arrays) -> Arrays:
        args = self._replaced(op.table, 0, args)
        return KaokenFunctions.embedding(self, interpreter, op, args).values  # pyright: ignore

    def _replaced(self, weight: SSAValue, at: int, args: Arrays) -> Arrays:
        """The arguments, the one that is a weight being what comes instead of it."""
        array = self._instead.get(identity(weight)) if self._instead else None
        return args if array is None else (*args[:at], array, *args[at + 1 :])

    @impl(nn.GeluOp)
    def gelu(self, interpreter: Interpreter, op: nn.GeluOp, args: Arrays) -> Arrays:
        return (_gelu(args[0]).astype(args[0].dtype),)


def _sizes_in_sums(module: ModuleOp, inputs: Sequence[Array]) -> dict[str, int]:
    """The tokens of a batch are `tokens_0 + tokens_1`: a sample is the first sequence's."""
    main = SymbolTable.lookup_symbol(module, "main")
    shapes = argument_shapes(main) if isinstance(main, FuncOp) else ()
    found: dict[str, int] = {}
    for shape, array in zip(shapes, inputs, strict=False):
        for dim, size in zip(shape or (), array.shape, strict=True):
            if len(dim.symbols) > 1:
                found |= dict.fromkeys(dim.symbols, 0) | {min(dim.symbols): size}
    return found


def _symbols(op: Operation) -> Iterable[str]:
    """The sizes that a function declares; those that no input tells, such as past rows, are 0."""
    return declared_maxima(op) if isinstance(op, FuncOp) else ()


def _first_reader(value: SSAValue) -> LinearOp | None:
    readers = [use.operation for use in value.uses if isinstance(use.operation, LinearOp)]
    return next((op for op in readers if op.input is value), None)


# ---- where samples come from ----


def random_samples(function: FuncOp) -> list[list[Array]] | None:
    """A batch of random token ids for a function that takes nothing but integers, else None.

    Integers that look up rows of a table are below its size, all others (masks) are 1.
    """
    types = function.function_type.inputs.data
    tables = [_table_rows(argument) for argument in function.args]
    if not any(tables) or not all(
        isinstance(t, TensorType) and numpy_dtype(t.get_element_type()).kind in "biu" for t in types
    ):
        return None
    random = np.random.default_rng(0)
    sizes = _small_sizes(function)
    arrays: list[Array] = []
    for type_, shape, rows in zip(types, argument_shapes(function), tables, strict=True):
        assert isinstance(type_, TensorType)
        counts = [dim.evaluate(sizes) for dim in shape or ()]
        values = random.integers(0, rows, counts) if rows else np.ones(counts)
        arrays.append(values.astype(numpy_dtype(type_.get_element_type())))
    return [arrays]


def _table_rows(value: SSAValue) -> int:
    """The least number of rows of the tables that a value is an index into; 0 without any."""
    rows: list[int] = []
    for use in value.uses:
        if isinstance(use.operation, EmbeddingOp) and use.index == 1:
            rows.append(use.operation.table.type.get_shape()[0])  # pyright: ignore
        elif isinstance(use.operation, CastOp):
            rows.append(_table_rows(use.operation.result))
    return min((n for n in rows if n), default=0)


def _small_sizes(function: FuncOp) -> dict[str, int]:
    """A size for each symbol: the last one counts tokens, those before it texts.

    Of a sum of sizes the first one is that, and the others are 0.
    """
    shapes = argument_shapes(function)
    dims = [dim for shape in shapes for dim in shape or () if dim.symbols]
    names = list(dict.fromkeys(min(dim.symbols) for dim in dims))
    maxima = declared_maxima(function)
    last = len(names) - 1
    wanted = {n: _RANDOM_TOKENS if i == last else _RANDOM_BATCH for i, n in enumerate(names)}
    others = {name: 0 for dim in dims for name in dim.symbols}
    return others | {name: min(size, maxima.get(name, size)) for name, size in wanted.items()}


def read_samples(path: str | Path, function: FuncOp) -> Samples:
    """Samples of a .npz file with the arrays `<number>/<argument>`: `0/input_ids`, ...

    Raises KaokenError when there is no such file, or an argument is missing.
    """
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except (OSError, ValueError, zipfile.BadZipFile):
        raise KaokenError(f"{path} is no .npz file of sample inputs") from None
    numbers = sorted({key.split("/")[0] for key in arrays}, key=lambda n: (len(n), n))
    named = [
        {k.partition("/")[2]: v for k, v in arrays.items() if k.split("/")[0] == n} for n in numbers
    ]
    return Samples([ordered_inputs(function, sample) for sample in named])


def ordered_inputs(function: FuncOp, sample: Mapping[str, Array]) -> list[Array]:
    """A sample's arrays in the order of the function's arguments, in their dtypes."""
    found: list[Array] = []
    for i, type_ in enumerate(function.function_type.inputs.data):
        name = argument_name(function, i)
        if name not in sample:
            raise KaokenError(f"a calibration sample has no {name!r}, only {', '.join(sample)}")
        assert isinstance(type_, TensorType)
        found.append(np.asarray(sample[name]).astype(numpy_dtype(type_.get_element_type())))
    return found
