"""Symbolic shapes of values, and the sizes that inputs give to symbols."""

from __future__ import annotations

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.traits import SymbolTable

from kaoken.analysis.shapes import (
    argument_name,
    bind_symbols,
    result_shapes,
    substitute,
    symbolic_shapes,
)
from kaoken.dialect.attributes import Shape
from kaoken.dialect.dims import Dim
from kaoken.errors import KaokenError
from kaoken.modules import parse_module
from tests.helpers import main_function


def texts(shape: Shape | None) -> list[str]:
    return [str(dim) for dim in shape or ()]


def shapes_by_name(module: ModuleOp) -> dict[str, list[str]]:
    shapes = symbolic_shapes(main_function(module))
    return {value.name_hint or "": texts(shape) for value, shape in shapes.items()}


MODULE = """
func.func private @twice(%a: tensor<?x4xf32> {kaoken.shape = #kaoken.shape<[n, 4]>})
    -> tensor<?x4xf32> {
  %0 = kaoken.concat %a, %a {dim = 0} : tensor<?x4xf32>, tensor<?x4xf32> -> tensor<?x4xf32>
  func.return %0 : tensor<?x4xf32>
}
func.func private @told(%a: tensor<?x4xf32> {kaoken.shape = #kaoken.shape<[n, 4]>})
    -> tensor<?x4xf32> attributes {kaoken.result_shapes = [#kaoken.shape<["n + batch", 4]>]}
func.func @main(%x: tensor<?x?x4xf32> {kaoken.shape = #kaoken.shape<[batch, tokens, 4]>},
                %y: tensor<?x4xf32>, %z: tensor<?xf32> {kaoken.name = "zed"}) {
  %flat = kaoken.reshape %x to <["batch*tokens", 4]> : tensor<?x?x4xf32> -> tensor<?x4xf32>
  %called = func.call @twice(%flat) : (tensor<?x4xf32>) -> tensor<?x4xf32>
  %again = func.call @twice(%called) : (tensor<?x4xf32>) -> tensor<?x4xf32>
  %declared = func.call @told(%y) : (tensor<?x4xf32>) -> tensor<?x4xf32>
  %constant = arith.constant dense<1.0> : tensor<4xf32>
  %sum = kaoken.elementwise add %called, %constant
    : tensor<?x4xf32>, tensor<4xf32> -> tensor<?x4xf32>
  %unknown = "test.op"() : () -> tensor<?x3xf32>
  %scores = kaoken.matmul %x, %x {transpose_rhs = true}
    : tensor<?x?x4xf32>, tensor<?x?x4xf32> -> tensor<?x?x?xf32>
  func.return
}
"""


def test_shapes_follow_ops_and_calls() -> None:
    shapes = shapes_by_name(parse_module(MODULE))
    assert shapes["y"] == ["y_0", "4"]
    assert shapes["z"] == ["zed_0"]
    assert shapes["flat"] == ["batch*tokens", "4"]
    assert shapes["called"] == ["2*batch*tokens", "4"]
    assert shapes["again"] == ["4*batch*tokens", "4"]
    assert shapes["declared"] == ["batch + y_0", "4"]
    assert shapes["constant"] == ["4"]
    assert shapes["sum"] == ["2*batch*tokens", "4"]
    assert shapes["scores"] == ["batch", "tokens", "tokens"]
    assert shapes["unknown"][1] == "3"
    assert not shapes["unknown"][0].isdigit()


def test_result_shapes_are_in_the_function_s_own_symbols() -> None:
    module = parse_module(MODULE)
    for name, expected in (("twice", ["2*n", "4"]), ("told", ["batch + n", "4"])):
        func = SymbolTable.lookup_symbol(module, name)
        assert isinstance(func, FuncOp)
        assert [texts(shape) for shape in result_shapes(func)] == [expected]


def test_a_size_that_the_type_knows_wins() -> None:
    shapes = shapes_by_name(
        parse_module("""
        func.func @main(%x: tensor<?xf32> {kaoken.shape = #kaoken.shape<[n]>}) {
          %y = kaoken.relu %x : tensor<?xf32> -> tensor<5xf32>
          func.return
        }
        """)
    )
    assert shapes["y"] == ["5"]


def test_shape_that_contradicts_the_type() -> None:
    module = parse_module("""
    func.func @main(%x: tensor<?x5xf32> {kaoken.shape = #kaoken.shape<[n, 4]>}) { func.return }
    """)
    with pytest.raises(KaokenError, match=r"x has type tensor<\?x5xf32>, but shape"):
        symbolic_shapes(main_function(module))


def test_argument_names() -> None:
    func = main_function(parse_module(MODULE))
    assert [argument_name(func, i) for i in range(3)] == ["x", "y", "zed"]


def test_substitute() -> None:
    dim = Dim.of("batch*tokens + 2")
    assert substitute(dim, {"tokens": Dim.of("n + 1")}) == Dim.of("batch*n + batch + 2")
    assert substitute(dim, {"other": Dim.of(1)}) is dim


def bound(shapes: str, *sizes: tuple[int, ...]) -> dict[str, int]:
    arguments = ", ".join(
        f"%a{i}: tensor<{'?x' * len(shape.split(','))}f32> "
        f"{{kaoken.shape = #kaoken.shape<[{shape}]>}}"
        for i, shape in enumerate(shapes.split(";"))
    )
    module = parse_module(f"func.func @main({arguments}) {{ func.return }}")
    return bind_symbols(main_function(module), sizes)


def test_symbols_are_solved_in_any_order() -> None:
    assert bound("batch,tokens", (2, 3)) == {"batch": 2, "tokens": 3}
    assert bound('"2*tokens + 1"', (7,)) == {"tokens": 3}
    assert bound('"batch*tokens";batch', (6,), (2,)) == {"batch": 2, "tokens": 3}


@pytest.mark.parametrize(
    ("shapes", "sizes", "message"),
    [
        ("n;n", [(2,), (3,)], "dimension 0 of a1 has size 3, but n is 2 by the other inputs"),
        ('"2*n"', [(3,)], r"dimension 0 of a0 has size 3, but needs 2\*n"),
        ("n,m", [(3,)], "a0 has 1 dimensions, but needs 2"),
    ],
)
def test_sizes_that_contradict(shapes: str, sizes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(KaokenError, match=message):
        bound(shapes, *sizes)
