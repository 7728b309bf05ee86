"""Functions of elements and of rows: activations, softmax, norms."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from xdsl.interpreter import Interpreter, impl

from kaoken.dialect import nn
from kaoken.dialect.attributes import Activation, Approximation
from kaoken.dialect.reference.results import Array, Arrays, OpFunctions, result, wide


class RowFunctions(OpFunctions):
    """Of `kaoken.dialect.nn`: activations and norms."""

    @impl(nn.LayerNormOp)
    def layer_norm(self, interpreter: Interpreter, op: nn.LayerNormOp, args: Arrays) -> Arrays:
        bias = args[2] if op.bias is not None else None
        return (result(op, layer_norm(args[0], args[1], bias, op.eps.value.data)),)

    @impl(nn.RmsNormOp)
    def rms_norm(self, interpreter: Interpreter, op: nn.RmsNormOp, args: Arrays) -> Arrays:
        return (result(op, rms_norm(args[0], args[1], None, op.eps.value.data)),)

    @impl(nn.NormalizeOp)
    def normalize(self, interpreter: Interpreter, op: nn.NormalizeOp, args: Arrays) -> Arrays:
        x = wide(args[0])
        length = np.sqrt((x * x).sum(-1, keepdims=True))
        return (result(op, x / np.maximum(length, op.eps.value.data)),)

    @impl(nn.GeluOp)
    def gelu(self, interpreter: Interpreter, op: nn.GeluOp, args: Arrays) -> Arrays:
        tanh = op.approximate.data is Approximation.TANH
        return (result(op, (gelu_tanh if tanh else gelu)(wide(args[0]))),)

    @impl(nn.ReluOp)
    def relu(self, interpreter: Interpreter, op: nn.ReluOp, args: Arrays) -> Arrays:
        return (result(op, relu(wide(args[0]))),)

    @impl(nn.SiluOp)
    def silu(self, interpreter: Interpreter, op: nn.SiluOp, args: Arrays) -> Arrays:
        return (result(op, silu(wide(args[0]))),)

    @impl(nn.TanhOp)
    def tanh(self, interpreter: Interpreter, op: nn.TanhOp, args: Arrays) -> Arrays:
        return (result(op, np.tanh(wide(args[0]))),)

    @impl(nn.SigmoidOp)
    def sigmoid(self, interpreter: Interpreter, op: nn.SigmoidOp, args: Arrays) -> Arrays:
        return (result(op, sigmoid(wide(args[0]))),)

    @impl(nn.SoftmaxOp)
    def softmax(self, interpreter: Interpreter, op: nn.SoftmaxOp, args: Arrays) -> Arrays:
        x = wide(args[0])
        powers = np.exp(x - x.max(-1, keepdims=True))
        return (result(op, powers / powers.sum(-1, keepdims=True)),)


def erf(x: Array) -> Array:
    """The error function of float64, exact to the last bit or two."""
    return _each(math.erf, x)


def _each(function: Callable[[float], float], x: Array) -> Array:
    flat = np.fromiter(map(function, x.ravel().tolist()), np.float64, x.size)
    return flat.reshape(x.shape)


def relu(x: Array) -> Array:
    """max(x, 0), NaN staying NaN."""
    return np.maximum(x, 0)


def gelu(x: Array) -> Array:
    """x * Phi(x); erfc keeps the digits that 1 + erf loses for negative x."""
    return x * 0.5 * _each(math.erfc, x * -math.sqrt(0.5))


def gelu_tanh(x: Array) -> Array:
    """GELU's tanh approximation."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    """x * sigmoid(x)."""
    return x * sigmoid(x)


def layer_norm(x: Array, weight: Array, bias: Array | None, eps: float) -> Array:
    """Layer normalisation of the last dimension, in float64."""
    x = wide(x)
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    y = centred / np.sqrt(variance + eps) * wide(weight)
    return y if bias is None else y + wide(bias)


def rms_norm(x: Array, weight: Array, bias: Array | None, eps: float) -> Array:
    """Root-mean-square normalisation of the last dimension, in float64."""
    x = wide(x)
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * wide(weight)
    return y if bias is None else y + wide(bias)


ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    Activation.RELU: relu,
    Activation.GELU: gelu,
    Activation.GELU_TANH: gelu_tanh,
    Activation.SILU: silu,
    Activation.TANH: np.tanh,
    Activation.SIGMOID: sigmoid,
}
