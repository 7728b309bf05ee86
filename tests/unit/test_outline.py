"""`outline` finds equal layers whatever surrounds them, and keeps what a module computes."""

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import CallOp, FuncOp

from kaoken.analysis.repeats import Repeat, best_repeat
from kaoken.modules import parse_module
from tests.helpers import apply_passes, assert_same_before_and_after

T = "tensor<?x6xf32>"


def layer(i: int, x: str, width: int = 6, activation: str = "gelu") -> str:
    """A pre-norm feed-forward layer on %{x}: its result is %h{i}."""
    return f"""
  %n{i} = kaoken.weight "model.layers.{i}.norm.weight" : tensor<6xf32>
  %u{i} = kaoken.weight "model.layers.{i}.up.weight" : tensor<{width}x6xf32>
  %b{i} = kaoken.weight "model.layers.{i}.up.bias" : tensor<{width}xf32>
  %d{i} = kaoken.weight "model.layers.{i}.down.weight" : tensor<6x{width}xf32>
  %a{i} = kaoken.rms_norm %{x}, %n{i} {{eps = 1.0e-5 : f64}} : {T}, tensor<6xf32> -> {T}
  %l{i} = kaoken.linear %a{i}, %u{i} bias %b{i} : tensor<{width}xf32> : {T}, tensor<{width}x6xf32> -> tensor<?x{width}xf32>
  %g{i} = kaoken.{activation} %l{i} : tensor<?x{width}xf32> -> tensor<?x{width}xf32>
  %h{i} = kaoken.linear %g{i}, %d{i} residual %{x} : {T} : tensor<?x{width}xf32>, tensor<6x{width}xf32> -> {T}"""  # noqa: E501


def module(body: str, results: str) -> str:
    types = ", ".join([T] * results.count("%"))
    return f"""
func.func @main(%x: {T} {{kaoken.shape = #kaoken.shape<[n, 6]>}}) -> ({types}) attributes {{kaoken.max = {{n = 8}}}} {{
{body}
  return {results} : {types}
}}"""  # noqa: E501


def chain(count: int) -> str:
    return "".join(layer(i, f"h{i - 1}" if i else "x") for i in range(count))


def called(after: ModuleOp) -> list[str]:
    return [op.callee.root_reference.data for op in after.walk() if isinstance(op, CallOp)]


def check(text: str, pipeline: str = "outline") -> ModuleOp:
    after = assert_same_before_and_after(text, pipeline, atol=1e-6)
    assert str(apply_passes(after, "outline")) == str(after)
    return after


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_chain_of_layers(count: int) -> None:
    after = check(module(chain(count), f"%h{count - 1}"))
    assert called(after) == ["model_layers"] * count
    (layer_function, main) = [op for op in after.ops if isinstance(op, FuncOp)]
    assert len(list(layer_function.body.block.ops)) == 5
    assert len(list(main.body.block.ops)) == 4 * count + count + 1


def test_one_layer_stays() -> None:
    assert not called(check(module(chain(1), "%h0")))


def test_all_hidden_states_are_returned() -> None:
    after = check(module(chain(3), "%h0, %h1, %h2"))
    assert len(called(after)) == 3


def test_an_inner_value_that_only_one_layer_gives_out() -> None:
    after = check(module(chain(3), "%h2, %a1"))
    assert len(called(after)) == 3


def test_ops_around_the_layers_stay_outside() -> None:
    before = f"\n  %s = kaoken.tanh %x : {T} -> {T}"
    after_ = f"\n  %r = kaoken.relu %h3 : {T} -> {T}"
    body = before + layer(0, "s") + "".join(layer(i, f"h{i - 1}") for i in (1, 2, 3)) + after_
    assert len(called(check(module(body, "%r")))) == 4


def test_two_kinds_of_layers() -> None:
    """Encoder layers of one width, then of another: a function each."""
    body = chain(3) + "".join(layer(i, f"h{i - 1}", width=5) for i in (3, 4))
    after = check(module(body, "%h4"))
    assert sorted(called(after)) == ["model_layers"] * 3 + ["model_layers_2"] * 2


def test_layers_of_alternating_kinds() -> None:
    body = "".join(
        layer(i, f"h{i - 1}" if i else "x", activation="relu" if i % 2 else "gelu")
        for i in range(6)
    )
    assert len(called(check(module(body, "%h5")))) == 3


def test_layers_that_are_wired_differently_stay_apart() -> None:
    """The second layer reads the input where the first reads its own norm's input."""
    other = layer(1, "h0").replace("residual %h0", "residual %x")
    after = check(module(layer(0, "x") + other, "%h1"))
    assert not called(after)


def test_shared_weights() -> None:
    body = chain(4)
    for i in (1, 2, 3):
        body = body.replace(f"layers.{i}.", "layers.0.")
    after = check(module(body, "%h3"))
    assert len(called(after)) == 4


@pytest.mark.parametrize(
    "pipeline", ["canonicalize,fuse,choose-schedule,bake,outline", "fuse,outline"]
)
def test_after_the_passes_before_it(pipeline: str) -> None:
    """Fused, a layer has three ops: under the least period alone, but not two layers together."""
    after = assert_same_before_and_after(module(chain(4), "%h3"), pipeline)
    assert str(apply_passes(after, pipeline)) == str(after)
    assert called(after)


def test_the_smallest_period_wins() -> None:
    """Twelve equal layers are twelve calls, not six of two layers each."""
    ops = [op for op in parse_module(module(chain(12), "%h11")).walk() if op.name in KINDS]
    assert best_repeat(ops, [KINDS.index(op.name) for op in ops]) == Repeat(0, 4, 12)


KINDS = ["kaoken.rms_norm", "kaoken.linear", "kaoken.gelu"]
