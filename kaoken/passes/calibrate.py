"""`calibrate`: run the model on sample inputs, and say what each linear layer's input looks like.

    %y = kaoken.linear %x, %w : tensor<?x384xf32>, tensor<1536x384xf32> -> tensor<?x1536xf32>
->
    %r = kaoken.weight "encoder.layer.0.intermediate.dense.weight.input" : tensor<3x384xf32>
    %o = kaoken.observe %x, %r : tensor<?x384xf32>, tensor<3x384xf32> -> tensor<?x384xf32>
    %y = kaoken.linear %o, %w : ...

What is seen of a channel is its least, its largest and its mean number. `inputs` is a file of
samples (see `kaoken.calibration`). Without it, a model whose inputs are token ids runs on random
ids, without the means: which channels are large depends little on the text. Any other model stays
as it is, and so does one that is calibrated already. An `@encode` reads random ids before each
sample of @main.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, f32
from xdsl.dialects.func import FuncOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter
from xdsl.traits import SymbolTable

from kaoken.calibration import Observation, Observer, Samples, random_samples, read_samples
from kaoken.dialect.attributes import int_attr
from kaoken.dialect.base import shaped
from kaoken.dialect.dims import Dim
from kaoken.dialect.generation import ENCODE
from kaoken.dialect.nn import LinearOp, WeightOp
from kaoken.dialect.quant import ObserveOp
from kaoken.errors import KaokenError
from kaoken.passes.baking.folding import source_key
from kaoken.passes.baking.workspace import Workspace
from kaoken.passes.quantize import narrow_layers


@dataclass(frozen=True)
class CalibratePass(ModulePass):
    """Put what inputs of linear layers look like into `kaoken.observe` ops."""

    name = "calibrate"

    inputs: str | None = None
    """A .npz file of sample inputs; by default random token ids."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if is_calibrated(op):
            return
        if (function := _function(op, "main")) is None:
            if self.inputs is not None:
                raise KaokenError(f"{self.inputs} are inputs of @main, but the module has none")
            return
        if self.inputs is not None:
            calibrate(op, read_samples(self.inputs, function))
        elif (samples := random_samples(function)) is not None:
            calibrate(op, Samples(samples), with_means=False)


def is_calibrated(module: ModuleOp) -> bool:
    """Whether a module says already what its layers' inputs look like."""
    return any(isinstance(op, ObserveOp) for op in module.walk())


def calibrate(module: ModuleOp, samples: Samples, with_means: bool = True) -> None:
    """Run @main on samples, and insert `kaoken.observe` ops. KaokenError if they do not fit."""
    entries = [f for name in (ENCODE, "main") if (f := _function(module, name)) is not None]
    layers = [op for f in entries for op in narrow_layers(f.body.block, "int8")]
    layers = [op for op in layers if not isinstance(op.input.owner, ObserveOp)]
    if not layers:
        return
    readers: dict[SSAValue, list[LinearOp]] = {}
    for op in layers:
        readers.setdefault(op.input, []).append(op)
    seen = Observer(list(readers), Observation.of).run(module, samples)
    work = Workspace(module)
    for value, observation in seen.items():
        _insert(value, observation, readers[value], work, with_means)
    work.commit()


def _insert(
    value: SSAValue,
    seen: Observation,
    readers: list[LinearOp],
    work: Workspace,
    with_means: bool,
) -> None:
    rows = [seen.least, seen.largest, *([seen.mean] if with_means else [])]
    array = np.stack(rows).astype(np.float32)
    key = work.add(f"{source_key(readers[0].weight)}.input", array)
    weight = WeightOp(key, shaped(tuple(map(Dim.of, array.shape)), f32))
    zero_point = {"zero_point": int_attr(seen.zero_point)}
    observe = ObserveOp.make([value, weight], zero_point)
    Rewriter.insert_op([weight, observe], InsertPoint.before(readers[0]))
    for op in readers:
        op.operands[0] = observe.result


def _function(module: ModuleOp, name: str) -> FuncOp | None:
    function = SymbolTable.lookup_symbol(module, name)
    return function if isinstance(function, FuncOp) and function.body.blocks else None
