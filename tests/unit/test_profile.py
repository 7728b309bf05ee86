"""Timers of kernels: what they count, in every thread, and that they change nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import kaoken
from kaoken.compiled_model import CompiledModel
from kaoken.errors import KaokenError

MLIR = """
func.func @main(
    %x: tensor<?x64xf32> {kaoken.shape = #kaoken.shape<[tokens, 64]>, kaoken.name = "x"}
) -> tensor<?x64xf32> attributes {kaoken.max = {tokens = 40}, kaoken.results = ["y"]} {
  %w = arith.constant dense<0.0078125> : tensor<160x64xf32>
  %v = arith.constant dense<0.015625> : tensor<64x160xf32>
  %h = kaoken.linear %x, %w : tensor<?x64xf32>, tensor<160x64xf32> -> tensor<?x160xf32>
  %g = kaoken.tanh %h : tensor<?x160xf32> -> tensor<?x160xf32>
  %y = kaoken.linear %g, %v : tensor<?x160xf32>, tensor<64x160xf32> -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}
"""
TOKENS = 7
X = np.linspace(-1, 1, TOKENS * 64, dtype=np.float32).reshape(TOKENS, 64)


def compiled(folder: Path, **options: object) -> CompiledModel:
    path = folder / "model.mlir"
    path.write_text(MLIR)
    out = folder / "-".join(["out", *map(str, options.values())])
    return kaoken.compile(path, out=out, **options)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("threads", [1, 2])
def test_ops_are_counted_and_timed(threads: int, tmp_path: Path) -> None:
    model = compiled(tmp_path, threads=threads, profile=True)
    start = time.perf_counter()
    ops = model.profile(x=X, seconds=0.01)
    elapsed = time.perf_counter() - start
    assert [op.kernel for op in ops] == ["linear_64x160_tanh", "linear_160x64"]
    assert all(op.calls == 1 and op.caller == "main" for op in ops)
    assert [op.flops for op in ops] == [2 * 64 * 160 * TOKENS] * 2
    assert [op.bytes for op in ops] == [4 * (64 * 160 + (64 + 160) * TOKENS)] * 2
    assert 0 < sum(op.seconds for op in ops) < elapsed
    assert all((op.waited > 0) == (threads > 1) for op in ops)
    assert ops[0].intensity == pytest.approx(ops[0].rate / ops[0].bandwidth)


def test_timers_change_no_result(tmp_path: Path) -> None:
    plain, timed = compiled(tmp_path), compiled(tmp_path, profile=True)
    np.testing.assert_array_equal(plain(X), timed(X))
    assert "kk_lap" in (timed.folder / f"{timed.name}.c").read_text()
    assert "lap" not in (plain.folder / f"{plain.name}.c").read_text()
    assert "timer" not in (plain.folder / f"{plain.name}.h").read_text()


def test_a_plain_model_has_no_timers(tmp_path: Path) -> None:
    with pytest.raises(KaokenError, match=r"has no timers: compile it with profile=True"):
        compiled(tmp_path).profile(X)


def test_the_cache_tells_the_two_apart(tmp_path: Path) -> None:
    path = tmp_path / "model.mlir"
    path.write_text(MLIR)
    folders = {kaoken.compile(path, profile=profile).folder for profile in (False, True)}
    assert len(folders) == 2


def test_timers_are_reset_and_read_by_thread(tmp_path: Path) -> None:
    model = compiled(tmp_path, threads=2, profile=True)
    library = model._library
    context = library.create_context(2)
    handle, y = context.handle, np.empty((TOKENS, 64), np.float32)
    for _ in range(3):
        context.run([X.ctypes.data, y.ctypes.data], [TOKENS])
    for thread in (0, 1):
        values = library.read_timers(handle, thread)
        assert values[:, 0].tolist() == [3, 3]
        assert (values[:, 1:] >= 0).all()
    library.reset_timers(handle)
    assert not library.read_timers(handle, 1).any()
    assert not library.read_timers(handle, 2).any(), "there is no third thread"
