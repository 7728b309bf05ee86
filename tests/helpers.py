"""What tests of tensor-level passes share: random inputs, and equality before and after a pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute
from xdsl.passes import PassPipeline
from xdsl.traits import SymbolTable

from kaoken.analysis.shapes import argument_shapes
from kaoken.dialect.reference import run_module
from kaoken.dtypes import element_type, numpy_dtype
from kaoken.modules import parse_module
from kaoken.universe import all_passes, make_context
from kaoken.weights import WeightStore, attach_store, store_of

Inputs = Sequence[np.ndarray]


def assert_same_before_and_after(
    module: ModuleOp | str,
    pipeline: str,
    inputs: Inputs | None = None,
    *,
    sizes: Mapping[str, int] | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    atol: float = 1e-5,
) -> ModuleOp:
    """Check that a pipeline (as after `kaoken-opt -p`) keeps what @main computes; give its result.

    Inputs that are not given are random, with symbols as in `sizes` (3, 4, 5 ... otherwise).
    Weights that the module names and its store lacks are random too. The module given is not
    changed. `atol` is the largest absolute difference allowed.
    """
    module = parse_module(module) if isinstance(module, str) else module
    if weights is not None:
        attach_store(module, store_from(weights))
    fill_weights(module, seed)
    inputs = random_inputs(module, sizes, seed) if inputs is None else inputs
    before = run_module(module, inputs)
    after = apply_passes(module, pipeline)
    assert_close(before, run_module(after, inputs), atol)
    return after


def apply_passes(module: ModuleOp, pipeline: str) -> ModuleOp:
    """A clone of the module, with a copy of its store, after the passes; verified."""
    result = module.clone()
    store = store_of(module)
    attach_store(result, store_from({key: store[key] for key in store.keys()}))
    PassPipeline.parse_spec(all_passes(), pipeline).apply(make_context(), result)
    result.verify()
    return result


def assert_close(before: Inputs, after: Inputs, atol: float) -> None:
    """Equal numbers, shapes and dtypes of arrays, with values within `atol`; NaN equals NaN."""
    assert len(before) == len(after)
    for a, b in zip(before, after, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        np.testing.assert_allclose(a.astype("f8"), b.astype("f8"), rtol=0, atol=atol)


def random_inputs(
    module: ModuleOp, sizes: Mapping[str, int] | None = None, seed: int = 0
) -> list[np.ndarray]:
    """Arrays that fit the arguments of @main.

    Floats are normal, i1 random, other integers 0 or 1: valid for any vocabulary of two.
    """
    func = main_function(module)
    random = np.random.default_rng(seed)
    shapes = argument_shapes(func)
    chosen = symbol_sizes(func, sizes)
    return [
        random_array(random, [dim.evaluate(chosen) for dim in shape or ()], type_)
        for shape, type_ in zip(shapes, func.function_type.inputs.data, strict=True)
    ]


def symbol_sizes(func: FuncOp, sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """A size for each symbol of the arguments: those given, then 3, 4, 5 ..."""
    names = {s for shape in argument_shapes(func) for dim in shape or () for s in dim.symbols}
    return {name: 3 + i for i, name in enumerate(sorted(names))} | dict(sizes or {})


def random_array(
    random: np.random.Generator, shape: Sequence[int], type_: Attribute
) -> np.ndarray:
    """One random array of a tensor type's element type."""
    assert isinstance(type_, TensorType)
    dtype = numpy_dtype(type_.get_element_type())
    if dtype.kind in "biu":
        return random.integers(0, 2, shape).astype(dtype)
    return random.standard_normal(shape).astype(dtype)


def fill_weights(module: ModuleOp, seed: int = 0) -> None:
    """Put random arrays into the module's store for the weights that it lacks."""
    random = np.random.default_rng(seed + 1)
    store = store_of(module)
    for op in module.walk():
        if op.name != "kaoken.weight":
            continue
        key = op.properties["key"].data  # pyright: ignore[reportAttributeAccessIssue]
        type_ = op.results[0].type
        assert isinstance(type_, TensorType)
        if key not in store:
            store.add(key, random_array(random, type_.get_shape(), type_))


def store_from(arrays: Mapping[str, np.ndarray]) -> WeightStore:
    """A store of some arrays."""
    store = WeightStore()
    for key, array in arrays.items():
        store.add(key, array)
    return store


def main_function(module: ModuleOp) -> FuncOp:
    """@main of a module."""
    func = SymbolTable.lookup_symbol(module, "main")
    assert isinstance(func, FuncOp)
    return func


def tensor_text(array: np.ndarray, open_dims: Sequence[int] = ()) -> str:
    """The type of an array as text, with `?` for some dimensions: `tensor<?x4xf32>`."""
    sizes = ["?" if i in open_dims else str(n) for i, n in enumerate(array.shape)]
    return f"tensor<{'x'.join([*sizes, str(element_type(array.dtype))])}>"
