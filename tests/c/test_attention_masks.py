"""Attention under every kind of mask, as compiled C, compared with the reference semantics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaoken.backend.machine import TargetMachine, cpu_flags
from kaoken.compiled_model import CompiledModel
from kaoken.dialect.reference import run_module
from kaoken.modules import parse_module
from tests.c.stages import compile_stage, run_stage
from tests.helpers import apply_passes, assert_close

BATCH, HEADS, SIZE = 3, 4, 20
WIDTH = HEADS * SIZE
TOKENS = (1, 7, 17, 40, 129)
TARGETS = ("generic", "x86-64-v3", "x86-64-v4")
PASSES = "softmax-base-two,parallelize{threads=2},vectorize,lower-math,plan-memory"
SHAPES = {
    "none": None,
    "key bool": ("batch, 1, 1, tokens", "?x1x1x?xi1"),
    "key float": ("batch, 1, 1, tokens", "?x1x1x?xf32"),
    "full bool": ("batch, 1, tokens, tokens", "?x1x?x?xi1"),
    "one for all heads": ("1, 1, tokens, tokens", "1x1x?x?xi1"),
    "full float": ("1, 4, tokens, tokens", "1x4x?x?xf32"),
}
LOWEST = np.finfo(np.float32).min


ORDERS = {"any order": "false", "causal": "true", "causal window": "true, window = 5"}
"""What `causal` may be."""


def text(mask: str, order: str = "any order", bf16: bool = False) -> str:
    """The module: grouped heads, a value width of its own, all sizes open but the heads'."""
    argument, use = "", ""
    if (shape := SHAPES[mask]) is not None:
        sizes, type_ = shape
        argument = (
            f', %m: tensor<{type_}> {{kaoken.shape = #kaoken.shape<[{sizes}]>, kaoken.name = "m"}}'
        )
        use = f" mask %m : tensor<{type_}>"
    q, k = f"tensor<?x?x{WIDTH}xf32>", f"tensor<?x?x{WIDTH // 2}xf32>"
    whole = f"[batch, tokens, {2 * WIDTH}]"
    return f"""
func.func @main(
    %x: tensor<?x?x{2 * WIDTH}xf32> {{kaoken.shape = #kaoken.shape<{whole}>, kaoken.name = "x"}}{argument})
    -> {q} attributes {{kaoken.max = {{batch = {BATCH}, tokens = {max(TOKENS)}}}}} {{
  %q = kaoken.slice %x <[0, {WIDTH}]> {{dim = 2}} : tensor<?x?x{2 * WIDTH}xf32> -> {q}
  %k = kaoken.slice %x <[{WIDTH}, {WIDTH * 3 // 2}]> {{dim = 2}} : tensor<?x?x{2 * WIDTH}xf32> -> {k}
  %v = kaoken.slice %x <[{WIDTH * 3 // 2}, {2 * WIDTH}]> {{dim = 2}} : tensor<?x?x{2 * WIDTH}xf32> -> {k}
  %y = kaoken.attention %q, %k, %v{use}
    {{num_heads = {HEADS}, num_kv_heads = {HEADS // 2}, scale = 0.3 : f64,
      causal = {ORDERS[order]}{", bf16_products" if bf16 else ""}}} : {q}, {k}, {k} -> {q}
  return %y : {q}
}}"""  # noqa: E501


def compiled(source: str, target: str, folder: Path, passes: str = PASSES) -> CompiledModel:
    machine = TargetMachine.parse(target)
    if not set(machine.cpu_flags) <= cpu_flags():
        pytest.skip(f"this CPU does not run {target}")
    lowered = apply_passes(parse_module(source), f'choose-schedule{{target="{target}"}},{passes}')
    return compile_stage(lowered, folder / "stage", machine, 2)


def tokens_of(batch: int, tokens: int) -> np.ndarray:
    random = np.random.default_rng((batch, tokens))
    return random.standard_normal((batch, tokens, 2 * WIDTH)).astype(np.float32)


