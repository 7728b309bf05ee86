"""The kernels of decoders, compiled, against the reference: positions, caches, attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kaoken.compiler import CompileOptions, compile_module, load
from kaoken.dialect.reference import run_module
from kaoken.errors import KaokenError
from kaoken.modules import parse_module
from tests.helpers import apply_passes, assert_same_before_and_after

TARGETS = ("generic", "native")


def check(text: str, inputs: list[np.ndarray], target: str, folder: Path) -> None:
    """Compiled, the module gives what the reference does, to float32."""
    module = parse_module(text)
    (wanted,) = run_module(module, inputs)
    compile_module(module, folder, CompileOptions(target=target))
    np.testing.assert_allclose(load(folder)(*inputs), wanted, rtol=0, atol=1e-5)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype("f4")


def rope(tokens: int, heads: int, size: int, pairs: int, interleaved: str) -> str:
    x, table = f"tensor<1x{tokens}x{heads * size}xf32>", f"tensor<{tokens}x{pairs}xf32>"
    return f"""
    func.func @main(%x: {x}, %c: {table}, %s: {table}) -> {x} {{
      %y = kaoken.rope %x, %c, %s {{num_heads = {heads} : i64, interleaved = {interleaved}}}
        : {x}, {table}, {table} -> {x}
      func.return %y : {x}
    }}"""


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("interleaved", ["true", "false"])
@pytest.mark.parametrize(
    ("tokens", "heads", "size", "pairs"), [(1, 1, 2, 1), (7, 3, 64, 32), (17, 2, 20, 5)]
)
def test_rope(
    tokens: int, heads: int, size: int, pairs: int, interleaved: str, target: str, tmp_path: Path
) -> None:
    inputs = [random(1, tokens, heads * size), random(tokens, pairs), random(tokens, pairs) + 1]
    check(rope(tokens, heads, size, pairs, interleaved), inputs, target, tmp_path / "m")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("layout", ["rows", "panels"])
def test_cache(layout: str, target: str, tmp_path: Path) -> None:
    """What is written is read; a second append goes over the first one's rows."""
    cache = f"!kaoken.cache<[150, 3, 5], f32, {layout}>"
    text = f"""
    func.func @main(%x: tensor<1x129x15xf32>, %z: tensor<1x7x15xf32>) -> tensor<1x131x15xf32> {{
      %c = kaoken.cache "c" : {cache}
      kaoken.cache_append %x to %c at <[0]> : tensor<1x129x15xf32>, {cache}
      kaoken.cache_append %z to %c at <[124]> : tensor<1x7x15xf32>, {cache}
      %y = kaoken.cache_read %c to <[131]> : {cache} -> tensor<1x131x15xf32>
      func.return %y : tensor<1x131x15xf32>
    }}"""
    check(text, [random(1, 129, 15), random(1, 7, 15)], target, tmp_path / "m")


def attention(tokens: int, heads: int, groups: int, size: int, window: int | None) -> str:
    keys = f"!kaoken.cache<[150, {groups}, {size}], f32, panels>"
    values = keys.replace("panels", "rows")
    q, k = f"tensor<1x{tokens}x{heads * size}xf32>", f"tensor<1x{tokens}x{groups * size}xf32>"
    seen = "" if window is None else f", window = {window} : i64"
    return f"""
    func.func @main(%q: {q}, %x: {k}, %v: {k}) -> {q} {{
      %c = kaoken.cache "c" : {keys}
      %d = kaoken.cache "d" : {values}
      kaoken.cache_append %x to %c at <[0]> : {k}, {keys}
      kaoken.cache_append %v to %d at <[0]> : {k}, {values}
      %k = kaoken.cache_read %c to <[{tokens}]> : {keys} -> {k}
      %u = kaoken.cache_read %d to <[{tokens}]> : {values} -> {k}
      %y = kaoken.attention %q, %k, %u {{num_heads = {heads} : i64, num_kv_heads = {groups} : i64,
        scale = 0.3 : f64, causal = true{seen}}} : {q}, {k}, {k} -> {q}
      func.return %y : {q}
    }}"""


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("tokens", "heads", "groups", "size", "window"),
    [(1, 1, 1, 1, None), (129, 9, 3, 64, None), (70, 7, 1, 12, 5), (65, 16, 1, 8, 64)],
)
def test_attention(
    tokens: int,
    heads: int,
    groups: int,
    size: int,
    window: int | None,
    target: str,
    tmp_path: Path,
) -> None:
    inputs = [random(1, tokens, n * size) for n in (heads, groups, groups)]
    check(attention(tokens, heads, groups, size, window), inputs, target, tmp_path / "m")


