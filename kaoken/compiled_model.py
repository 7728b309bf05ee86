"""A compiled model as a Python function: numpy arrays or torch tensors in, the same kind out.

model = kaoken.load("minilm")
hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kaoken import output_tree
from kaoken.backend.loader import Context, Library, Tensor
from kaoken.call_plans import Kind, Plan, Plans
from kaoken.errors import KaokenError

if TYPE_CHECKING:
    from kaoken.profile import OpTime

_USUAL_DEFAULTS = {"attention_mask": 1}
_ZERO_IF_ABSENT = ("token_type_ids",)
_FLAGS = {"tokens": "--max-tokens", "batch": "--max-batch"}


class CompiledModel:
    """Call it with the module's own arguments, by position or name.

    Arrays that are contiguous and of the right dtype are not copied. May be called from several
    threads at once: each call has a context (its own memory and thread team) to itself.
    Raises KaokenError for a wrong dtype, rank or size, and for what the model itself refuses.
    """

    def __init__(self, library: Library, threads: int | None = None):
        self._library = library
        self.threads = library.threads if threads is None else threads
        self._idle = [library.create_context(self.threads)]
        tree = library.manifest.get("input_tree")
        self._nested = tree if tree is not None and output_tree.depth(tree) > 2 else None
        self._names = [spec.name for spec in library.inputs]
        self._plans = Plans(library.inputs, library.outputs)
        _models.add(self)

    @property
    def name(self) -> str:
        return self._library.name

    @property
    def folder(self) -> Path:
        """Where the C source, header, weights and library are."""
        return self._library.folder

    @property
    def manifest(self) -> Mapping[str, Any]:
        return self._library.manifest

    def new_context(self) -> CompiledModel:
        """The same model with memory and threads of its own; the weights are shared."""
        return CompiledModel(self._library, self.threads)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        values = self._in_order(args, kwargs)
        if values is not None and (known := self._plans.find(values)) is not None:
            return self._call_as_planned(values, *known)
        named = self._bind_arguments(args, kwargs)
        torch = _torch_of(named.values())
        arrays, sizes = self._check_inputs(named)
        outputs = [_empty(spec, sizes) for spec in self._library.outputs]
        self._run([*_addresses([*arrays, *outputs]), *self._ordered(sizes)])
        plan = Plan(tuple(self._ordered(sizes)), tuple(o.shape for o in outputs))
        self._plans.remember(tuple(a.shape for a in arrays), plan)
        return self._answer(outputs, torch)

    def bind(self, *args: Any, out: Any = None, **kwargs: Any) -> Callable[[], Any]:
        """A function without arguments that runs on these very arrays, checked only now.

        Inputs must be contiguous, and are read anew at each call. `out` gives the outputs' arrays:
        one, a sequence, or a dict by name; by default they are made here. Each call overwrites
        them and returns them in the module's output structure.
        """
        values = self._bind_arguments(args, kwargs)
        torch = _torch_of([*values.values(), out])
        arrays, sizes = self._check_inputs(values, copy=False)
        outputs = self._check_outputs(out, sizes)
        run, context = self._library.run, self._library.create_context(self.threads)
        arguments = (context.handle, *_addresses([*arrays, *outputs]), *self._ordered(sizes))
        answer = self._answer(outputs, torch)

        def call() -> Any:
            if run(*arguments):
                raise KaokenError(context.library.error_of(context.handle))
            return answer

        call.keep_alive = (arrays, outputs)  # pyright: ignore[reportFunctionMemberAccess]
        return call

    def profile(self, *args: Any, seconds: float = 1.0, **kwargs: Any) -> list[OpTime]:
        """How long each op takes on these inputs, run again and again for that many seconds.

        KaokenError unless the model was compiled with `profile=True`.
        """
        from kaoken.profile import measure_ops

        arrays, sizes = self._check_inputs(self._bind_arguments(args, kwargs))
        outputs = [_empty(spec, sizes) for spec in self._library.outputs]
        addresses, ordered = _addresses([*arrays, *outputs]), self._ordered(sizes)
        with self._context() as context:
            return measure_ops(
                lambda: context.run(addresses, ordered), context, self.threads, sizes, seconds
            )

    # ---- calls ----

    def _in_order(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any] | None:
        """The inputs in the model's order; None where that takes more than looking up names."""
        if self._nested is not None:
            return None
        if not kwargs:
            return args
        rest = self._names[len(args) :]
        if len(kwargs) != len(rest):
            return None
        try:
            return [*args, *[kwargs[name] for name in rest]]
        except KeyError:
            return None

    def _call_as_planned(self, values: Sequence[Any], kind: Kind, plan: Plan) -> Any:
        outputs = kind.outputs(plan)
        self._run([*map(kind.address, values), *map(kind.address, outputs), *plan.sizes])
        return self._structure(outputs, kind.is_torch)

    def _run(self, arguments: Sequence[int]) -> None:
        """Run once, in a context that no other call has."""
        try:
            context = self._idle.pop()
        except IndexError:
            context = self._library.create_context(self.threads)
        try:
            if self._library.run(context.handle, *arguments):
                raise KaokenError(self._library.error_of(context.handle))
        finally:
            self._idle.append(context)

    # ---- arguments ----

    def _bind_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by input name; those that are None count as left out."""
        names = [spec.name for spec in self._library.inputs]
        if self._nested is not None:
            leaves = output_tree.flatten(self._nested, (args, kwargs), "arguments")
            return dict(zip(names, [value for _, value in leaves], strict=True))
        if len(args) > len(names):
            raise KaokenError(f"{self.name} takes {len(names)} inputs, but got {len(args)}")
        values = dict(zip(names, args, strict=False))
        for name, value in kwargs.items():
            if name not in names:
                self._check_absent(name, value)
                continue
            if name in values:
                raise KaokenError(f"the input {name} is given twice")
            values[name] = value
        return {name: value for name, value in values.items() if value is not None}

    def _check_absent(self, name: str, value: Any) -> None:
        """Tokenizers give inputs that a model may not have, and that say nothing when all 0."""
        if name not in _ZERO_IF_ABSENT:
            names = ", ".join(spec.name for spec in self._library.inputs)
            raise KaokenError(f"{self.name} has no input {name}; it has {names}")
        if value is not None and bool((value != 0).any()):
            raise KaokenError(f"{self.name} was compiled without {name}: it must be all 0")

    def _check_inputs(
        self, values: Mapping[str, Any], copy: bool = True
    ) -> tuple[list[np.ndarray], dict[str, int]]:
        """The inputs as contiguous arrays in the model's order, and the value of each symbol."""
        inputs = self._library.inputs
        given = {
            spec.name: _as_array(spec, values[spec.name], copy)
            for spec in inputs
            if spec.name in values
        }
        sizes = self._solve([(spec, given[spec.name]) for spec in inputs if spec.name in given])
        arrays = [given[s.name] if s.name in given else _default(s, sizes) for s in inputs]
        return arrays, sizes

    def _solve(self, given: Sequence[tuple[Tensor, np.ndarray]]) -> dict[str, int]:
        """The value of each symbol; KaokenError when sizes contradict each other or a maximum."""
        sizes: dict[str, int] = {}
        for spec, array in given:
            for wanted, size in zip(spec.shape, array.shape, strict=True):
                if isinstance(wanted, str) and sizes.setdefault(wanted, size) != size:
                    raise KaokenError(_contradiction(wanted, given))
        self._check_limits(sizes)
        for spec, array in given:
            _check_shape(spec, array, sizes)
        return sizes

    def _check_limits(self, sizes: Mapping[str, int]) -> None:
        for symbol, limit in self._library.symbols.items():
            if symbol not in sizes:
                raise KaokenError(f"no input says what {symbol} is")
            if sizes[symbol] > limit:
                flag = f"{_FLAGS[symbol]} {sizes[symbol]}" if symbol in _FLAGS else "more"
                raise KaokenError(
                    f"{symbol} is {sizes[symbol]}, but the model was compiled for at most {limit}: "
                    f"compile with {flag}"
                )
            if sizes[symbol] < 1:
                raise KaokenError(f"{symbol} is {sizes[symbol]}, but must be at least 1")

    def _ordered(self, sizes: Mapping[str, int]) -> list[int]:
        return [sizes[symbol] for symbol in self._library.symbols]

    # ---- results ----

    def _check_outputs(self, out: Any, sizes: Mapping[str, int]) -> list[np.ndarray]:
        specs = self._library.outputs
        if out is None:
            return [_empty(spec, sizes) for spec in specs]
        if isinstance(out, Mapping):
            out = [out.get(spec.name) for spec in specs]
        given = list(out) if isinstance(out, list | tuple) else [out]
        if len(given) != len(specs):
            raise KaokenError(f"{self.name} has {len(specs)} outputs, but out has {len(given)}")
        arrays = [_as_array(spec, v, copy=False) for spec, v in zip(specs, given, strict=True)]
        for spec, array in zip(specs, arrays, strict=True):
            _check_shape(spec, array, sizes)
            if not array.flags.writeable:
                raise KaokenError(f"{spec.name}: the output's array cannot be written")
        return arrays

    def _answer(self, outputs: Sequence[np.ndarray], torch: Any) -> Any:
        values = [_as_torch(torch, o) for o in outputs] if torch is not None else outputs
        return self._structure(values, torch is not None)

    def _structure(self, values: Sequence[Any], load_class: bool) -> Any:
        tree = self._library.manifest["output_tree"]
        return output_tree.build(tree, values, load_class=load_class)

    # ---- contexts ----

    @contextmanager
    def _context(self) -> Iterator[Context]:
        """A context that no other call has; a new one when all are busy."""
        try:
            context = self._idle.pop()
        except IndexError:
            context = self._library.create_context(self.threads)
        try:
            yield context
        finally:
            self._idle.append(context)

    def _after_fork(self) -> None:
        """A forked process has none of the parent's threads, so it makes its own contexts."""
        self._idle.clear()


