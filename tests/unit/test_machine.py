"""Targets by name, their features and flags."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kaoken.backend import machine
from kaoken.backend.machine import TargetMachine, cpu_flags
from kaoken.backend.targets import all_targets
from kaoken.errors import KaokenError


@pytest.mark.parametrize(
    "name",
    ["generic", "x86-64-v3", "x86-64-v4", "x86-64-v4+vnni", "x86-64-v4+vnni+bf16+amx"],
)
def test_parse_gives_its_name_back(name: str) -> None:
    assert TargetMachine.parse(name).name == name


def test_features_have_one_order() -> None:
    machine = TargetMachine.parse("x86-64-v4+bf16+vnni")
    assert machine == TargetMachine.parse("x86-64-v4+vnni+bf16")
    assert {"avx512_vnni", "avx512_bf16"} <= set(machine.cpu_flags)
    assert "-mavx512bf16" in machine.compiler_flags("gcc")


def test_lanes() -> None:
    assert TargetMachine.parse("generic").lanes() == 1
    assert TargetMachine.parse("x86-64-v3").lanes(32) == 8
    assert TargetMachine.parse("x86-64-v4").lanes(16) == 32
    assert TargetMachine.parse("x86-64-v4").lane_count == 16


def test_unknown_target_lists_the_known() -> None:
    with pytest.raises(KaokenError, match=r"unknown target 'arm'; known targets: generic, "):
        TargetMachine.parse("arm")


def test_unknown_feature_lists_the_known() -> None:
    known = "vnni, bf16, slow-bf16, vbmi, amx"
    with pytest.raises(KaokenError, match=rf"no feature 'sme'; known features: {known}"):
        TargetMachine.parse("x86-64-v4+sme")


def test_clang_keeps_whole_registers() -> None:
    for family in ("clang", "zig"):
        flags = TargetMachine.parse("x86-64-v4").compiler_flags(family)
        assert "-mprefer-vector-width=512" in flags
    with pytest.raises(KaokenError, match="unknown compiler family 'msvc'"):
        TargetMachine.parse("generic").compiler_flags("msvc")


def test_native_is_what_this_cpu_runs() -> None:
    machine = TargetMachine.parse("native")
    assert machine is TargetMachine.native()
    assert cpu_flags().issuperset(machine.cpu_flags)
    assert machine.l1_bytes > 0
    assert TargetMachine.parse(machine.name) == machine


def test_text_says_the_caches_that_schedules_are_chosen_for() -> None:
    for one in (TargetMachine.native(), TargetMachine.parse("x86-64-v4+vnni+l1=48K+l2=2M")):
        read = TargetMachine.parse(one.text)
        assert (read, read.text) == (one, one.text)
        assert (read.l1_bytes, read.l2_bytes) == (one.l1_bytes, one.l2_bytes)
        assert read.l3_bytes == one.l3_bytes
    assert one.text == "x86-64-v4+vnni+l1=48K+l2=2M"
    assert TargetMachine.parse("x86-64-v4").text == "x86-64-v4"
    assert TargetMachine.parse("x86-64-v4+l1=3000").l1_bytes == 3000
    with pytest.raises(KaokenError, match="'l2=big' is no cache; write l1=, l2= or l3= and a size"):
        TargetMachine.parse("x86-64-v4+l2=big")


def test_native_runs_here_and_other_architectures_do_not() -> None:
    assert TargetMachine.native().runs_here()
    assert TargetMachine.parse("generic").runs_here()
    targets = ["x86-64-v3", "aarch64-neon"]
    assert not all(TargetMachine.parse(name).runs_here() for name in targets)


def test_a_feature_that_the_system_withholds_is_not_native(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = all_targets()["x86-64-v4"].features["amx"]
    assert unit.matrix_unit is not None
    withheld = replace(unit, cpu_flags=(), is_granted=lambda: False)
    target = replace(all_targets()["generic"], features={"amx": withheld}, rank=99)
    monkeypatch.setattr(machine, "all_targets", lambda: {"generic": target})
    machine._native.cache_clear()
    try:
        assert TargetMachine.native().name == "generic"
        assert TargetMachine.native().matrix_unit is None
        assert not TargetMachine.parse("generic+amx").runs_here()
    finally:
        machine._native.cache_clear()


def test_the_matrix_unit_takes_all_its_registers() -> None:
    unit = TargetMachine.parse("x86-64-v4+amx").matrix_unit
    assert unit is not None
    down, across = unit.block
    assert down * across + down + across == 8
    assert TargetMachine.parse("x86-64-v4+vnni").matrix_unit is None


def test_every_target_describes_itself() -> None:
    assert {"generic", "x86-64-v3", "x86-64-v4"} <= set(all_targets())
    for name, target in all_targets().items():
        assert target.name == name
        assert target.vector_registers > 0


@pytest.mark.parametrize(
    ("target", "is_quick"),
    [
        ("generic", False),
        ("x86-64-v3", False),
        ("x86-64-v4+vnni", False),
        ("x86-64-v4+vnni+bf16", True),
        ("x86-64-v4+vnni+bf16+slow-bf16", False),
        ("x86-64-v4+bf16+slow-bf16+amx", True),
        ("aarch64-neon", False),
    ],
)
def test_products_of_bf16_are_quick_by_two_a_lane_or_a_matrix_unit(
    target: str, is_quick: bool
) -> None:
    assert TargetMachine.parse(target).has_quick_bf16 == is_quick
