"""Modules with two entries, `@encode` and `@main`: what one leaves in caches the other reads."""

from __future__ import annotations

import numpy as np
import pytest

import kaoken
from kaoken.compiled_encoder_decoder import CompiledEncoderDecoder
from kaoken.compiler import compile_module
from kaoken.dialect.reference import run_module
from kaoken.errors import KaokenError
from kaoken.modules import parse_module
from kaoken.options import CompileOptions
from kaoken.weights import WeightStore, attach_store

HIDDEN, VOCABULARY, SOURCE, CAPACITY = 24, 40, 70, 90
KEYS = f"!kaoken.cache<[{SOURCE}, 3, 8], f32, panels>"
VALUES = KEYS.replace("panels", "rows")
ROWS = "tensor<1x?x24xf32>"
TEXT = f"""
builtin.module attributes {{
    kaoken.generation = {{capacity = {CAPACITY} : i64, end_tokens = [39],
                          defaults = {{forced_eos_token_id = 39 : i64}}}},
    kaoken.encoder = {{start_tokens = [0]}}
}} {{
  func.func @encode(%ids: tensor<1x?xi64> {{kaoken.shape = #kaoken.shape<[1, source]>}})
      attributes {{kaoken.max = {{source = {SOURCE} : i64}}}} {{
    %keys = kaoken.cache "keys" : {KEYS}
    %values = kaoken.cache "values" : {VALUES}
    %table = kaoken.weight "table" : tensor<40x24xf32>
    %w = kaoken.weight "w" : tensor<24x24xf32>
    %x = kaoken.embedding %table, %ids : tensor<40x24xf32>, tensor<1x?xi64> -> {ROWS}
    %k = kaoken.linear %x, %w : {ROWS}, tensor<24x24xf32> -> {ROWS}
    kaoken.cache_append %k to %keys at <[0]> : {ROWS}, {KEYS}
    kaoken.cache_append %x to %values at <[0]> : {ROWS}, {VALUES}
    func.return
  }}
  func.func @main(%ids: tensor<1x?xi64> {{kaoken.shape = #kaoken.shape<[1, tokens]>}})
      -> tensor<1x?x40xf32> attributes {{
        kaoken.max = {{tokens = 16 : i64, past = 89 : i64, outputs = 4 : i64, source = 70 : i64}},
        kaoken.least = {{past = 0 : i64, outputs = 0 : i64}}, kaoken.results = ["logits"]}} {{
    %keys = kaoken.cache "keys" : {KEYS}
    %values = kaoken.cache "values" : {VALUES}
    %own = kaoken.cache "own" : !kaoken.cache<[90, 3, 8], f32, rows>
    %table = kaoken.weight "table" : tensor<40x24xf32>
    %x = kaoken.embedding %table, %ids : tensor<40x24xf32>, tensor<1x?xi64> -> {ROWS}
    kaoken.cache_append %x to %own at <[past]> : {ROWS}, !kaoken.cache<[90, 3, 8], f32, rows>
    %k = kaoken.cache_read %keys to <[source]> : {KEYS} -> {ROWS}
    %v = kaoken.cache_read %values to <[source]> : {VALUES} -> {ROWS}
    %y = kaoken.attention %x, %k, %v {{num_heads = 3 : i64, scale = 0.5 : f64}}
      : {ROWS}, {ROWS}, {ROWS} -> {ROWS}
    %z = kaoken.elementwise add %x, %y : {ROWS}, {ROWS} -> {ROWS}
    %last = kaoken.slice %z <["tokens - outputs", tokens]> {{dim = 1 : i64}} : {ROWS} -> {ROWS}
    %logits = kaoken.linear %last, %table : {ROWS}, tensor<40x24xf32> -> tensor<1x?x40xf32>
    func.return %logits : tensor<1x?x40xf32>
  }}
}}"""


def module():
    random = np.random.default_rng(0)
    store = WeightStore()
    store.add("table", random.standard_normal((VOCABULARY, HIDDEN), np.float32))
    store.add("w", random.standard_normal((HIDDEN, HIDDEN), np.float32))
    module = parse_module(TEXT)
    attach_store(module, store)
    return module


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CompiledEncoderDecoder:
    folder = tmp_path_factory.mktemp("encode") / "pair"
    compile_module(module(), folder, CompileOptions(threads=2))
    model = kaoken.load_decoder(folder)
    assert isinstance(model, CompiledEncoderDecoder)
    return model


def reference(source: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The logits behind the last of the tokens."""
    caches: dict[str, np.ndarray] = {}
    run_module(module(), [source[None]], "encode", caches=caches)
    sizes = {"past": 0, "outputs": 1, "source": len(source)}
    return run_module(module(), [tokens[None]], sizes=sizes, caches=caches)[0][0, 0]


@pytest.mark.parametrize("count", [1, 7, 17, 64, SOURCE])
def test_the_decoder_reads_what_the_encoder_left(model: CompiledEncoderDecoder, count: int) -> None:
    source, tokens = np.arange(count) % 31, np.array([3, 1, 4, 1, 5])
    model.encode(source)
    assert (model.source_length, len(model)) == (count, 0)
    wanted = reference(source, tokens)
    np.testing.assert_allclose(model.prefill(tokens), wanted, atol=1e-4)
    model.rewind(4)
    np.testing.assert_allclose(model.step(5), wanted, atol=1e-4)
    model.reset()
    one = kaoken.load_decoder(model.folder, threads=1)
    assert isinstance(one, CompiledEncoderDecoder)
    one.encode(source)
    np.testing.assert_array_equal(one.prefill(tokens), model.prefill(tokens))


def test_unsuitable_sources(model: CompiledEncoderDecoder) -> None:
    fresh = model.new_context()
    with pytest.raises(KaokenError, match="there is no source: encode one first"):
        fresh.step(1)
    with pytest.raises(KaokenError, match="the source has no tokens"):
        fresh.encode([])
    with pytest.raises(KaokenError, match="has 71 tokens, but pair was compiled for at most 70"):
        fresh.encode(np.zeros(71))
    with pytest.raises(KaokenError, match="40"):
        fresh.encode([1, 40])
    assert fresh.source_length == 0
    with pytest.raises(KaokenError, match="there is no source"):
        fresh.step(1)
    fresh.encode([1, 2])
    fresh.step(3)
    fresh.encode([2])
    assert len(fresh) == 0


def test_forced_and_start_tokens(model: CompiledEncoderDecoder) -> None:
    text = model.generate([[1, 2, 3]], max_new_tokens=4, eos_token_id=[])
    assert text.shape == (1, 5)
    assert (text[0, 0], text[0, -1]) == (0, 39)
    text = model.generate([[1, 2, 3]], 4, eos_token_id=[], forced_bos_token_id=7)
    assert text[0, [0, 1, -1]].tolist() == [0, 7, 39]
