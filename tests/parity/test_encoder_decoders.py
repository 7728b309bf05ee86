"""T5 and BART compiled from Hugging Face folders: the greedy text and logits of transformers."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaoken
from kaoken.compiled_encoder_decoder import CompiledEncoderDecoder
from kaoken.errors import KaokenError
from tests.available import missing

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-3
"""Largest difference of logits, relative to the largest logit."""
TITLER = Path(__file__).parents[3] / "shared" / "models" / "make_t5_titler.py"


def t5(hidden: int, ffn: int, layers: int, heads: int, vocabulary: int, gated: bool) -> Any:
    """T5 (tied, ReLU) or flan-T5 (untied, gated GELU)."""
    return transformers.T5Config(
        d_model=hidden,
        d_kv=64 if hidden > 64 else 12,
        d_ff=ffn,
        num_layers=layers,
        num_heads=heads,
        vocab_size=vocabulary,
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=not gated,
        decoder_start_token_id=0,
    )


def bart(hidden: int, ffn: int, layers: int, heads: int, vocabulary: int, **options: Any) -> Any:
    return transformers.BartConfig(
        d_model=hidden,
        encoder_ffn_dim=ffn,
        decoder_ffn_dim=ffn,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        vocab_size=vocabulary,
        **options,
    )


TINY = {
    "t5": lambda: t5(64, 96, 2, 5, 99, gated=True),
    "bart": lambda: bart(
        64,
        96,
        2,
        4,
        99,
        max_position_embeddings=70,
        scale_embedding=True,
        forced_bos_token_id=0,
    ),
}
FULL = {
    "t5-small": lambda: t5(512, 2048, 6, 8, 32128, gated=False),
    "flan-t5-small": lambda: t5(512, 1024, 8, 6, 32128, gated=True),
    "bart-base": lambda: bart(768, 3072, 6, 12, 50265, max_position_embeddings=1024),
    "mbart": lambda: _other("MBartConfig"),
    "marian": lambda: _other("MarianConfig", pad_token_id=98, decoder_start_token_id=98),
    "pegasus": lambda: _other("PegasusConfig"),
    "umt5": lambda: transformers.UMT5Config(
        d_model=64,
        d_kv=16,
        d_ff=96,
        num_layers=2,
        num_heads=4,
        vocab_size=99,
        decoder_start_token_id=0,
    ),
}
"""The shapes of the released models, and small ones of their relatives."""


def _other(name: str, **options: Any) -> Any:
    config = bart(64, 96, 2, 4, 99, max_position_embeddings=300).to_dict()
    del config["model_type"]
    return getattr(transformers, name)(**(config | options))


def save(config: Any, folder: Path, spread: float = 0.05) -> Any:
    """A random model that tells positions and sources apart.

    T5 does not scale scores: a wide model's are so large, where weights are, that float32 errs.
    """
    torch.manual_seed(0)
    model = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * spread)
    model.save_pretrained(folder)
    # Read again, since sinusoidal positions (Marian) are made anew and not read.
    return transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)


def compiled(folder: Path, out: Path, **options: Any) -> CompiledEncoderDecoder:
    kaoken.compile(folder, out=out, threads=2, **options)
    model = kaoken.load_decoder(out)
    assert isinstance(model, CompiledEncoderDecoder)
    return model


def assert_parity(
    compiled: CompiledEncoderDecoder, model: Any, source: np.ndarray, new: int = 24
) -> None:
    """The greedy text is transformers', and so are the logits at each of its tokens."""
    greedy: dict[str, Any] = {"eos_token_id": [], "do_sample": False, "num_beams": 1}
    text = compiled.generate(source, new, **greedy)
    wanted = model.generate(torch.from_numpy(source), max_new_tokens=new, **greedy)
    np.testing.assert_array_equal(text, wanted.numpy())
    with torch.no_grad():
        ids = torch.from_numpy(source)
        logits = model(input_ids=ids, decoder_input_ids=wanted).logits[0].numpy()
    compiled.encode(source)
    for token, row in zip(text[0], logits, strict=True):
        assert np.abs(compiled.step(token) - row).max() <= TOLERANCE * np.abs(row).max()


def sources(model: Any, *counts: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(3, model.config.vocab_size - 1, (1, n)) for n in counts]


