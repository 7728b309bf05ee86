"""`canonicalize` on kaoken ops keeps what a module computes, ends, and is done after one run."""

from pathlib import Path

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp, StringAttr, TensorType, f32, i64
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Region, SSAValue

from kaoken.dialect.attributes import Function, FunctionAttr, ShapeAttr, int_attr
from kaoken.dialect.base import KaokenOp, tensor_type
from kaoken.dialect.canonicalization.movement import dimension_groups
from kaoken.dialect.canonicalization.rules import int_array
from kaoken.dialect.dims import Dim
from kaoken.dialect.tensor import (
    BroadcastOp,
    CastOp,
    ConcatOp,
    ElementwiseOp,
    FullOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
)
from kaoken.modules import parse_module
from tests.helpers import apply_passes, assert_same_before_and_after

FILE = Path(__file__).parent.parent / "filecheck/passes/canonicalize.mlir"


def functions() -> list[FuncOp]:
    module = parse_module(FILE.read_text())
    return [op for op in module.ops if isinstance(op, FuncOp)]


@pytest.mark.parametrize("func", functions(), ids=lambda f: f.sym_name.data)
@pytest.mark.parametrize("first_size", [1, 3])
def test_rules_keep_the_meaning(func: FuncOp, first_size: int) -> None:
    main = func.clone()
    main.sym_name = StringAttr("main")
    sizes = {"b": first_size, "batch": first_size, "n": first_size + 1, "s": 5, "tokens": 5}
    after = assert_same_before_and_after(ModuleOp([main]), "canonicalize", sizes=sizes)
    assert str(apply_passes(after, "canonicalize")) == str(after)


@pytest.mark.parametrize("seed", range(40))
def test_random_chains(seed: int) -> None:
    """Twelve random movements and additions of one tensor."""
    random = np.random.default_rng(seed)
    block = Block(arg_types=[TensorType(f32, [2, 3, 4, 1])])
    values: list[SSAValue] = [block.args[0]]
    for _ in range(12):
        op = random_op(random, values[-1] if random.random() < 0.8 else random.choice(values))  # pyright: ignore[reportArgumentType, reportCallIssue]
        block.add_op(op)
        values.append(op.result)
    block.add_op(ReturnOp(values[-1], values[-3]))
    types = [values[-1].type, values[-3].type]
    func = FuncOp("main", ([block.args[0].type], types), Region(block))
    after = assert_same_before_and_after(ModuleOp([func]), "canonicalize")
    assert str(apply_passes(after, "canonicalize")) == str(after)
    assert len(list(after.walk())) <= len(list(func.walk())) + 1


def random_op(random: np.random.Generator, x: SSAValue) -> KaokenOp:
    sizes = list(tensor_type(x).get_shape())
    kind = random.integers(0, 7)
    if kind <= 1 and len(sizes) > 1:
        order = random.permutation(len(sizes)).tolist()
        return TransposeOp.make([x], {"permutation": int_array(order)})
    if kind == 2:
        dim = int(random.integers(len(sizes)))
        start = int(random.integers(0, max(1, sizes[dim] // 3)))
        bounds = ShapeAttr((Dim.of(start), Dim.of(sizes[dim])))
        return SliceOp.make([x], {"dim": int_attr(dim), "range": bounds})
    if kind == 3 and np.prod(sizes) < 200:
        dim = int(random.integers(len(sizes)))
        return ConcatOp.make([[x, x]], {"dim": int_attr(dim)})
    if kind == 4:
        ones = ShapeAttr(tuple(map(Dim.of, (1, *sizes))))
        return BroadcastOp.make([x], {"shape": ones})
    if kind == 5:
        return ElementwiseOp.make([[x, x]], {"function": FunctionAttr(Function.ADD)})
    return ReshapeOp.make([x], {"shape": ShapeAttr(tuple(random_sizes(random, sizes)))})


def random_sizes(random: np.random.Generator, sizes: list[int]) -> list[Dim]:
    """The same number of elements: neighbours merged, or one size split."""
    if len(sizes) > 1 and random.random() < 0.5:
        i = int(random.integers(len(sizes) - 1))
        return [Dim.of(n) for n in (*sizes[:i], sizes[i] * sizes[i + 1], *sizes[i + 2 :])]
    i = int(random.integers(len(sizes)))
    factor = next((f for f in (2, 3, 5, 1) if sizes[i] % f == 0), 1)
    return [Dim.of(n) for n in (*sizes[:i], factor, sizes[i] // factor, *sizes[i + 1 :])]


def test_dimension_groups() -> None:
    b, s = Dim.symbol("b"), Dim.symbol("s")
    twelve, three, four, one = map(Dim.of, (12, 3, 4, 1))
    assert dimension_groups((b, s, twelve), (b, s, three, four)) == [
        ([0], [0]),
        ([1], [1]),
        ([2], [2, 3]),
    ]
    assert dimension_groups((b, three, s), (b * 3, s)) == [([0, 1], [0]), ([2], [1])]
    assert dimension_groups((s, one), (s,)) == [([0, 1], [0])]
    assert dimension_groups((b, s), (s, b)) is None


def test_an_integer_cast_that_loses_stays() -> None:
    block = Block(arg_types=[TensorType(i64, [3])])
    narrow = CastOp.to(block.args[0], f32)
    wide = CastOp.to(narrow.result, i64)
    block.add_ops([narrow, wide, ReturnOp(wide.result)])
    module = ModuleOp([FuncOp("main", ([block.args[0].type], [wide.result.type]), Region(block))])
    after = apply_passes(module, "canonicalize")
    assert sum(isinstance(op, CastOp) for op in after.walk()) == 2


def test_integer_division_of_numbers_folds_exactly() -> None:
    big = FullOp.make([], {"value": int_attr(2**53 + 1), "shape": ShapeAttr(())})
    one = FullOp.make([], {"value": int_attr(1), "shape": ShapeAttr(())})
    total = ElementwiseOp.make([[big, one]], {"function": FunctionAttr(Function.ADD)})
    block = Block([big, one, total, ReturnOp(total.result)])
    module = ModuleOp([FuncOp("main", ([], [total.result.type]), Region(block))])
    after = apply_passes(module, "canonicalize")
    (full,) = [op for op in after.walk() if isinstance(op, FullOp)]
    assert full.value.value.data == 2**53 + 2