def masks_of(kind: str, batch: int, tokens: int) -> list[list[np.ndarray]]:
    """Masks worth a test: what is hidden lies at the end, the beginning, between, or is all."""
    random = np.random.default_rng(tokens)
    if kind == "none":
        return [[]]
    if kind.startswith("key"):
        keep = np.stack([_visible(row, tokens, random) for row in range(batch)])[:, None, None]
        variants = [keep, np.roll(keep, 1, axis=0), np.zeros_like(keep)]
        return [[_as(kind, m, random)] for m in variants]
    if kind == "one for all heads":
        at = np.arange(tokens)
        return [[(np.abs(at - at[:, None]) <= 3)[None, None]]]
    if kind == "full float":
        return [[random.standard_normal((1, HEADS, tokens, tokens)).astype(np.float32)]]
    keep = random.random((batch, 1, tokens, tokens)) < 0.4
    keep[0, :, :, tokens // 2 :] = False
    return [[keep]]


def _visible(row: int, tokens: int, random: np.random.Generator) -> np.ndarray:
    """The first three fifths; the last half; any."""
    at = np.arange(tokens)
    kinds = [at < -(-tokens * 3 // 5), at >= tokens // 2, random.random(tokens) < 0.5]
    return kinds[row % 3]


def _as(kind: str, keep: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A float mask adds a little to what is seen, and hides in all ways that occur."""
    if kind == "key bool":
        return keep
    seen = random.standard_normal(keep.shape)
    ways = np.array([-np.inf, LOWEST, -1e9])[random.integers(0, 3, keep.shape)]
    return np.where(keep, seen, ways).astype(np.float32)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mask", SHAPES)
def test_equals_the_reference(mask: str, order: str, target: str, tmp_path: Path) -> None:
    source = text(mask, order)
    module, model = parse_module(source), compiled(source, target, tmp_path)
    for tokens in TOKENS:
        for given in masks_of(mask, BATCH, tokens):
            inputs = [tokens_of(BATCH, tokens), *given]
            assert_close(run_module(module, inputs), run_stage(model, inputs), 1e-5)


@pytest.mark.parametrize("target", ["generic", "x86-64-v4+vnni+bf16", "x86-64-v4+bf16+amx"])
@pytest.mark.parametrize("mask", SHAPES)
def test_bf16_equals_the_reference(mask: str, target: str, tmp_path: Path) -> None:
    source = text(mask, "causal" if mask == "key bool" else "any order", True)
    module, model = parse_module(source), compiled(source, target, tmp_path)
    for tokens in TOKENS:
        inputs = [tokens_of(BATCH, tokens), *masks_of(mask, BATCH, tokens)[0]]
        # An exponential may round to the other neighbour, by 2^-9 of itself.
        assert_close(run_module(module, inputs), run_stage(model, inputs), 2e-2)


@pytest.mark.parametrize("target", [*TARGETS, "x86-64-v4+bf16+amx"])
def test_capped_scores(target: str, tmp_path: Path) -> None:
    """Before the mask is added; with products of bf16 on the matrix unit."""
    bf16 = "amx" in target
    source = text("key float", "causal", bf16).replace("scale =", "softcap = 0.5, scale =")
    module, model = parse_module(source), compiled(source, target, tmp_path)
    for tokens in TOKENS:
        for given in masks_of("key float", BATCH, tokens):
            inputs = [tokens_of(BATCH, tokens), *given]
            assert_close(
                run_module(module, inputs), run_stage(model, inputs), 2e-2 if bf16 else 1e-5
            )


@pytest.mark.parametrize("bf16", [False, True], ids=["f32", "bf16"])
def test_keys_passed_over_change_no_bit(bf16: bool, tmp_path: Path) -> None:
    """-1e30 hides as well as -inf, but is no reason to pass over a key."""
    model = compiled(text("key float", bf16=bf16), "native", tmp_path)
    for tokens in TOKENS:
        x = tokens_of(BATCH, tokens)
        keep = masks_of("key bool", BATCH, tokens)[0][0]
        keep[:, :, :, tokens // 2] = True
        results: list[Any] = [
            run_stage(model, [x, np.where(keep, 0, hidden).astype(np.float32)])[0]
            for hidden in (-1e30, LOWEST, -np.inf)
        ]
        np.testing.assert_array_equal(results[0], results[1])
        np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("bf16", [False, True], ids=["f32", "bf16"])
def test_padding_and_company_change_no_bit(bf16: bool, tmp_path: Path) -> None:
    """A text alone, and the same one padded, in a batch of others."""
    model = compiled(text("key bool", "causal", bf16), "native", tmp_path)
    x = tokens_of(BATCH, 129)
    lengths = (129, 17, 64)
    keep = np.stack([np.arange(129) < n for n in lengths])[:, None, None]
    together = run_stage(model, [x, keep])[0]
    for row, length in enumerate(lengths):
        alone = [x[row : row + 1, :length].copy(), np.ones((1, 1, 1, length), np.bool_)]
        np.testing.assert_array_equal(run_stage(model, alone)[0][0], together[row, :length])


def test_padding_is_not_read(tmp_path: Path) -> None:
    """Where none of 32 keys in a row is seen, they may even be NaN."""
    model = compiled(text("key bool"), "native", tmp_path)
    x, keep = tokens_of(BATCH, 129), np.zeros((BATCH, 1, 1, 129), np.bool_)
    keep[:, :, :, 40:70] = True
    expected = run_stage(model, [x, keep])[0]
    x[:, :32, WIDTH:] = x[:, 96:, WIDTH:] = np.nan
    np.testing.assert_array_equal(run_stage(model, [x, keep])[0], expected)
