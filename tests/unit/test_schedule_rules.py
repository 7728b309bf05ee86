"""Schedules given as text: what they change, and what is wrong with them."""

from pathlib import Path

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from kaoken.compiler import CompileOptions, compile_module, load
from kaoken.dialect.reference import run_module
from kaoken.errors import KaokenError
from kaoken.modules import parse_module
from kaoken.schedule.rules import apply_rules, read_rules
from kaoken.weights import WeightStore, attach_store

TEXT = """
func.func @main(%x: tensor<?x16xf32> {kaoken.shape = #kaoken.shape<[rows, 16]>, kaoken.name = "x"})
    -> tensor<?x24xf32> attributes {kaoken.max = {rows = 9 : i64}, kaoken.results = ["y"]} {
  %w = kaoken.weight "w" : tensor<24x16xf32>
  %y = kaoken.linear %x, %w : tensor<?x16xf32>, tensor<24x16xf32> -> tensor<?x24xf32>
  func.return %y : tensor<?x24xf32>
}
"""
SCHEDULE = """
# two rows of eight columns
linear 16x24: panel(8), tile(m, 2), order(n0, m, m_in, n1), vectorize(m_in, n1), parallel(n0)
"""


def linear_module() -> ModuleOp:
    module = parse_module(TEXT)
    store = WeightStore()
    generator = np.random.default_rng(0)
    store.add("w", generator.standard_normal((24, 16)).astype(np.float32))
    attach_store(module, store)
    return module


def test_given_schedule_is_used(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((9, 16)).astype(np.float32)
    (expected,) = run_module(linear_module(), [x])
    options = CompileOptions("generic", schedule=SCHEDULE)
    compile_module(linear_module(), tmp_path / "m", options)
    assert "n0 < 3" in (tmp_path / "m" / "m.c").read_text()
    model = load(tmp_path / "m")
    for rows in (1, 2, 9):
        np.testing.assert_allclose(model(x[:rows]), expected[:rows], atol=1e-5)


def test_file_and_text_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "schedule.txt").write_text(SCHEDULE)
    assert read_rules(tmp_path / "schedule.txt") == read_rules(SCHEDULE)


WRONG = {
    "no rule": ("linear panel(8): \n", "line 1: expected `op: directive"),
    "no directive": ("\nlinear: panel(\n", "schedule, line 2"),
    "no such op": ("attention: tile(i, 4)", "the schedule names attention, .* has linear 16x24"),
    "no such size": ("linear 1x2: panel(8)", "the schedule names linear 1x2"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_schedules(text: str, message: str) -> None:
    with pytest.raises(KaokenError, match=message):
        apply_rules(linear_module(), text)


def test_missing_file() -> None:
    with pytest.raises(KaokenError, match="cannot read the schedule /nowhere"):
        apply_rules(linear_module(), Path("/nowhere"))