_models: weakref.WeakSet[CompiledModel] = weakref.WeakSet()


def _forget_contexts() -> None:
    for model in list(_models):
        model._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_contexts)


def _torch_of(values: Any) -> Any:
    """The torch module if one of the values is a tensor; it is never imported here."""
    torch = sys.modules.get("torch")
    if torch is None or not any(isinstance(v, torch.Tensor) for v in values):
        return None
    return torch


def _as_array(spec: Tensor, value: Any, copy: bool = True) -> np.ndarray:
    """The value as a contiguous array of the input's dtype and rank."""
    array = value if isinstance(value, np.ndarray) else _from_tensor(spec, value)
    if array.dtype != spec.dtype:
        raise KaokenError(f"{spec.name}: expected {spec.dtype.name}, got {array.dtype.name}")
    if array.ndim != len(spec.shape):
        raise KaokenError(
            f"{spec.name}: expected {len(spec.shape)} dimensions {spec.text}, got {array.ndim}"
        )
    if array.flags.carray or (array.flags.c_contiguous and array.flags.aligned):
        return array
    if not copy:
        raise KaokenError(f"{spec.name}: bind needs a contiguous, aligned array")
    return array.copy("C")


def _from_tensor(spec: Tensor, value: Any) -> np.ndarray:
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        raise KaokenError(
            f"{spec.name}: expected a numpy array or torch tensor, got {type(value).__name__}"
        )
    if value.device.type != "cpu":
        raise KaokenError(f"{spec.name}: the tensor is on {value.device}, move it to the CPU")
    if value.layout is not torch.strided:
        raise KaokenError(f"{spec.name}: expected a dense tensor, got {value.layout}")
    value = value.detach().resolve_neg()
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16).numpy().view(_bfloat16())
    return value.numpy()


