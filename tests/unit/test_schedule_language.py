"""The schedule language: what it says, what it refuses and why, and that it comes back the same."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from kaoken.backend.c_printer import print_module
from kaoken.backend.machine import TargetMachine
from kaoken.compiler import compile_module, load
from kaoken.dialect.attributes import ScheduleAttr
from kaoken.dialect.reference import run_module
from kaoken.errors import KaokenError
from kaoken.modules import parse_module
from kaoken.options import CompileOptions
from kaoken.passes.strict import DirectiveRefused
from kaoken.schedule.apply import apply_schedule
from kaoken.schedule.facts import parts_of
from kaoken.schedule.parser import parse_schedule, read_schedule
from kaoken.schedule.printing import print_schedules
from kaoken.tools import kaoken_opt
from kaoken.universe import make_context
from tests.c.layers import ATTENTION
from tests.c.stages import compile_stage, run_stage
from tests.helpers import apply_passes, assert_close, fill_weights, random_inputs

V3, V4 = TargetMachine.parse("x86-64-v3"), TargetMachine.parse("x86-64-v4+vnni")

TEXT = """
func.func @main(%x: tensor<?x16xf32> {kaoken.shape = #kaoken.shape<[rows, 16]>, kaoken.name = "x"})
    -> tensor<?x16xf32> attributes {kaoken.max = {rows = 40 : i64}, kaoken.results = ["y"]} {
  %w = kaoken.weight "up.weight" : tensor<48x16xf32>
  %v = kaoken.weight "down.weight" : tensor<16x48xf32>
  %g = kaoken.weight "norm.weight" : tensor<16xf32>
  %h = kaoken.linear %x, %w {activation = #kaoken<activation gelu>}
    : tensor<?x16xf32>, tensor<48x16xf32> -> tensor<?x48xf32>
  %d = kaoken.linear %h, %v norm_weight %g : tensor<16xf32>
    {norm = #kaoken<norm rms_norm>, eps = 1.0e-5 : f64}
    : tensor<?x48xf32>, tensor<16x48xf32> -> tensor<?x16xf32>
  %y = kaoken.softmax %d : tensor<?x16xf32> -> tensor<?x16xf32>
  %z = kaoken.relu %y : tensor<?x16xf32> -> tensor<?x16xf32>
  return %z : tensor<?x16xf32>
}
"""


def model() -> ModuleOp:
    module = parse_module(TEXT)
    fill_weights(module)
    return module


def applied(text: str, machine: TargetMachine = V4) -> dict[str, list[str]]:
    """The schedules that a text gives, as text, by the name of what they are for."""
    module = model()
    apply_schedule(module, parse_schedule(text), machine, make_context())
    found: dict[str, list[str]] = {}
    for part in parts_of(module):
        schedule = part.schedule
        found.setdefault(part.name, []).append(text_of(schedule) if schedule else "")
    return found


def text_of(schedule: ScheduleAttr) -> str:
    return " ".join(map(str, schedule.data))


RULES = {
    "name": ("softmax { parallel(m) }", "softmax", ["parallel(m)"]),
    "any op": ("* { parallel(m) }", "softmax", ["parallel(m)"]),
    "n": ("linear n=48 { parallel(m) }", "linear", ["parallel(m)", ""]),
    "k and n": ("linear k>16 n<=16 { parallel(m) }", "linear", ["", "parallel(m)"]),
    "open": ("linear m=open n!=16 { parallel(m) }", "linear", ["parallel(m)", ""]),
    "not open": ("linear m!=open { parallel(m) } * { }", "linear", ["", ""]),
    "activation": ("linear activation=gelu { parallel(m) }", "linear", ["parallel(m)", ""]),
    "weight": ('linear "down.*" { parallel(m) }', "linear", ["", "parallel(m)"]),
    "norm": ("linear.norm norm=rms_norm { parallel(m) }", "linear.norm", ["parallel(m)"]),
    "nth": ("linear nth=1 { parallel(m) }", "linear", ["", "parallel(m)"]),
    "the last counts": (
        "linear { unroll(k, 2) } linear n=16 { unroll(k, 4) }",
        "linear",
        ["unroll(k, 2)", "unroll(k, 4)"],
    ),
    "constants": (
        "let r = 2 let twice = 2 * r\nlinear n=8*r { panel(lanes) tile(m, twice*r) }",
        "linear",
        ["", "panel(16) tile(m, 8)"],
    ),
    "commas, comments": (
        "# one\nrelu { tile(h, 8), # two\n vectorize(h_in), }",
        "relu",
        ["tile(h, 8) vectorize(h_in)"],
    ),
}


@pytest.mark.parametrize(("text", "name", "expected"), RULES.values(), ids=RULES.keys())
def test_what_rules_fit(text: str, name: str, expected: list[str]) -> None:
    assert applied(text)[name] == expected


@pytest.mark.parametrize(
    ("condition", "on_v3", "on_v4"),
    [
        ("avx512", False, True),
        ("avx2", True, True),
        ("not avx512", True, False),
        ("x86-64-v3", True, True),
        ("x86-64-v4 and vnni", False, True),
        ("generic", False, False),
        ("vector >= 64 or generic", False, True),
        ("lanes = 8", True, False),
        ("not (registers > 16 and l2 >= 1M)", True, False),
        ("l2 >= 512K", True, True),
    ],
)
def test_conditions(condition: str, on_v3: bool, on_v4: bool) -> None:
    text = f"relu when {condition} {{ parallel(m) }}"
    for machine, holds in ((V3, on_v3), (V4, on_v4)):
        assert applied(text, machine)["relu"] == (["parallel(m)"] if holds else [""])


WRONG = {
    "op": ("liner { }", "1:1: unknown op liner, did you mean linear? Known: attention, ", "^^^^^"),
    "directive": ("relu { tiel(h, 8) }", "1:8: unknown directive tiel, did you mean tile?", "^^^^"),
    "too few": ("relu { tile(h) }", "1:8: tile takes a loop and a size, not 1 arguments", "^^^^"),
    "too many": ("relu { parallel(m, h) }", "1:8: parallel takes a loop, not 2", "^^^^^^^^"),
    "none": ("relu { order() }", "1:8: order takes one loop or more, not 0", "^^^^^"),
    "swapped": ("relu { tile(8, h) }", "1:13: tile takes a loop and a size: this is no", "^"),
    "no number": ("relu { tile(h, q) }", "1:16: expected a number, found q, which has no v", "^"),
    "zero": ("relu {\n  tile(h, 0) }", "2:11: a size must be at least 1", "^"),
    "zero here": ("relu { tile(h, l1 * 0) }", "1:16: a size must be at least 1: it is 0", "^^^^^^"),
    "property": (
        "relu size=3 { }",
        "1:6: unknown property size, did you mean head_size? K",
        "^^^^",
    ),
    "word": ("linear activation=gelo { }", "1:19: activation is one of none, relu, ", "^^^^"),
    "order of open": ("relu m<open { }", "1:7: m < needs a number, found open", "^"),
    "feature": ("relu when avx1024 { }", "1:11: unknown target feature avx1024, did ", "^^^^^^^"),
    "number": ("relu when lane = 4 { }", "1:11: unknown number of a target lane, did", "^^^^"),
    "constant": ("let lanes = 4", "1:5: lanes has a value already", "^^^^^"),
    "literal": ("linear { literal() panel(8) }", "1:10: literal() leaves no loops", "^^^^^^^"),
    "twice": ("linear { panel(16) panel(8) }", "1:20: panel is given twice", "^^^^^"),
    "unfinished": ("relu { tile(h, 8)", "1:18: expected ',', 'try', '}' or a name, fo", "^"),
    "no brace": ("relu tile(h, 8)", "1:10: expected a comparison such as =, found '('", "^"),
    "character": ("relu { % }", "1:8: expected 'try', '}' or a name, found '%'", "^"),
    "empty rule": ("{ }", "1:1: expected '*', 'let', a name or the end, found '{'", "^"),
    "fits nothing": (
        "linear n=47 { }",
        "1:1: no op is a 'linear n=47'; the model has li",
        "^^^^^^",
    ),
}


@pytest.mark.parametrize(("text", "message", "mark"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_shown(text: str, message: str, mark: str) -> None:
    with pytest.raises(KaokenError) as caught:
        applied(text)
    sentence, line, marked = str(caught.value).split("\n")
    place = f"schedule:{message}"
    assert sentence.startswith(place)
    row, column = map(int, message.split(":")[:2])
    assert line == "    " + text.split("\n")[row - 1]
    assert marked == " " * (column + 3) + mark


LINEAR = "linear n=48 {{ panel(16) {} }}"
ILLEGAL = {
    "unknown loop": (
        "tile(mm, 8)",
        "there is no loop mm at this point; the loops are m, n0, n1, k",
    ),
    "split twice": ("tile(m, 8) tile(m, 4)", "m is in blocks already: split m_in"),
    "dependent": ("tile(m, 8) order(m_in, m)", "loop m_in cannot stand outside m: its bounds dep"),
    "reduction": ("order(k, m)", "the reduction k cannot stand outside m: its sum belongs to one"),
    "open": ("vectorize(m)", "m has no known extent: tile it first"),
    "not nested": ("vectorize(n0, m)", "m is not alone in, and right inside, n0"),
    "no vectors": (
        "vectorize(n1) vectorize(n0)",
        "n0 cannot be widened: vectors of memref<3x16x16",
    ),
    "blocks": ("tile(n1, 4) vectorize(n1)", "n1 is a loop over blocks: widen n1_in"),
    "blocks inside": ("tile(n1, 4) vectorize(n0, n1)", "n1 is a loop over blocks: widen n1_in"),
    "too many rows": ("tile(m, 65) vectorize(m_in)", "m_in has up to 65 iterations: 64 at"),
    "gone": ("vectorize(n1) unroll(n1, 4)", "there is no loop n1 at this point; the loops are m, "),
    "divided sum": ("parallel(k)", "the reduction k cannot be divided: sums must not depend on"),
    "nothing to prefetch": ("prefetch(k, 8)", "the reduction k reads no whole cache line at each"),
    "prefetch gone": ("vectorize(n1) prefetch(n1, 8)", "there is no loop n1 at this point"),
    "divided inside": ("tile(k, 4) parallel(k_in)", "the reduction k_in cannot be divided"),
}


@pytest.mark.parametrize(("directives", "reason"), ILLEGAL.values(), ids=ILLEGAL.keys())
def test_what_loops_refuse(directives: str, reason: str) -> None:
    text = LINEAR.format(directives)
    last = directives.split(") ")[-1]
    with pytest.raises(KaokenError) as caught:
        applied(text)
    sentence, _, marked = str(caught.value).split("\n")
    assert f": {last} for linear k=16 n=48: {reason}" in sentence
    assert f"schedule:1:{text.index(last) + 1}: " in sentence
    assert marked.strip() == "^" * last.index("(")


OTHERS = {
    "panel width": (
        "linear n=48 { panel(20) }",
        "20 is no multiple of the 16 floats of a register",
    ),
    "panel of relu": ("relu { panel(16) }", "relu has no panels: linear and attention have"),
    "literal relu": ("relu { literal() }", "relu has no weights to write into the code"),
    "row loops": ("softmax { parallel(h) }", "the loop h cannot be divided: it is not alone in"),
}


@pytest.mark.parametrize(("text", "reason"), OTHERS.values(), ids=OTHERS.keys())
def test_what_other_ops_refuse(text: str, reason: str) -> None:
    with pytest.raises(KaokenError, match=reason):
        applied(text)


def test_a_panel_may_be_as_wide_as_the_layer() -> None:
    assert applied("linear n=48 { panel(48) } linear n=16 { panel(20) }", V3)["linear"] == [
        "panel(48)",
        "panel(20)",
    ]


def test_try_lets_the_impossible_pass() -> None:
    text = "linear n=48 { try tile(mm, 8) try order(k, m) parallel(m) }"
    assert applied(text)["linear"] == ["tile(mm, 8) order(k, m) parallel(m)", ""]


def test_packed_weights_keep_their_panels() -> None:
    module = apply_passes(model(), "choose-schedule{target=x86-64-v4},bake")
    with pytest.raises(KaokenError, match="packed in panels of 16 already"):
        apply_passes(module, 'apply-schedule{file="linear n=48 { panel(48) }"}')


def test_an_unused_rule_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        applied("relu { parallel(m) }\ngelu n=3 { parallel(m) }")
    assert "schedule:2: no op is a 'gelu n=3'; the model has linear k=16 n=48" in caplog.text


def test_strict_ops_refuse_in_the_passes() -> None:
    schedule = "{schedule = #kaoken.schedule<tile(h, 8), vectorize(m, h_in)>, kaoken.strict}"
    text = TEXT.replace("kaoken.relu %y", f"kaoken.relu %y {schedule}")
    module = parse_module(text)
    fill_weights(module)
    with pytest.raises(
        DirectiveRefused, match=r"the schedule of \w*relu: vectorize\(m, h_in\): h_in"
    ):
        apply_passes(module, "vectorize")
    apply_passes(parse_module(text.replace(", kaoken.strict", "")), "choose-schedule")


def test_strict_ops_may_be_lowered_by_the_whole_pipeline() -> None:
    schedule = "{schedule = #kaoken.schedule<tile(h, 8), vectorize(h_in)>, kaoken.strict}"
    module = parse_module(TEXT.replace("kaoken.relu %y", f"kaoken.relu %y {schedule}"))
    fill_weights(module)
    apply_passes(module, "choose-schedule,tile,reorder,vectorize,unroll,parallelize{threads=2}")


@pytest.mark.parametrize("machine", [V3, V4, TargetMachine.parse("generic")], ids=lambda m: m.name)
def test_printed_schedules_come_back(machine: TargetMachine) -> None:
    chosen = apply_passes(model(), f'choose-schedule{{target="{machine.name}"}}')
    text = print_schedules(chosen, machine, make_context())
    again = model()
    apply_schedule(again, parse_schedule(text), machine, make_context())
    again.attributes.update(chosen.attributes)
    assert str(again) == str(chosen)
    assert print_schedules(again, machine, make_context()) == text


DIFFERENT = """
func.func @main(%x: tensor<?x16xf32> {kaoken.shape = #kaoken.shape<[rows, 16]>})
    -> tensor<?x16xf32> attributes {kaoken.max = {rows = 9 : i64}} {
  %v = kaoken.weight "a" : tensor<16x16xf32>
  %w = kaoken.weight "b" : tensor<16x16xf32>
  %0 = kaoken.linear %x, %v {schedule = #kaoken.schedule<tile(m, 2)>}
    : tensor<?x16xf32>, tensor<16x16xf32> -> tensor<?x16xf32>
  %1 = kaoken.linear %0, %w {schedule = #kaoken.schedule<tile(m, 3)>}
    : tensor<?x16xf32>, tensor<16x16xf32> -> tensor<?x16xf32>
  %2 = kaoken.relu %1 {schedule = #kaoken.schedule<parallel(m)>}
    : tensor<?x16xf32> -> tensor<?x16xf32>
  %3 = kaoken.relu %2 {schedule = #kaoken.schedule<tile(h, 4)>}
    : tensor<?x16xf32> -> tensor<?x16xf32>
  %4 = kaoken.relu %3 : tensor<?x16xf32> -> tensor<?x16xf32>
  return %4 : tensor<?x16xf32>
}
"""


def test_equal_ops_with_different_schedules_come_back() -> None:
    module = parse_module(DIFFERENT)
    text = print_schedules(module, V4, make_context())
    assert 'linear "b" k=16' in text
    assert "relu nth=1 {" in text
    again = parse_module(DIFFERENT)
    for part in parts_of(again):
        part.op.properties.pop("schedule", None)
        part.op.attributes.pop("schedule", None)
    apply_schedule(again, parse_schedule(text), V4, make_context())
    assert str(again) == str(module)


def test_printing_marks_what_is_refused() -> None:
    text = DIFFERENT.replace("<tile(h, 4)>", "<tile(q, 4), parallel(m)>")
    printed = print_schedules(parse_module(text), V4, make_context())
    assert "    try tile(q, 4)\n    parallel(m)\n" in printed


BLOCKS = (
    "linear {{ try panel({}) tile(m, {}) order(n0, m, m_in, n1) "
    "vectorize(m_in, n1) unroll(k, {}) }}"
)


def test_changed_tiles_give_other_code_and_equal_results(tmp_path: Path) -> None:
    machine, module = TargetMachine.native(), model()
    inputs = random_inputs(module, {"rows": 33})
    expected = run_module(module, inputs)
    codes: list[str] = []
    for sizes in ((16, 4, 2), (8, 6, 4)):
        text = BLOCKS.format(*sizes)
        passes = f'apply-schedule{{file="{text}"}},choose-schedule,vectorize,unroll,lower-math'
        lowered = apply_passes(module, f"{passes},plan-memory")
        codes.append(print_module(lowered, machine).code)
        stage = compile_stage(lowered, tmp_path / f"panel{sizes[0]}", machine)
        assert_close(expected, run_stage(stage, inputs), 1e-5)
    assert "#pragma GCC unroll 2\n    " in codes[0]
    assert re.search(r"m\w* \+= 4", codes[0])
    assert re.search(r"m\w* \+= 6", codes[1])
    assert codes[0] != codes[1]


def test_compile_takes_a_schedule(tmp_path: Path) -> None:
    file = tmp_path / "small.schedule"
    file.write_text(
        "linear n=48 { panel(8) tile(m, 2) order(n0, m, m_in, n1) }\nlinear n=16 { literal() }"
    )
    x = np.random.default_rng(1).standard_normal((9, 16)).astype(np.float32)
    (expected,) = run_module(model(), [x])
    for given in (file, file.read_text()):
        compile_module(model(), tmp_path / "m", CompileOptions("generic", schedule=given))
        code = (tmp_path / "m" / "m.c").read_text()
        assert re.search(r"m\w* \+= 2", code)
        assert "literal_48x16" in code
        np.testing.assert_allclose(load(tmp_path / "m")(x), expected, atol=1e-5)


def test_missing_file() -> None:
    with pytest.raises(KaokenError, match="cannot read the schedule /nowhere: No such file"):
        read_schedule(Path("/nowhere"))


def test_errors_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, schedule = tmp_path / "m.mlir", tmp_path / "bad.schedule"
    source.write_text(DIFFERENT)
    schedule.write_text("relu {\n    tile(h, 8)\n    vectorise(h_in)\n}\n")
    with pytest.raises(SystemExit):
        kaoken_opt.main([str(source), "-p", f'apply-schedule{{file="{schedule}"}}'])
    assert capsys.readouterr().err == (
        "error: bad.schedule:3:5: unknown directive vectorise, did you mean vectorize? Known: "
        "literal, lookup, order, panel, parallel, prefetch, skip, tensorize, tile, unroll, "
        "vectorize\n"
        "        vectorise(h_in)\n"
        "        ^^^^^^^^^\n"
    )


def test_the_sample_file_schedules_an_encoder() -> None:
    module = model()
    sample = read_schedule(Path(__file__).parents[2] / "examples" / "encoder.schedule")
    apply_schedule(module, sample, V3, make_context())
    first, second = [part.schedule for part in parts_of(module) if part.name == "linear"]
    assert first is not None
    assert second is not None
    assert text_of(first).startswith("panel(16) tile(m, 256) tile(m_in, 5) order(m, n0, ")


def test_a_refused_vectorize_leaves_nothing_behind() -> None:
    module = parse_module(ATTENTION.replace("CAUSAL", "true"))
    rule = "attention { try vectorize(e0) try vectorize(bh) vectorize(lane) }"
    passes = f'apply-schedule{{target=x86-64-v4 file="{rule}"}},vectorize,lower-math,plan-memory'
    code = print_module(apply_passes(module, passes), V4).code
    assert "#include <immintrin.h>" in code


def test_the_schedules_of_the_page_are_read() -> None:
    page = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text()
    blocks = re.findall(r"```schedule\n(.*?)```", page, re.DOTALL)
    rules = [len(parse_schedule(block).rules) for block in blocks]
    assert rules == [6, 1]
    (layer,) = re.findall(r"```mlir\n(.*?)```", page, re.DOTALL)
    assert print_schedules(
        apply_passes(parse_module(layer), "choose-schedule{target=x86-64-v3}"), V3, make_context()
    ).startswith("# Schedules for x86-64-v3")


REDUCE = """
func.func @main(%x: tensor<?x5x7xf32> {kaoken.shape = #kaoken.shape<[rows, 5, 7]>})
    -> tensor<5xf32> attributes {kaoken.max = {rows = 9 : i64}} {
  %y = kaoken.reduce sum %x over [0, 2] : tensor<?x5x7xf32> -> tensor<5xf32>
  return %y : tensor<5xf32>
}
"""


def test_a_kernel_without_loops_to_divide_is_one_members(tmp_path: Path) -> None:
    module, machine = parse_module(REDUCE), TargetMachine.native()
    passes = 'apply-schedule{file="reduce { vectorize(h) }"},parallelize{threads=2},plan-memory'
    inputs = random_inputs(module, {"rows": 9})
    stage = compile_stage(apply_passes(module, passes), tmp_path / "stage", machine, threads=2)
    assert_close(run_module(module, inputs), run_stage(stage, inputs), 1e-5)