def attention_to_a_source(queries: int, keys: int, causal: str, origin: int, columns: int) -> str:
    """Queries over all keys of caches, or over those before them, with a bias of distances."""
    heads, groups, size = 6, 2, 8
    caches = [f"!kaoken.cache<[150, {groups}, {size}], f32, {x}>" for x in ("panels", "rows")]
    q, k = f"tensor<1x{queries}x{heads * size}xf32>", f"tensor<1x{keys}x{groups * size}xf32>"
    bias = f"tensor<{heads}x{columns}xf32>"
    return f"""
    func.func @main(%q: {q}, %x: {k}, %v: {k}, %b: {bias}) -> {q} {{
      %c = kaoken.cache "c" : {caches[0]}
      %d = kaoken.cache "d" : {caches[1]}
      kaoken.cache_append %x to %c at <[0]> : {k}, {caches[0]}
      kaoken.cache_append %v to %d at <[0]> : {k}, {caches[1]}
      %k = kaoken.cache_read %c to <[{keys}]> : {caches[0]} -> {k}
      %u = kaoken.cache_read %d to <[{keys}]> : {caches[1]} -> {k}
      %y = kaoken.attention %q, %k, %u position_bias %b : {bias} {{num_heads = {heads} : i64,
        num_kv_heads = {groups} : i64, scale = 1.0 : f64, causal = {causal},
        bias_origin = {origin} : i64}} : {q}, {k}, {k} -> {q}
      func.return %y : {q}
    }}"""


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("queries", "keys", "causal", "origin", "columns"),
    [(1, 129, "false", 128, 130), (7, 64, "false", 70, 80), (17, 129, "true", 130, 131)],
)
def test_attention_with_a_position_bias(
    queries: int, keys: int, causal: str, origin: int, columns: int, target: str, tmp_path: Path
) -> None:
    """Over caches, and over plain tensors."""
    text = attention_to_a_source(queries, keys, causal, origin, columns)
    inputs = [random(1, queries, 48), random(1, keys, 16), random(1, keys, 16), random(6, columns)]
    check(text, inputs, target, tmp_path / "cached")
    check(text.replace("%k, %u", "%x, %v"), inputs, target, tmp_path / "plain")


def test_a_position_bias_that_is_too_short(tmp_path: Path) -> None:
    module = parse_module(attention_to_a_source(1, 129, "false", 127, 130))
    with pytest.raises(KaokenError, match="distance 0 at 127, does not reach over 129 keys"):
        compile_module(module, tmp_path / "m", CompileOptions(target="generic"))


def test_a_cache_that_is_too_small(tmp_path: Path) -> None:
    text = attention(9, 2, 1, 4, None).replace("[150,", "[8,")
    inputs = [random(1, 9, 8), random(1, 9, 4), random(1, 9, 4)]
    with pytest.raises(KaokenError, match="the cache holds at most 8 rows"):
        run_module(parse_module(text), inputs)
    text = text.replace("<[9]>", "<[8]>").replace("%k, %u", "%x, %v")
    module = parse_module(text.replace("-> tensor<1x9x4xf32>", "-> tensor<1x8x4xf32>"))
    compile_module(module, tmp_path / "m", CompileOptions(target="generic"))
    with pytest.raises(KaokenError, match="at most 8 tokens, not these: 9"):
        load(tmp_path / "m")(*inputs)


@pytest.mark.parametrize("passes", ["canonicalize", "fuse", "choose-schedule,bake,outline"])
def test_passes_keep_the_meaning(passes: str) -> None:
    inputs = [random(1, 12, n * 4) for n in (6, 2, 2)]
    assert_same_before_and_after(attention(12, 6, 2, 4, None), passes, inputs)


def test_reads_stay_behind_appends() -> None:
    """Two reads with an append between differ; two without are one for `cse`."""
    cache = "!kaoken.cache<[8, 1, 2], f32, rows>"
    text = f"""
    func.func @main(%x: tensor<1x2x2xf32>, %z: tensor<1x2x2xf32>) -> tensor<1x2x2xf32> {{
      %c = kaoken.cache "c" : {cache}
      kaoken.cache_append %x to %c at <[0]> : tensor<1x2x2xf32>, {cache}
      %a = kaoken.cache_read %c to <[2]> : {cache} -> tensor<1x2x2xf32>
      %b = kaoken.cache_read %c to <[2]> : {cache} -> tensor<1x2x2xf32>
      kaoken.cache_append %z to %c at <[0]> : tensor<1x2x2xf32>, {cache}
      %d = kaoken.cache_read %c to <[2]> : {cache} -> tensor<1x2x2xf32>
      %s = kaoken.elementwise sub %a, %b : tensor<1x2x2xf32>, tensor<1x2x2xf32> -> tensor<1x2x2xf32>
      %y = kaoken.elementwise add %s, %d : tensor<1x2x2xf32>, tensor<1x2x2xf32> -> tensor<1x2x2xf32>
      func.return %y : tensor<1x2x2xf32>
    }}"""
    module = parse_module(text)
    x, z = random(1, 2, 2), random(1, 2, 2) + 1
    after = apply_passes(module, "cse,dce")
    np.testing.assert_array_equal(run_module(after, [x, z])[0], z)
    assert str(after).count("kaoken.cache_read") == 2