@pytest.fixture(scope="module", params=TINY)
def tiny(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp(request.param)
    model = save(TINY[request.param](), folder / "model")
    return compiled(folder / "model", folder / "compiled", max_tokens=70), model


def test_greedy_text_and_logits(tiny: Any) -> None:
    mine, model = tiny
    for source in sources(model, 1, 7, 65, 70):
        assert_parity(mine, model, source)


def test_any_pieces_and_threads_give_equal_bits(tiny: Any) -> None:
    two, model = tiny
    (source,) = sources(model, 33)
    text = two.generate(source, 30, eos_token_id=[])[0]
    assert_equal_bits(two, source, text, ([31], [7, 17, 1, 6]))


def assert_equal_bits(
    two: CompiledEncoderDecoder,
    source: np.ndarray,
    text: np.ndarray,
    all_pieces: tuple[list[int], ...],
) -> None:
    """A text in pieces, by two threads, gives what it gives token by token, by one."""
    one = kaoken.load_decoder(two.folder, threads=1)
    assert isinstance(one, CompiledEncoderDecoder)
    one.encode(source)
    steps = [one.step(token).copy() for token in text]
    for pieces in all_pieces:
        two.encode(source)
        for end in np.cumsum(pieces):
            np.testing.assert_array_equal(two.prefill(text[len(two) : end]), steps[end - 1])


def test_several_sources_and_options(tiny: Any) -> None:
    decoder, model = tiny
    first, second = (source[0].tolist() for source in sources(model, 9, 5))
    both = decoder.generate([first, second], 6, eos_token_id=[])
    padded = np.array([first, [*second, 0, 0, 0, 0]])
    mask = (np.arange(9) < [[9], [5]]).astype(np.int64)
    again = decoder.generate(padded, 6, attention_mask=mask, eos_token_id=[])
    np.testing.assert_array_equal(both, again)
    alone = decoder.generate([second], 6, eos_token_id=[])
    np.testing.assert_array_equal(both[1:], alone)
    drawn = decoder.generate([first], 6, do_sample=True, seed=3, num_return_sequences=2)
    assert len(drawn) == 2


@pytest.mark.parametrize(
    "options", [{}, pytest.param({"dtype": "int8", "kv": "int8"}, marks=pytest.mark.sweep)]
)
def test_batches(tiny: Any, options: dict[str, str], tmp_path: Path) -> None:
    """Five sources in three places of a context: a text that ends makes room for the next one."""
    alone, model = tiny
    source = tmp_path / "model"
    model.save_pretrained(source)
    three = compiled(source, tmp_path / "three", max_tokens=70, batch=3, **options)
    if options:
        alone = compiled(source, tmp_path / "alone", max_tokens=70, **options)
    random, lengths = np.random.default_rng(0), [9, 1, 33, 5, 70]
    padded = np.full((5, 70), model.config.pad_token_id)
    mask = (np.arange(70) < np.array(lengths)[:, None]).astype(np.int64)
    padded[mask == 1] = random.integers(3, 98, sum(lengths))
    ends = [int(alone.generate(padded[:1, :9], 12, eos_token_id=[])[0, 8])]
    all_ways: list[dict[str, Any]] = [{}, {"num_beams": 3}, {"do_sample": True, "seed": 5}]
    for ways in [*all_ways, {"repetition_penalty": 1.5}]:
        given: dict[str, Any] = {"attention_mask": mask, "eos_token_id": ends, "pad_token_id": 1}
        texts = three.generate(padded, 20, **given, **ways)
        np.testing.assert_array_equal(texts, alone.generate(padded, 20, **given, **ways))
        if options or "seed" in ways:
            continue
        inputs = {"input_ids": torch.from_numpy(padded), "attention_mask": torch.from_numpy(mask)}
        settings = {"eos_token_id": ends, "pad_token_id": 1, "do_sample": False, "num_beams": 1}
        wanted = model.generate(**inputs, max_new_tokens=20, **settings | ways)
        np.testing.assert_array_equal(texts, wanted.numpy())


def test_unsuitable_sources(tiny: Any) -> None:
    decoder = tiny[0]
    with pytest.raises(KaokenError, match="no tokens"):
        decoder.generate([[]])
    with pytest.raises(KaokenError, match=r"has 71 tokens, but .* was compiled for at most 70"):
        decoder.generate([[5] * 71])
    decoder.encode([5, 6])
    with pytest.raises(KaokenError, match="the context holds at most 70 tokens"):
        decoder.prefill([5] * 71)
    with pytest.raises(KaokenError, match="needs a source"):
        next(decoder.all_logits([5, 6]))


@pytest.mark.parametrize("tiny", ["bart"], indirect=True)
def test_example(tiny: Any, tmp_path: Path) -> None:
    """The package's own example program makes the same text."""
    decoder, model = tiny
    source = sources(model, 9)[0][0]
    decoder.encode(source)
    decoder.prefill(decoder.start_tokens)
    wanted = list(decoder.stream(12, end_tokens=[]))
    name, build = decoder.name, tmp_path / "build"
    for command in (["cmake", "-S", decoder.folder, "-B", build], ["cmake", "--build", build]):
        subprocess.run(command, check=True, capture_output=True)
    weights = decoder.folder / f"{name}.weights"
    command = [build / f"{name}_example", weights, "12", *map(str, source)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert [int(word) for word in done.stdout.split()] == wanted


@pytest.mark.sweep
@pytest.mark.parametrize("shape", FULL)
def test_released_shapes(shape: str, tmp_path: Path) -> None:
    config = FULL[shape]()
    model = save(config, tmp_path / "model", 0.05 if config.hidden_size <= 64 else 0.002)
    decoder = compiled(tmp_path / "model", tmp_path / "compiled", max_tokens=256)
    for source in sources(model, 7, 64):
        assert_parity(decoder, model, source, 200)
        text = decoder.tokens
        assert_equal_bits(decoder, source, text, ([len(text)], [7, 129, 1, len(text) - 137]))


@pytest.mark.sweep
def test_titles(tmp_path: Path) -> None:
    """Real weights: flan-t5-small that gives a line of work a title."""
    if find_spec("traceforge_title_model") is None or not TITLER.exists():
        missing("traceforge-title-model")
    subprocess.run([sys.executable, TITLER, tmp_path / "titler"], check=True)
    decoder = compiled(tmp_path / "titler", tmp_path / "compiled", max_tokens=160)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "titler")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "titler")
    for text, title in {
        "Translate to German: The house is small.": "Das Haus ist kleiner.",
        "Edited src/auth/login.py to handle expired tokens; added unit tests for refresh flow.": (
            "Implement unit tests"
        ),
    }.items():
        source = tokenizer(text, return_tensors="np").input_ids
        assert_parity(decoder, model, source)
        new = decoder.generate(source, 32)
        assert tokenizer.decode(new[0], skip_special_tokens=True) == title
