"""What every `kaoken` op means, in numpy: the specification, and the oracle that tests passes.

The rules that hold for all ops:

- A float op computes in float64 and rounds its result once to its element type. For sums, products,
  quotients and square roots of float32 this equals float32 arithmetic; reductions and
  transcendental functions are as exact as the element type allows.
- A fused linear layer rounds after each of its parts (product with bias, activation, residual,
  norm), so it equals the separate ops bit for bit. Weights of few bits are the exception: their
  products are float32 step by step (`kaoken.quantized`), which compiled code equals bit for bit.
  Attention rounds its scaled scores before it adds a float mask, to float32 at least.
- Integers are computed in their own type and wrap around.

Modules are called as those that define the ops; `rows.py` has the activations and norms of `nn`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from xdsl.dialects.arith import ConstantOp
from xdsl.dialects.builtin import FloatAttr, IntegerAttr, ModuleOp, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.interpreter import Interpreter, PythonValues, impl, impl_callable, register_impls
from xdsl.interpreters.func import FuncFunctions
from xdsl.ir import Operation
from xdsl.traits import SymbolTable

from kaoken.analysis.shapes import argument_name, bind_symbols
from kaoken.dialect.reference.attention import AttentionFunctions
from kaoken.dialect.reference.decoder import DecoderFunctions
from kaoken.dialect.reference.linear import LinearFunctions
from kaoken.dialect.reference.quant import QuantFunctions
from kaoken.dialect.reference.results import Array, Arrays
from kaoken.dialect.reference.rows import RowFunctions
from kaoken.dialect.reference.single_row import SingleRowFunctions
from kaoken.dialect.reference.tensor import TensorFunctions
from kaoken.dialect.reference.tokens import TokenFunctions
from kaoken.dtypes import dense_array, numpy_dtype
from kaoken.errors import KaokenError


def run_module(
    module: ModuleOp,
    inputs: Sequence[Array],
    function: str = "main",
    sizes: Mapping[str, int] | None = None,
    caches: dict[str, Array] | None = None,
    functions: KaokenFunctions | None = None,
) -> tuple[Array, ...]:
    """Run a function of a module on arrays.

    Sizes of symbols follow from the inputs, others are given by `sizes`; weights come from the
    module's store. `caches` holds the rows of each cache by name, and is changed; what it lacks
    begins as NaN. `functions` may be implementations of one's own. Raises KaokenError when inputs
    do not fit the function, or an index is out of range.
    """
    interpreter = Interpreter(module)
    interpreter.register_implementations(FuncFunctions())
    functions = functions or KaokenFunctions(sizes, caches)
    interpreter.register_implementations(functions, override=True)
    func = SymbolTable.lookup_symbol(module, function)
    if not isinstance(func, FuncOp):
        raise KaokenError(f"the module has no function @{function}")
    arrays = tuple(np.asarray(value) for value in inputs)
    _check_inputs(func, arrays)
    try:
        with np.errstate(all="ignore"):
            return tuple(interpreter.call_op(func, arrays))
    except Exception as error:
        raise _user_error(error) from None


def _user_error(error: BaseException) -> BaseException:
    """The KaokenError that xDSL wrapped into a diagnostic, or the error itself."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KaokenError):
        cause = cause.__cause__
    return cause or error


def _check_inputs(func: FuncOp, arrays: Arrays) -> None:
    types = func.function_type.inputs.data
    if len(arrays) != len(types):
        raise KaokenError(
            f"@{func.sym_name.data} takes {len(types)} inputs, but {len(arrays)} were given"
        )
    for i, (array, type_) in enumerate(zip(arrays, types, strict=True)):
        if not isinstance(type_, TensorType):
            continue
        if array.dtype != (wanted := numpy_dtype(type_.get_element_type())):
            name = argument_name(func, i)
            raise KaokenError(f"{name} holds {array.dtype.name}, but needs {wanted.name}")


@register_impls
class KaokenFunctions(
    LinearFunctions,
    AttentionFunctions,
    RowFunctions,
    TokenFunctions,
    QuantFunctions,
    DecoderFunctions,
    TensorFunctions,
    SingleRowFunctions,
):
    """The implementations for xDSL's Interpreter; one object serves one run."""

    @impl_callable(FuncOp)
    def call(self, interpreter: Interpreter, op: Operation, args: PythonValues) -> PythonValues:
        assert isinstance(op, FuncOp)
        bound = bind_symbols(op, [np.shape(value) for value in args])
        self._sizes.append({**self._sizes[-1], **bound})
        results = interpreter.run_ssacfg_region(op.body, args, op.sym_name.data)
        self._sizes.pop()
        return results

    @impl(ConstantOp)
    def constant(self, interpreter: Interpreter, op: ConstantOp, args: Arrays) -> tuple[Any, ...]:
        value = op.value
        if isinstance(value, IntegerAttr | FloatAttr):
            return (value.value.data,)
        return (dense_array(value),)
