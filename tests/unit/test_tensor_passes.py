"""All tensor-level passes together, on random small networks: same numbers, done after one run."""

from collections.abc import Callable

import numpy as np
import pytest
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    IntegerAttr,
    ModuleOp,
    TensorType,
    f32,
    i64,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Region, SSAValue

from kaoken.dialect.attributes import Function, FunctionAttr, ShapeAttr, float_attr, int_attr
from kaoken.dialect.base import KaokenOp
from kaoken.dialect.canonicalization.rules import int_array, number_attr
from kaoken.dialect.dims import DYNAMIC, Dim
from kaoken.dialect.nn import (
    AttentionOp,
    GeluOp,
    LayerNormOp,
    LinearOp,
    ReluOp,
    RmsNormOp,
    SiluOp,
    TanhOp,
    WeightOp,
)
from kaoken.dialect.tensor import BroadcastOp, ElementwiseOp, FullOp, ReshapeOp, TransposeOp
from tests.helpers import apply_passes, assert_same_before_and_after

PIPELINE = "canonicalize,fuse,choose-schedule{target=x86-64-v3},bake,outline"
B, S, H = Dim.symbol("b"), Dim.symbol("s"), 6
FULL = (B, S, Dim.of(H))


class Network:
    """A function over values of [b, s, 6], built op by op."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)
        self.block = Block(arg_types=[TensorType(f32, [DYNAMIC, DYNAMIC, H])])
        self.values: list[SSAValue] = [self.block.args[0]]
        self.weights = 0

    def add(self, op: KaokenOp) -> SSAValue:
        self.block.add_op(op)
        return op.result

    def pick(self) -> SSAValue:
        """Mostly the newest value."""
        back = min(len(self.values), 1 + int(self.random.geometric(0.7)))
        return self.values[-int(self.random.integers(1, back + 1))]

    def weight(self, *sizes: int) -> SSAValue:
        self.weights += 1
        return self.add(WeightOp(f"net.layer.{self.weights}.weight", TensorType(f32, sizes)))

    def linear(self, x: SSAValue, n: int = H, k: int = H) -> SSAValue:
        bias = self.weight(n) if self.random.random() < 0.5 else None
        return self.add(LinearOp.make([x, self.weight(n, k), bias, None, None, None]))

    def elementwise(self, function: Function, *inputs: SSAValue) -> SSAValue:
        return self.add(ElementwiseOp.make([inputs], {"function": FunctionAttr(function)}))

    def number(self, value: float, shape: tuple[Dim, ...] = ()) -> SSAValue:
        properties = {"value": number_attr(value, f32), "shape": ShapeAttr(shape)}
        return self.add(FullOp.make([], properties))

    def layer(self, x: SSAValue) -> SSAValue:
        """One to four ops that give a value of the same shape."""
        steps: list[Callable[[SSAValue], SSAValue]] = [
            self.linear,
            self.feed_forward,
            self.activation,
            self.norm,
            self.attention,
            self.residual,
            self.scaled,
            self.shifted,
            self.flattened,
            self.turned,
        ]
        return steps[int(self.random.integers(len(steps)))](x)

    def feed_forward(self, x: SSAValue) -> SSAValue:
        return self.linear(self.activation(self.linear(x, 9)), H, 9)

    def activation(self, x: SSAValue) -> SSAValue:
        kinds = (GeluOp, ReluOp, SiluOp, TanhOp)
        return self.add(kinds[int(self.random.integers(len(kinds)))].make([x]))

    def norm(self, x: SSAValue) -> SSAValue:
        eps = {"eps": float_attr(1e-3)}
        if self.random.random() < 0.5:
            return self.add(RmsNormOp.make([x, self.weight(H)], eps))
        return self.add(LayerNormOp.make([x, self.weight(H), self.weight(H)], eps))

    def attention(self, x: SSAValue) -> SSAValue:
        q, k, v = (self.linear(x) for _ in range(3))
        if self.random.random() < 0.3:
            k = q
        properties = {"num_heads": int_attr(2), "scale": float_attr(0.3)}
        return self.add(AttentionOp.make([q, k, v, None], properties))

    def residual(self, x: SSAValue) -> SSAValue:
        return self.elementwise(Function.ADD, self.linear(x), self.pick())

    def scaled(self, x: SSAValue) -> SSAValue:
        factor = self.number(0.5, FULL if self.random.random() < 0.5 else ())
        return self.elementwise(Function.MUL, self.linear(x), factor)

    def shifted(self, x: SSAValue) -> SSAValue:
        shape = ShapeAttr(FULL)
        return self.elementwise(
            Function.ADD, self.add(BroadcastOp.make([self.weight(H)], {"shape": shape})), x
        )

    def flattened(self, x: SSAValue) -> SSAValue:
        flat = self.add(ReshapeOp.make([x], {"shape": ShapeAttr((B * S, Dim.of(H)))}))
        done = self.linear(self.elementwise(Function.NEG, flat))
        return self.add(ReshapeOp.make([done], {"shape": ShapeAttr(FULL)}))

    def turned(self, x: SSAValue) -> SSAValue:
        order = {"permutation": int_array([1, 0, 2])}
        turned = self.add(TransposeOp.make([x], order))
        return self.add(TransposeOp.make([self.activation(turned)], order))

    def module(self, length: int) -> ModuleOp:
        for _ in range(length):
            self.values.append(self.layer(self.pick()))
        results = [self.values[-1], self.pick()]
        self.block.add_op(ReturnOp(*results))
        func = FuncOp(
            "main",
            (self.block.arg_types, [v.type for v in results]),
            Region(self.block),
            arg_attrs=ArrayAttr([DictionaryAttr({"kaoken.shape": ShapeAttr(FULL)})]),
        )
        maxima = {"b": IntegerAttr(4, i64), "s": IntegerAttr(8, i64)}
        func.attributes["kaoken.max"] = DictionaryAttr(maxima)
        return ModuleOp([func])


@pytest.mark.parametrize("seed", range(30))
def test_random_networks(seed: int) -> None:
    sizes = {"b": 1 + seed % 3, "s": 1 + seed % 4}
    module = Network(seed).module(8)
    module.verify()
    after = assert_same_before_and_after(module, PIPELINE, sizes=sizes, seed=seed, atol=2e-3)
    assert str(apply_passes(after, PIPELINE)) == str(after)
