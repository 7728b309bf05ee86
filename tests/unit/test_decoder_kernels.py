"""The kernels of decoders, compiled, against the reference: positions, caches, attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kaoken.compiler import compile_module, load
from kaoken.dialect.reference import run_module
from kaoken.errors import KaokenError
from kaoken.modules import parse_module
from kaoken.options import CompileOptions
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
@pytest.mark.parametrize("element", ["f32", "bf16", "i8"])
@pytest.mark.parametrize("layout", ["rows", "panels"])
def test_cache(layout: str, element: str, target: str, tmp_path: Path) -> None:
    """What is written is read; a second append goes over the first one's rows."""
    cache = f"!kaoken.cache<[150, 3, 5], {element}, {layout}>"
    text = f"""
    func.func @main(%x: tensor<1x129x15xf32>, %z: tensor<1x7x15xf32>) -> tensor<1x131x15xf32> {{
      %c = kaoken.cache "c" : {cache}
      kaoken.cache_append %x to %c at <[0]> : tensor<1x129x15xf32>, {cache}
      kaoken.cache_append %z to %c at <[124]> : tensor<1x7x15xf32>, {cache}
      %y = kaoken.cache_read %c to <[131]> : {cache} -> tensor<1x131x15xf32>
      func.return %y : tensor<1x131x15xf32>
    }}"""
    check(text, [random(1, 129, 15), random(1, 7, 15)], target, tmp_path / "m")


def attention(
    tokens: int, heads: int, groups: int, size: int, window: int | None, element: str = "f32"
) -> str:
    keys = f"!kaoken.cache<[150, {groups}, {size}], {element}, panels>"
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


@pytest.mark.parametrize("target", TARGETS)
def test_capped_scores(target: str, tmp_path: Path) -> None:
    text = attention(70, 6, 3, 20, None).replace("scale =", "softcap = 0.5 : f64, scale =")
    inputs = [random(1, 70, n * 20) for n in (6, 3, 3)]
    check(text, inputs, target, tmp_path / "m")


def attention_to_a_source(queries: int, keys: int, causal: str, origin: int, columns: int) -> str:
    """Queries over all keys of caches, or over those before them, with a bias of distances."""
    heads, groups, size = 6, 2, 8
    caches = [f"!kaoken.cache<[{keys}, {groups}, {size}], f32, {x}>" for x in ("panels", "rows")]
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


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("element", ["bf16", "i8"])
@pytest.mark.parametrize(("tokens", "heads", "groups", "size"), [(70, 6, 3, 20), (7, 4, 1, 64)])
def test_attention_over_narrow_caches(
    tokens: int, heads: int, groups: int, size: int, element: str, target: str, tmp_path: Path
) -> None:
    inputs = [random(1, tokens, n * size) for n in (heads, groups, groups)]
    check(attention(tokens, heads, groups, size, None, element), inputs, target, tmp_path / "m")


def narrow(element: str, x: np.ndarray) -> np.ndarray:
    cache = f"!kaoken.cache<[4, 2, 3], {element}, rows>"
    text = f"""
    func.func @main(%x: tensor<1x4x6xf32>) -> tensor<1x4x6xf32> {{
      %c = kaoken.cache "c" : {cache}
      kaoken.cache_append %x to %c at <[0]> : tensor<1x4x6xf32>, {cache}
      %y = kaoken.cache_read %c to <[4]> : {cache} -> tensor<1x4x6xf32>
      func.return %y : tensor<1x4x6xf32>
    }}"""
    return run_module(parse_module(text), [x])[0]


def test_what_narrow_caches_round() -> None:
    """i8: to a 127th of the largest magnitude of a head of a row; bf16: to eight bits."""
    x = random(1, 4, 6) * np.array([1, 100, 0, 1e-20], "f4")[:, None]
    by_head = x.reshape(1, 4, 2, 3)
    largest = np.abs(by_head).max(-1, keepdims=True)
    error = np.abs(narrow("i8", x).reshape(by_head.shape) - by_head)
    assert (error <= largest / 254 * 1.001).all()
    assert error.max() > 0.1
    assert (np.abs(narrow("bf16", x) - x) <= np.abs(x) / 256).all()
    assert (narrow("f32", x) == x).all()


@pytest.mark.parametrize(
    ("element", "window", "heads"), [("f32", None, 6), ("bf16", 530, 2), ("i8", 100, 6)]
)
def test_bits_do_not_depend_on_the_call(
    element: str, window: int | None, heads: int, tmp_path: Path
) -> None:
    """The last rows alone, in pieces, and with all others, over several parts of the keys."""
    size, most = 16, 1100
    keys = f"!kaoken.cache<[{most}, 2, {size}], {element}, panels>"
    values = keys.replace("panels", "rows")
    q, k = f"tensor<1x?x{heads * size}xf32>", f"tensor<1x?x{2 * size}xf32>"
    seen = "" if window is None else f", window = {window} : i64"
    text = f"""
    func.func @main(%q: {q} {{kaoken.shape = #kaoken.shape<[1, rows, {heads * size}]>}},
        %x: {k} {{kaoken.shape = #kaoken.shape<[1, tokens, {2 * size}]>}},
        %v: {k} {{kaoken.shape = #kaoken.shape<[1, tokens, {2 * size}]>}}) -> {q}
        attributes {{kaoken.max = {{rows = {most} : i64, tokens = {most} : i64}}}} {{
      %c = kaoken.cache "c" : {keys}
      %d = kaoken.cache "d" : {values}
      kaoken.cache_append %x to %c at <[0]> : {k}, {keys}
      kaoken.cache_append %v to %d at <[0]> : {k}, {values}
      %k = kaoken.cache_read %c to <[tokens]> : {keys} -> {k}
      %u = kaoken.cache_read %d to <[tokens]> : {values} -> {k}
      %y = kaoken.attention %q, %k, %u {{num_heads = {heads} : i64, num_kv_heads = 2 : i64,
        scale = 0.3 : f64, causal = true{seen}}} : {q}, {k}, {k} -> {q}
      func.return %y : {q}
    }}"""
    compile_module(parse_module(text), tmp_path / "m", CompileOptions(threads=2))
    both, alone = load(tmp_path / "m"), load(tmp_path / "m", threads=1)
    whole, x, v = (
        random(1, 1089, heads * size),
        random(1, 1089, 2 * size),
        random(1, 1089, 2 * size),
    )
    wanted = alone(whole, x, v)
    (reference,) = run_module(parse_module(text), [whole[:, -2:], x, v])
    np.testing.assert_allclose(wanted[:, -2:], reference, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(both(whole, x, v), wanted)
    for rows in (1, 2, 7, 8, 9, 17, 129):
        for model in (both, alone):
            np.testing.assert_array_equal(model(whole[:, -rows:], x, v), wanted[:, -rows:])
    for length in (1, 64, 65, 512, 513, 700):
        got = both(whole[:, length - 1 : length], x[:, :length], v[:, :length])
        np.testing.assert_array_equal(got, wanted[:, length - 1 : length])


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
