"""How tokens are chosen: each logit processor is transformers' own, and options out of range."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from kaoken.backend.interface import _generation
from kaoken.dialect.generation import GENERATION
from kaoken.errors import KaokenError
from kaoken.generation import processors
from kaoken.generation.beams import _Search
from kaoken.generation.choice import Choice, draw
from kaoken.generation.generate import Prompts, prompts_of, random_of, strings_of
from kaoken.generation.options import GenerationOptions
from kaoken.generation.text import TextStream, ends_in

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
hf = transformers.generation.logits_process

VOCABULARY = 300
TOKENS = [3, 5, 3, 299, 17]
WORDS = [[3], [299, 17, 8], [5, 3, 299, 17, 10], [17, 299, 12], [17, 13], [*TOKENS, 14]]


def random_logits(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(VOCABULARY, np.float32) * 4


def of_transformers(processor: Any, scores: np.ndarray) -> np.ndarray:
    return processor(torch.tensor([TOKENS]), torch.from_numpy(scores.copy())[None])[0].numpy()


PROCESSORS = [
    (lambda x: processors.temperature(0.7, x), lambda: hf.TemperatureLogitsWarper(0.7)),
    (lambda x: processors.temperature(1.9, x), lambda: hf.TemperatureLogitsWarper(1.9)),
    (lambda x: processors.top_k(1, x), lambda: hf.TopKLogitsWarper(1)),
    (lambda x: processors.top_k(40, x), lambda: hf.TopKLogitsWarper(40)),
    (lambda x: processors.top_k(999, x), lambda: hf.TopKLogitsWarper(999)),
    (lambda x: processors.top_p(0.9, x), lambda: hf.TopPLogitsWarper(0.9)),
    (lambda x: processors.top_p(0.0, x), lambda: hf.TopPLogitsWarper(0.0)),
    (lambda x: processors.top_p(0.2, x, 3), lambda: hf.TopPLogitsWarper(0.2, min_tokens_to_keep=3)),
    (lambda x: processors.min_p(0.1, x), lambda: hf.MinPLogitsWarper(0.1)),
    (lambda x: processors.min_p(1.0, x, 2), lambda: hf.MinPLogitsWarper(1.0, min_tokens_to_keep=2)),
    (
        lambda x: processors.repetition_penalty(1.3, TOKENS, x),
        lambda: hf.RepetitionPenaltyLogitsProcessor(1.3),
    ),
    (
        lambda x: processors.repetition_penalty(0.5, TOKENS, x),
        lambda: hf.RepetitionPenaltyLogitsProcessor(0.5),
    ),
    (
        lambda x: processors.no_early_end(6, [7, 8], TOKENS, x),
        lambda: hf.MinNewTokensLengthLogitsProcessor(2, 4, torch.tensor([7, 8])),
    ),
    (
        lambda x: processors.no_early_end(5, [7, 8], TOKENS, x),
        lambda: hf.MinNewTokensLengthLogitsProcessor(2, 3, torch.tensor([7, 8])),
    ),
    (
        lambda x: processors.no_bad_words(WORDS, TOKENS, x),
        lambda: hf.NoBadWordsLogitsProcessor(WORDS),
    ),
    (
        lambda x: processors.suppressed([4, 299, 300], None, TOKENS, x),
        lambda: hf.SuppressTokensLogitsProcessor([4, 299, 300]),
    ),
    (
        lambda x: processors.suppressed([4, 8], 5, TOKENS, x),
        lambda: hf.SuppressTokensAtBeginLogitsProcessor([4, 8], 5),
    ),
    (
        lambda x: processors.suppressed([4, 8], 4, TOKENS, x),
        lambda: hf.SuppressTokensAtBeginLogitsProcessor([4, 8], 4),
    ),
    (
        lambda x: processors.forced(5, [9, 11], TOKENS, x),
        lambda: hf.ForcedEOSTokenLogitsProcessor(6, [9, 11]),
    ),
    (
        lambda x: processors.forced(1, [9], TOKENS, x),
        lambda: hf.ForcedBOSTokenLogitsProcessor(9),
    ),
]


@pytest.mark.parametrize("case", range(len(PROCESSORS)))
def test_processors_are_those_of_transformers(case: int) -> None:
    own, theirs = PROCESSORS[case][0], PROCESSORS[case][1]()
    for seed in range(20):
        scores = random_logits(seed)
        if seed % 2:
            scores = processors.top_k(50, scores)
        before = scores.copy()
        np.testing.assert_array_equal(own(scores), of_transformers(theirs, scores))
        np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_no_ngram_comes_again(size: int) -> None:
    tokens = [3, 5, 7, 3, 5, 8, 3, 5]
    theirs = hf.NoRepeatNGramLogitsProcessor(size)
    for length in range(1, len(tokens) + 1):
        scores = random_logits(length)
        wanted = theirs(torch.tensor([tokens[:length]]), torch.from_numpy(scores.copy())[None])
        found = processors.no_repeated_ngram(size, tokens[:length], scores)
        np.testing.assert_array_equal(found, wanted[0].numpy())


def test_the_least_length_counts_the_prompt() -> None:
    for least, more, tokens, ends in [
        (6, {}, 5, 0),
        (6, {}, 6, 1),
        (9, {"min_new_tokens": 2}, 5, 1),
    ]:
        options = GenerationOptions(min_length=least, **more)
        scores = Choice(options, 3, [7]).scores([1] * tokens, random_logits(0))
        assert (scores[7] > -np.inf) == bool(ends)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_the_order_is_that_of_transformers(num_beams: int) -> None:
    """All of them together, built from the options as `generate` of transformers builds them."""
    given = {
        "do_sample": True,
        "temperature": 0.8,
        "top_k": 30,
        "top_p": 0.9,
        "min_p": 0.02,
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 1,
        "bad_words_ids": [*WORDS, [4]],
        "min_new_tokens": 9,
        "suppress_tokens": [20, 21],
        "begin_suppress_tokens": [22],
        "num_beams": num_beams,
        "eos_token_id": [17, 4],
    }
    config = transformers.GenerationConfig(**given)
    config._eos_token_tensor = torch.tensor([17, 4])
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
        )
    )
    theirs = model._get_logits_processor(config, 3)
    choice = Choice(GenerationOptions(**given), 3, [17, 4], np.random.default_rng(0))
    for seed in range(20):
        scores = random_logits(seed) / 3
        wanted = of_transformers(theirs, scores)
        assert (wanted > -np.inf).sum() > 1
        np.testing.assert_array_equal(choice.scores(TOKENS, scores), wanted)


def test_forced_tokens_have_their_places() -> None:
    """Second in the text, which begins with one token, and last of the most that come."""
    options = GenerationOptions(
        forced_bos_token_id=9, forced_eos_token_id=11, begin_suppress_tokens=[0], max_new_tokens=4
    )
    choice = Choice(options, 1, [], limit=4)
    scores = np.zeros(20, np.float32)
    scores[:3] = 3, 2, 1
    text = [5]
    while len(text) < 5:
        text.append(choice(text, scores))
    assert text == [5, 9, 1, 0, 11]
    with pytest.raises(KaokenError, match="forced token 9 is not among the vocabulary's 4 tokens"):
        choice([5], scores[:4])


def test_tokens_may_be_arrays_and_none_at_all() -> None:
    """As transformers takes them."""
    given: dict[str, Any] = {
        "bad_words_ids": [np.array([0])],
        "suppress_tokens": np.array([1, 2]),
        "begin_suppress_tokens": np.array([3, 4]),
        "forced_eos_token_id": [],
    }
    scores = np.array([6, 5, 4, 3, 2, 1], np.float32)
    assert Choice(GenerationOptions(**given), 1, [], limit=1)([7], scores) == 5


def test_beams_are_drawn_without_putting_back() -> None:
    """Pairs come as often as by one draw after the other among what is left."""
    shares = np.array([0.5, 0.3, 0.2])
    search = _Search(Any, [], GenerationOptions(), Any, [], 1, np.random.default_rng(0), None)  # pyright: ignore
    scores = np.log(shares).astype(np.float32)
    pairs = [tuple(search._best(scores, 2).tolist()) for _ in range(6000)]
    for a in range(3):
        for b in {0, 1, 2} - {a}:
            share = shares[a] * shares[b] / (1 - shares[a])
            assert abs(pairs.count((a, b)) / 6000 - share) < 0.02


def test_draws_follow_the_probabilities_and_the_seed() -> None:
    scores = np.array([0, -np.inf, np.log(2), np.log(5)], np.float32)
    tokens = [draw(scores, random) for random in [np.random.default_rng(1)] for _ in range(8000)]
    shares = np.bincount(tokens, minlength=4) / 8000
    np.testing.assert_allclose(shares, [1 / 8, 0, 2 / 8, 5 / 8], atol=0.02)
    again = [draw(scores, random) for random in [np.random.default_rng(1)] for _ in range(8000)]
    assert again == tokens


def test_broken_logits() -> None:
    random = np.random.default_rng(0)
    scores = random_logits(0)
    scores[[3, 9]] = np.nan
    for options in (GenerationOptions(), GenerationOptions(do_sample=True, top_k=5, top_p=0.5)):
        with pytest.raises(KaokenError, match=r"of the logits are not numbers"):
            Choice(options, 1, (), random)(TOKENS, scores)
    with pytest.raises(KaokenError, match="all logits are minus infinity"):
        draw(np.full(4, -np.inf, np.float32), random)


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("temperature", -1, "temperature is -1, but must be above 0"),
        ("temperature", "hot", "temperature is 'hot', but must be a number"),
        ("temperature", float("nan"), "temperature is nan, but must be above 0"),
        ("top_k", -1, "top_k is -1, but must be at least 0"),
        ("top_k", 2.5, "top_k is 2.5, but must be a whole number"),
        ("top_p", 1.5, "top_p is 1.5, but must be from 0 to 1"),
        ("top_p", float("nan"), "top_p is nan, but must be from 0 to 1"),
        ("min_p", -0.1, "min_p is -0.1, but must be from 0 to 1"),
        ("repetition_penalty", 0, "repetition_penalty is 0, but must be above 0"),
        ("max_new_tokens", 0, "max_new_tokens is 0, but must be at least 1"),
        ("num_beams", 0, "num_beams is 0, but must be at least 1"),
        ("num_return_sequences", 2, "without do_sample or num_beams all would be equal"),
        ("early_stopping", "now", "early_stopping is 'now', but must be True, False or 'never'"),
        ("suppress_tokens", 3, "suppress_tokens is 3, but must be a list of tokens"),
        ("begin_suppress_tokens", [-1], "a token of begin_suppress_tokens is -1, but must be at"),
        ("bad_words_ids", [3], "a word of bad_words_ids is 3, but must be a list of tokens"),
        ("bad_words_ids", [[]], "a word of bad_words_ids is empty"),
        ("forced_bos_token_id", -1, "forced_bos_token_id is -1, but must be at least 0"),
        ("prompt_lookup_num_tokens", 8, "prompt_lookup_num_tokens is 8, but must be from 0 to 7"),
        ("temprature", 1.0, "generate has no option temprature; it has max_new_tokens, "),
    ],
)
def test_an_option_out_of_range(option: str, value: Any, text: str) -> None:
    with pytest.raises(KaokenError) as error:
        GenerationOptions.of({}, {option: value})
    assert str(error.value).startswith(text) or text in str(error.value)


def test_greedy_needs_no_temperature() -> None:
    assert GenerationOptions(temperature=0).temperature == 0
    with pytest.raises(KaokenError, match="temperature is 0, but must be above 0"):
        GenerationOptions(temperature=0, do_sample=True)


def test_end_tokens() -> None:
    for given, wanted in [(3, (3,)), (np.int64(3), (3,)), (torch.tensor([3, 4]), (3, 4)), ([], ())]:
        assert GenerationOptions(eos_token_id=given).end_tokens == wanted
    scores = processors.no_early_end(6, [-1, 5, VOCABULARY], TOKENS, random_logits(0))
    assert np.flatnonzero(scores == -np.inf).tolist() == [5]


def test_recorded_defaults_give_way() -> None:
    recorded = {"temperature": 0.6, "do_sample": True, "max_length": 30, "bos_token_id": 1}
    options = GenerationOptions.of(recorded, {"temperature": None})
    assert (options.temperature, options.do_sample, options.new_tokens(10)) == (0.6, True, 20)
    options = GenerationOptions.of(recorded, {"temperature": 2.0, "max_new_tokens": 3})
    assert (options.temperature, options.new_tokens(10)) == (2.0, 3)
    assert GenerationOptions().new_tokens(10) == 20
    with pytest.raises(KaokenError, match="max_length is 30, but the prompt alone has 30 tokens"):
        GenerationOptions.of(recorded, {}).new_tokens(30)


def test_prompts() -> None:
    assert prompts_of([4, 5]).tokens == [[4, 5]]
    assert prompts_of(np.array([[4, 5], [6, 7]], np.int32)).tokens == [[4, 5], [6, 7]]
    assert prompts_of([[4, 5], [6]]) == Prompts([[4, 5], [6]], None)
    assert prompts_of([[0, 5], [6, 7]], [[0, 1], [1, 1]]).tokens == [[5], [6, 7]]
    for ids, mask, text in [
        ([[1, 2]], [[1, 0]], "pad at the left"),
        ([[1, 2]], [[1]], r"attention_mask is \[1, 1\], but input_ids are \[1, 2\]"),
        ([[1], [1, 2]], [[1]], "not with lists"),
        ([[]], None, "prompt 0 has no tokens"),
        ([[1.5]], None, "input_ids are whole numbers, not float64"),
        (np.zeros((1, 1, 1), int), None, "not 3 dimensions"),
        ([[0, 1], [0, 0]], [[0, 1], [0, 0]], "prompt 1 has no tokens"),
    ]:
        with pytest.raises(KaokenError, match=text):
            prompts_of(ids, mask)


def test_seeds_and_stop_strings() -> None:
    assert random_of(5, None).random() == random_of(5, None).random()
    with pytest.raises(KaokenError, match="seed is -1, but must be at least 0"):
        random_of(-1, None)
    with pytest.raises(KaokenError, match="seed is 'x', but must be a whole number"):
        random_of("x", None)  # type: ignore[arg-type]
    with pytest.raises(KaokenError, match="a seed or a generator, not both"):
        random_of(1, np.random.default_rng(1))
    with pytest.raises(KaokenError, match="a stop string is empty"):
        strings_of(["a", ""])
    assert strings_of("ab") == ("ab",)


@pytest.fixture(scope="module")
def byte_tokenizer() -> Any:
    """One token a byte: characters and stop strings always go across tokens."""
    tokenizers = pytest.importorskip("tokenizers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.models.BPE({c: n for n, c in enumerate(alphabet)}, [])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def streamed(tokenizer: Any, text: str, *stop: str) -> tuple[list[str], bool]:
    stream = TextStream(tokenizer, tokenizer.encode("x").ids, stop)
    pieces: list[str] = []
    for token in tokenizer.encode(text).ids:
        pieces.append(stream.put(token))
        if stream.stopped:
            return [piece for piece in pieces if piece], True
    return [piece for piece in [*pieces, stream.end()] if piece], False


def test_whole_characters_and_no_part_of_a_stop_string(byte_tokenizer: Any) -> None:
    text = "Grüße 🙂 an Ännchen"
    pieces, stopped = streamed(byte_tokenizer, text)
    assert pieces == list(text)
    assert not stopped
    pieces, stopped = streamed(byte_tokenizer, text, "🙂 ab", "Änn", "zero")
    assert ("".join(pieces), stopped) == ("Grüße 🙂 an ", True)
    assert "🙂 an" in pieces, "held back until it cannot be the stop string"
    pieces, stopped = streamed(byte_tokenizer, "aab", "aaab", "bc")
    assert ("".join(pieces), stopped) == ("aab", False)
    pieces, stopped = streamed(byte_tokenizer, "abababc", "ababc")
    assert ("".join(pieces), stopped) == ("ab", True)


def test_texts_of_beams_end_in_a_stop_string(byte_tokenizer: Any) -> None:
    ids = byte_tokenizer.encode("say Änn").ids
    for end in range(1, len(ids) + 1):
        found = ends_in(["zero", "Änn"], byte_tokenizer, [], ids[:end])
        assert found == (end == len(ids))
    assert ends_in([" Ä"], byte_tokenizer, ids[:3], ids[3:6])
    assert not ends_in([], byte_tokenizer, [], ids)


def test_half_a_character_at_the_end_is_left_out(byte_tokenizer: Any) -> None:
    stream = TextStream(byte_tokenizer, [])
    ids = byte_tokenizer.encode("a🙂").ids[:-1]
    assert [stream.put(token) for token in ids] == ["a", "", "", ""]
    assert stream.end() == ""


def test_what_a_folder_says(tmp_path: Path) -> None:
    from kaoken.frontend.generation_config import (
        generation_attribute,
        notes_of_folder,
        of_folder,
        of_gguf,
    )

    (tmp_path / "config.json").write_text('{"eos_token_id": 2}')
    assert of_folder(tmp_path) == ((2,), {})
    text = '{"eos_token_id": [7, 2, 7], "do_sample": true, "top_p": 0.9, "top_k": null}'
    (tmp_path / "generation_config.json").write_text(text)
    assert of_folder(tmp_path) == ((7, 2), {"do_sample": True, "top_p": 0.9})
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(KaokenError, match=r"generation_config\.json is not JSON"):
        of_folder(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"top_h": 0.5, "typical_p": 1.0}')
    (note,) = notes_of_folder(tmp_path)
    assert note == "generation_config.json: top_h are not followed"
    (tmp_path / "generation_config.json").write_text(
        '{"early_stopping": true, "min_length": 56, "bad_words_ids": [[3], [4, 5]]}'
    )
    kept = {"min_length": 56, "bad_words_ids": [[3], [4, 5]], "early_stopping": True}
    assert of_folder(tmp_path) == ((2,), kept)
    assert notes_of_folder(tmp_path) == []
    assert of_gguf({"general.sampling.temp": 0.5}.get) == {"do_sample": True, "temperature": 0.5}
    assert of_gguf({}.get) == {}
    attribute = generation_attribute(8, [2], {"do_sample": True, "top_k": 3, "top_p": 0.5})
    module = ModuleOp([])
    module.attributes[GENERATION] = generation_attribute(8, [2], kept)
    found = _generation(module)
    assert found is not None
    assert dict(found.defaults) == kept
    assert "defaults = {do_sample = true, top_k = 3 : i64, top_p = 5.000000e-01 : f64}" in str(
        attribute
    )
