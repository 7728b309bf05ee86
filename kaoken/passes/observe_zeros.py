"""`observe-zeros`: say of each linear layer behind a ReLU how many of its inputs are not zero.

    %h = kaoken.linear %x, %w1 {activation = #kaoken<activation relu>} : ...
    %y = kaoken.linear %h, %w2 : ...
->
    %y = kaoken.linear %h, %w2 {density = 0.08 : f64} : ...

`density` declares the share; or `inputs`, a file of samples (`kaoken.calibration`), shows it.
Without either nothing is done. What keeps zeros is looked through: products with a ReLU's result
(squares among them), RMS norms, reshapes and rounding. `choose-schedule` has those layers pass over
zeros where it pays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import FloatAttr, ModuleOp, f64
from xdsl.dialects.func import FuncOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.traits import SymbolTable

from kaoken.calibration import Observer, Samples, read_samples
from kaoken.dialect.attributes import Activation, Norm
from kaoken.dialect.nn import BLOCK_EXTRA, LinearOp, ReluOp, RmsNormOp
from kaoken.dialect.quant import QuantizeBlocksOp
from kaoken.dialect.tensor import ElementwiseOp, ReshapeOp
from kaoken.errors import KaokenError


@dataclass
class NonzeroShare:
    """How many numbers of a value's rows were not zero."""

    width: int
    count: int = 0
    rows: int = 0

    @staticmethod
    def of(width: int) -> NonzeroShare:
        return NonzeroShare(width)

    def add(self, x: np.ndarray) -> None:
        if x.dtype == np.int32:  # blocks of words
            x = np.ascontiguousarray(x[..., :-BLOCK_EXTRA]).view(np.int8)
        self.width = x.shape[-1]
        self.count += int(np.count_nonzero(x))
        self.rows += x.size // self.width

    @property
    def is_finite(self) -> bool:
        return True

    @property
    def density(self) -> float:
        return self.count / (self.rows * self.width)


@dataclass(frozen=True)
class ObserveZerosPass(ModulePass):
    """Write the share of inputs that are not zero on layers behind a ReLU."""

    name = "observe-zeros"

    density: float | None = None
    """The share, from 0 to 1, of all such layers."""

    inputs: str | None = None
    """A .npz file of sample inputs, which show the share of each."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if self.density is not None and not 0 <= self.density <= 1:
            raise KaokenError(f"density is {self.density}: it is a share, from 0 to 1")
        layers = [layer for layer in _layers(op) if layer.density is None]
        if self.density is not None:
            for layer in layers:
                layer.density = FloatAttr(self.density, f64)
        elif self.inputs is not None and layers:
            main = SymbolTable.lookup_symbol(op, "main")
            if not isinstance(main, FuncOp):
                raise KaokenError(f"{self.inputs} are inputs of @main, but the module has none")
            observe_zeros(op, read_samples(self.inputs, main))


def observe_zeros(module: ModuleOp, samples: Samples) -> None:
    """Run @main on samples, and write what they show. KaokenError if they do not fit."""
    layers = list(_layers(module))
    seen = Observer([layer.input for layer in layers], NonzeroShare.of).run(module, samples)
    for layer in layers:
        if layer.input in seen:
            layer.density = FloatAttr(round(seen[layer.input].density, 4), f64)


def _layers(module: ModuleOp) -> Iterator[LinearOp]:
    """The linear layers whose inputs come from a ReLU."""
    for op in module.walk():
        if isinstance(op, LinearOp) and _is_behind_relu(op.input):
            yield op


def _is_behind_relu(value: SSAValue) -> bool:
    match value.owner:
        case ReluOp():
            return True
        case LinearOp() as op:
            is_last = op.residual is None and op.norm.data is Norm.NONE
            return is_last and op.activation.data is Activation.RELU
        case ElementwiseOp() as op if op.function.data == "mul":
            return any(map(_is_behind_relu, op.operands))
        case ReshapeOp() | RmsNormOp() | QuantizeBlocksOp() as op:
            return _is_behind_relu(op.input)
        case _:
            return False