def _as_torch(torch: Any, array: np.ndarray) -> Any:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _bfloat16() -> np.dtype:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def _contradiction(symbol: str, given: Sequence[tuple[Tensor, np.ndarray]]) -> str:
    """Which two inputs give a symbol different values."""
    found = [
        (size, spec.name)
        for spec, array in given
        for wanted, size in zip(spec.shape, array.shape, strict=True)
        if wanted == symbol
    ]
    first, name = found[0]
    other, other_name = next(pair for pair in found if pair[0] != first)
    return f"{symbol} is {other} in {other_name}, but {first} in {name}"


def _check_shape(spec: Tensor, array: np.ndarray, sizes: Mapping[str, int]) -> None:
    try:
        wanted = spec.sizes(sizes)
    except KeyError as error:
        raise KaokenError(f"no input says what {error.args[0]} is") from None
    for axis, (size, expected) in enumerate(zip(array.shape, wanted, strict=True)):
        if size != expected:
            raise KaokenError(
                f"{spec.name}: dimension {axis} of {spec.text} is {size}, expected {expected}"
            )


def _default(spec: Tensor, sizes: Mapping[str, int]) -> np.ndarray:
    fill = _USUAL_DEFAULTS.get(spec.name) if spec.default is None else spec.default
    if fill is None:
        raise KaokenError(f"the input {spec.name} is missing")
    return np.full(spec.sizes(sizes), fill, spec.dtype)


def _empty(spec: Tensor, sizes: Mapping[str, int]) -> np.ndarray:
    return np.empty(spec.sizes(sizes), spec.dtype)


def _addresses(arrays: Sequence[np.ndarray]) -> list[int]:
    return [array.__array_interface__["data"][0] for array in arrays]
