"""`kaoken tune`: the changes it tries, the search on a made-up clock, and one whole run.

No test asks how fast anything is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import kaoken
from kaoken.backend.machine import TargetMachine
from kaoken.dialect.attributes import Directive, ScheduleAttr
from kaoken.dialect.reference import run_module
from kaoken.errors import KaokenError
from kaoken.modules import parse_module, read_module
from kaoken.options import CompileOptions
from kaoken.schedule.legality import Judge
from kaoken.schedule.parser import parse_schedule
from kaoken.tools.kaoken import main
from kaoken.tuning.moves import (
    MOVES,
    blocks,
    matrix_units,
    neighbours,
    orders,
    prefetches,
    register_tiles,
)
from kaoken.tuning.search import Found, gain_and_noise, ratios
from kaoken.tuning.shapes import OpShape, op_shapes
from kaoken.tuning.trial import MachineClock
from kaoken.tuning.tune import TuneOptions, Watcher, tuned_schedule
from kaoken.universe import make_context
from tests.helpers import apply_passes

MLIR = """
func.func @main(
    %x: tensor<?x64xf32> {kaoken.shape = #kaoken.shape<[tokens, 64]>, kaoken.name = "x"}
) -> tensor<?x48xf32> attributes {kaoken.max = {tokens = 40}, kaoken.results = ["y"]} {
  %w = arith.constant dense<0.0078125> : tensor<96x64xf32>
  %v = arith.constant dense<0.015625> : tensor<48x96xf32>
  %h = kaoken.linear %x, %w : tensor<?x64xf32>, tensor<96x64xf32> -> tensor<?x96xf32>
  %g = kaoken.tanh %h : tensor<?x96xf32> -> tensor<?x96xf32>
  %y = kaoken.linear %g, %v : tensor<?x96xf32>, tensor<48x96xf32> -> tensor<?x48xf32>
  %s = kaoken.softmax %y : tensor<?x48xf32> -> tensor<?x48xf32>
  return %s : tensor<?x48xf32>
}
"""
TARGET = "x86-64-v3"
MACHINE = TargetMachine.parse(TARGET)
COMPILING = CompileOptions(TARGET, "f32")
OPTIONS = TuneOptions(COMPILING, tokens=(3, 9))
FIRST, SECOND = "linear k=64 n=96 activation=tanh dtype=f32", "linear k=96 n=48 dtype=f32"


def schedule(*directives: tuple[str | int, ...]) -> ScheduleAttr:
    return ScheduleAttr(tuple(Directive(str(name), tuple(args)) for name, *args in directives))


LINEAR = schedule(
    ("panel", 16),
    ("tile", "m", 96),
    ("tile", "m_in", 6),
    ("order", "m", "n0", "m_in", "m_in_in", "n1"),
    ("vectorize", "m_in_in", "n1"),
    ("parallel", "n0"),
)

Cost = Callable[[OpShape, ScheduleAttr], float]


class FakeClock:
    """Each schedule takes what `cost` says, in every round and size, with noise of some percent."""

    def __init__(self, cost: Cost, noise: float = 0.0):
        self.cost, self.noise = cost, noise
        self.random = np.random.default_rng(0)
        self.asked: list[tuple[str, ScheduleAttr]] = []

    def times(self, shape: OpShape, schedules: Sequence[ScheduleAttr]) -> np.ndarray:
        self.asked += [(shape.head, s) for s in schedules]
        costs = np.array([self.cost(shape, s) for s in schedules])
        noise = self.random.normal(0, self.noise, (2, 9, len(schedules)))
        return costs * (1 + noise)


class Notes(Watcher):
    def __init__(self) -> None:
        self.results: list[Found] = []

    def found(self, found: Found) -> None:
        self.results.append(found)


def search(clock: FakeClock, options: TuneOptions = OPTIONS) -> tuple[str, dict[str, Found]]:
    notes = Notes()
    text = tuned_schedule(parse_module(MLIR), options, notes, clock)
    return text, {found.shape.head: found for found in notes.results}


def rows_of(schedule: ScheduleAttr) -> int:
    """Rows of the register tile."""
    return next((int(d.args[1]) for d in schedule.all("tile") if d.args[0] == "m_in"), 0)


# ---- changes ----


def test_register_tiles_fit_the_registers_and_align_the_blocks() -> None:
    found = neighbours(LINEAR, register_tiles, MACHINE)
    assert len(found) > 5
    for one in found:
        (panel,), (_, block), (_, rows) = (d.args for d in one.data[:3])
        panels = one.data[3].args[1] if one.data[3].name == "tile" else 1
        assert 8 <= int(panel) * int(panels) // 8 * int(rows) + 1 <= 16
        assert int(block) % int(rows) == 0


def test_register_tiles_may_be_of_several_panels_and_of_one() -> None:
    found = neighbours(LINEAR, register_tiles, MACHINE)
    several = schedule(
        ("panel", 16),
        ("tile", "m", 96),
        ("tile", "m_in", 3),
        ("tile", "n0", 2),
        ("order", "m", "n0", "m_in", "m_in_in", "n0_in", "n1"),
        ("vectorize", "m_in_in", "n0_in", "n1"),
        ("parallel", "n0"),
    )
    assert several in found
    assert LINEAR in neighbours(several, register_tiles, MACHINE)


def test_orders_keep_vectors_inside_and_blocks_outside() -> None:
    texts = [str(one.data[3]) for one in neighbours(LINEAR, orders, MACHINE)]
    assert sorted(texts) == [
        "order(m, m_in, n0, m_in_in, n1)",
        "order(n0, m, m_in, m_in_in, n1)",
    ]


def test_blocks_are_multiples_of_the_tiles_inside() -> None:
    sizes = [one.data[1].args[1] for one in neighbours(LINEAR, blocks, MACHINE)]
    assert sorted(map(int, sizes)) == [24, 48, 192, 384]


def test_prefetches_can_go_again() -> None:
    added = neighbours(LINEAR, prefetches, MACHINE)[0]
    assert added.all("prefetch")
    assert LINEAR in neighbours(added, prefetches, MACHINE)


@pytest.mark.parametrize("move", MOVES)
def test_moves_leave_alone_what_has_no_such_directives(move: Callable) -> None:
    plain = schedule(("parallel", "m"))
    assert all(set(plain.data) <= set(one.data) for one in neighbours(plain, move, MACHINE))


def test_a_product_may_leave_the_matrix_unit_and_change_its_tiles() -> None:
    machine = TargetMachine.parse("x86-64-v4+vnni+bf16+amx")
    in_tiles = schedule(
        ("panel", 32),
        ("tile", "m", 512),
        ("tile", "m_in", 32),
        ("order", "m", "n0", "m_in", "m_in_in", "n1"),
        ("tensorize", "m_in_in", "n1", "k"),
        ("vectorize", "n1"),
        ("parallel", "n0"),
    )
    (out,) = neighbours(in_tiles, matrix_units, machine)
    assert out.data[:3] == schedule(("panel", 64), ("tile", "m", 516), ("tile", "m_in", 6)).data
    assert [str(d) for d in out.data[4:]] == ["vectorize(m_in_in, n1)", "parallel(n0)"]
    found = neighbours(in_tiles, register_tiles, machine)
    sizes = [(one.data[0].args[0], one.data[2].args[1]) for one in found]
    assert sorted(sizes) == [(16, 16), (16, 32), (16, 48), (32, 16), (48, 16)]


# ---- shapes ----


def test_linear_layers_come_first_and_rules_tell_shapes_apart() -> None:
    module = apply_passes(parse_module(MLIR), "canonicalize,fuse,choose-schedule{target=x86-64-v3}")
    shapes = op_shapes(module, Judge(make_context(), MACHINE))
    assert [one.head for one in shapes] == [FIRST, SECOND, "softmax n=48 dtype=f32"]
    assert shapes[0].sizes(9) == {"tokens": 9}
    assert shapes[0].sizes(90) == {"tokens": 40}, "no more than the model takes"


# ---- the search ----


def test_the_fastest_is_found_and_written_as_a_rule(tmp_path: Path) -> None:
    def cost(shape: OpShape, one: ScheduleAttr) -> float:
        best = shape.head == FIRST and rows_of(one) == 5
        return 0.8 if best else 1.0

    text, found = search(FakeClock(cost))
    assert found[FIRST].improved
    assert not found[SECOND].improved
    assert found[FIRST].speedups == pytest.approx([1.25, 1.25])
    assert "# 1.25 at 3, 1.25 at 9 tokens" in text
    assert f"{FIRST} when x86-64-v3 {{" in text
    assert len(parse_schedule(text).rules) == 1
    file = tmp_path / "tuned.schedule"
    file.write_text(text)
    passes = f'canonicalize,fuse,apply-schedule{{target={TARGET} file="{file}"}}'
    after = apply_passes(parse_module(MLIR), passes)
    first = next(op for op in after.walk() if op.name == "kaoken.linear")
    assert first.properties["schedule"] == found[FIRST].schedule


def test_changes_of_several_kinds_add_up() -> None:
    def cost(shape: OpShape, one: ScheduleAttr) -> float:
        order = one.all("order")
        ahead = any(d.args[0] == "n0" for d in order)
        return (0.9 if rows_of(one) == 5 else 1.0) * (0.9 if ahead else 1.0)

    _, found = search(FakeClock(cost))
    assert rows_of(found[FIRST].schedule) == 5
    assert found[FIRST].schedule.all("order")[0].args[0] == "n0"


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_noise_is_no_gain(noise: float) -> None:
    text, found = search(FakeClock(lambda shape, one: 1.0, noise))
    assert not any(one.improved for one in found.values())
    assert "Nothing was faster" in text
    assert parse_schedule(text).rules == ()


def test_wrong_results_are_never_chosen() -> None:
    def cost(shape: OpShape, one: ScheduleAttr) -> float:
        return np.nan if rows_of(one) == 5 else 1.0

    _, found = search(FakeClock(cost))
    assert not any(one.improved for one in found.values())


def test_what_does_not_compile_is_left_out() -> None:
    class Failing(FakeClock):
        def times(self, shape: OpShape, schedules: Sequence[ScheduleAttr]) -> np.ndarray:
            if any(rows_of(one) == 6 for one in schedules):
                raise KaokenError("gcc failed")
            return super().times(shape, schedules)

    _, found = search(Failing(lambda shape, one: 0.5 if rows_of(one) == 5 else 1.0))
    assert rows_of(found[FIRST].schedule) == 5


def test_what_loops_refuse_is_never_timed() -> None:
    clock = FakeClock(lambda shape, one: 1.0)
    _, found = search(clock)
    judge = Judge(make_context(), MACHINE)
    shape = found[FIRST].shape
    asked = {one for head, one in clock.asked if head == FIRST}
    assert len(asked) > 10
    assert all(shape.refusal(one, judge) is None for one in asked)
    assert shape.refusal(schedule(("panel", 3)), judge) is not None


def test_no_more_trials_than_allowed() -> None:
    _, found = search(FakeClock(lambda shape, one: 1.0), TuneOptions(COMPILING, trials=5))
    assert 0 < found[FIRST].tried <= 5


def test_an_interrupt_keeps_what_was_found() -> None:
    class Interrupted(FakeClock):
        rounds = 0

        def times(self, shape: OpShape, schedules: Sequence[ScheduleAttr]) -> np.ndarray:
            self.rounds += 1
            if self.rounds == 3:
                raise KeyboardInterrupt
            return super().times(shape, schedules)

    text, found = search(Interrupted(lambda shape, one: 0.5 if rows_of(one) == 5 else 1.0))
    assert list(found) == [FIRST], "the other shapes are not begun"
    assert found[FIRST].interrupted
    assert "tile(m_in, 5)" in text


def test_the_time_is_kept() -> None:
    clock = FakeClock(lambda shape, one: 1.0)
    text, found = search(clock, TuneOptions(COMPILING, seconds=1e-9))
    assert not clock.asked
    assert not found
    assert parse_schedule(text).rules == ()


def test_a_gain_is_more_than_the_difference_of_two_copies() -> None:
    rounds = np.tile([1.0, 0.9, 1.2, 1.0], (1, 9, 1))
    gain, noise = gain_and_noise(np.log(rounds))
    assert gain[0] == pytest.approx(np.log(1.2 / 0.9) / 2)
    assert noise == pytest.approx(2 * np.log(1.2))
    assert gain.mean() < noise


def test_ratios_are_taken_within_a_round() -> None:
    times = np.array([[[1.0, 2.0], [10.0, 20.0], [3.0, 6.6]]])
    assert ratios(times).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("wrong", [{"tokens": ()}, {"tokens": (0,)}, {"trials": 0}])
def test_options_are_checked(wrong: dict) -> None:
    with pytest.raises(KaokenError):
        TuneOptions(**wrong)


# ---- on this machine ----


@pytest.mark.parametrize("threads", [1, 2])
def test_schedules_are_timed_side_by_side(threads: int) -> None:
    machine, context = TargetMachine.parse("native"), make_context()
    module = apply_passes(parse_module(MLIR), "canonicalize,fuse,choose-schedule{target=native}")
    clock = MachineClock(context, CompileOptions(threads=threads), (3, 9), 0.001)
    for shape in op_shapes(module, Judge(context, machine)):
        times = clock.times(shape, [shape.default, schedule(("parallel", "m")), shape.default])
        assert times.shape[0] == 2
        assert times.shape[1] >= 7
        assert times.shape[2] == 3
        assert (times > 0).all()


def test_the_norm_of_a_linear_layer_is_timed_alone() -> None:
    text = """
    func.func @main(%x: tensor<?x64xf32> {kaoken.shape = #kaoken.shape<[tokens, 64]>})
        -> tensor<?x64xf32> attributes {kaoken.max = {tokens = 40}} {
      %w = arith.constant dense<0.0078125> : tensor<64x64xf32>
      %v = arith.constant dense<1.0> : tensor<64xf32>
      %h = kaoken.linear %x, %w : tensor<?x64xf32>, tensor<64x64xf32> -> tensor<?x64xf32>
      %y = kaoken.rms_norm %h, %v {eps = 1.0e-5 : f64}
        : tensor<?x64xf32>, tensor<64xf32> -> tensor<?x64xf32>
      return %y : tensor<?x64xf32>
    }"""
    context, machine = make_context(), TargetMachine.parse("native")
    module = apply_passes(parse_module(text), "canonicalize,fuse,choose-schedule{target=native}")
    linear, norm = op_shapes(module, Judge(context, machine))
    assert norm.part.is_norm
    clock = MachineClock(context, CompileOptions(), (40,), 0.01)
    plain = schedule(("parallel", "m"))
    slow, quick = (clock.times(one, [plain])[0, :, 0] for one in (linear, norm))
    assert (slow > 0).all()
    assert (quick > 0).all()


def test_a_wrong_schedule_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from kaoken.tuning import trial

    answers = iter([True, True, False])
    monkeypatch.setattr(trial, "_close", lambda output, first: next(answers))
    context, machine = make_context(), TargetMachine.parse("native")
    module = apply_passes(parse_module(MLIR), "canonicalize,fuse,choose-schedule{target=native}")
    shape = op_shapes(module, Judge(context, machine))[0]
    clock = MachineClock(context, CompileOptions(), (3,), 0.001)
    times = clock.times(shape, [shape.default, schedule(("parallel", "m"))])
    assert np.isfinite(times[:, :, 0]).all()
    assert np.isnan(times[:, :, 1]).all()


def test_the_command_and_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "model.mlir", tmp_path / "tuned.schedule"
    path.write_text(MLIR)
    words = ["tune", str(path), "-o", str(out), "--trials", "4", "--tokens", "7", "--seconds", "60"]
    main_exit(words)
    assert f"wrote {out}" in capsys.readouterr().out
    assert out.read_text().startswith("# Tuned by `kaoken tune` on ")
    assert [p.name for p in tmp_path.iterdir() if "schedule" in p.name] == ["tuned.schedule"]
    x = np.linspace(-1, 1, 7 * 64, dtype=np.float32).reshape(7, 64)
    model = kaoken.compile(path, schedule=out, out=tmp_path / "out")
    np.testing.assert_allclose(model(x), run_module(read_module(path), [x])[0], atol=1e-6)


def test_from_python(tmp_path: Path) -> None:
    path = tmp_path / "model.mlir"
    path.write_text(MLIR)
    text = kaoken.tune(path, tokens=[2], trials=1, seconds=0.01, out=tmp_path / "a.schedule")
    assert (tmp_path / "a.schedule").read_text() == text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no-such-model"], "there is no file or folder no-such-model"),
        (["model.mlir", "--tokens", "0,1"], "--tokens is '0,1'"),
        (["model.mlir", "--dtype", "f8"], "unknown dtype f8"),
        (["model.mlir", "-o", "/nowhere/x.schedule"], "cannot write /nowhere/x.schedule"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.mlir").write_text(MLIR)
    assert main_exit(["tune", *words]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {message}")
    assert shown.count("\n") == 1


def main_exit(words: list[str]) -> int:
    try:
        main(words)
    except SystemExit as done:
        return int(done.code or 0)
    return 0
