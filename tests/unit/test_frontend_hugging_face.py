"""Hugging Face folders: what is imported, for which sizes, and what is said about broken ones."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from kaoken.dialect.reference import run_module
from kaoken.errors import KaokenError
from kaoken.frontend.hugging_face import folder_head, import_folder, position_limit

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCABULARY = 40
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
CONFIGS: dict[str, Any] = {
    "bert": lambda: transformers.BertConfig(**SIZES, max_position_embeddings=24),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=VOCABULARY, dim=16, n_layers=1, n_heads=2, hidden_dim=24,
        max_position_embeddings=24,
    ),
    "roberta": lambda: transformers.RobertaConfig(**SIZES, max_position_embeddings=26),
    "electra": lambda: transformers.ElectraConfig(
        **SIZES, embedding_size=8, max_position_embeddings=24
    ),
    "mpnet": lambda: transformers.MPNetConfig(**SIZES, max_position_embeddings=26),
    "modernbert": lambda: transformers.ModernBertConfig(
        **SIZES, max_position_embeddings=24, pad_token_id=0, local_attention=8,
        global_attn_every_n_layers=2,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with a small random model of each architecture."""
    return {name: saved(name, tmp_path_factory.mktemp(name)) for name in CONFIGS}


def saved(name: str, folder: Path) -> Path:
    torch.manual_seed(0)
    transformers.AutoModel.from_config(CONFIGS[name]()).save_pretrained(folder)
    return folder


def masks(batch: int, tokens: int) -> list[np.ndarray]:
    """Full, prefix, suffix and scattered masks; every row has a token."""
    rng = np.random.default_rng(batch * 100 + tokens)
    full = np.ones((batch, tokens), np.int64)
    lengths = rng.integers(1, tokens + 1, (batch, 1))
    places = np.arange(tokens)
    scattered = rng.integers(0, 2, (batch, tokens))
    scattered[:, 0] = 1
    return [full, (places < lengths) * full, (places >= tokens - lengths) * full, scattered]


@pytest.mark.parametrize("name", CONFIGS)
def test_numbers_at_unmasked_tokens(folders: dict[str, Path], name: str) -> None:
    imported = import_folder(folders[name], max_batch=3, max_tokens=20)
    model = transformers.AutoModel.from_pretrained(folders[name]).eval()
    rng = np.random.default_rng(1)
    for batch, tokens in ((1, 1), (2, 7), (3, 17)):
        ids = rng.integers(3, VOCABULARY, (batch, tokens))
        for mask in masks(batch, tokens):
            with torch.no_grad():
                wanted = model(torch.tensor(ids), torch.tensor(mask))[0].numpy()
            actual = run_module(imported, [ids, mask])[0]
            assert np.abs(actual - wanted)[mask == 1].max() < 1e-5


def ops_of(module: ModuleOp) -> Counter[str]:
    return Counter(op.name.removeprefix("kaoken.") for op in module.walk())


@pytest.mark.parametrize("name", ["bert", "distilbert", "electra"])
def test_masks_and_positions_need_no_index_arithmetic(folders: dict[str, Path], name: str) -> None:
    ops = ops_of(import_folder(folders[name]))
    assert ops["attention"] == 1
    assert not ops.keys() & {"iota", "gather", "broadcast", "transpose", "full"}


@pytest.mark.parametrize("name", CONFIGS)
def test_tokens_are_limited_by_positions(name: str) -> None:
    assert position_limit(CONFIGS[name]()) == 24


def test_declared_maxima(folders: dict[str, Path]) -> None:
    text = str(import_folder(folders["roberta"]))
    assert "kaoken.max = {batch = 8 : i64, tokens = 24 : i64}" in text


def test_one_text_and_one_token(folders: dict[str, Path]) -> None:
    imported = import_folder(folders["bert"], max_batch=1, max_tokens=1)
    assert "#kaoken.shape<[1, 1]>" in str(imported)
    hidden, _ = run_module(imported, [np.full((1, 1), 5), np.ones((1, 1), np.int64)])
    assert hidden.shape == (1, 1, 16)


def test_sentence_head(folders: dict[str, Path]) -> None:
    imported = import_folder(folders["bert"], head="sentence")
    assert '"sentence_embedding"]' in str(imported)
    ids, mask = np.full((2, 5), 7), np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    hidden, _, sentence = run_module(imported, [ids, mask])
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    expected = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    np.testing.assert_allclose(sentence, expected, atol=1e-6)


def test_head_that_the_folder_asks_for(tmp_path: Path) -> None:
    assert folder_head(tmp_path) == "none"
    kinds = ["Transformer", "Pooling", "Normalize"]
    modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert folder_head(tmp_path) == "sentence"
    (tmp_path / "modules.json").write_text(json.dumps(modules[:2]))
    assert folder_head(tmp_path) == "mean-pool"
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": false}')
    assert folder_head(tmp_path) == "none"


def test_classifier(tmp_path: Path) -> None:
    config = CONFIGS["bert"]()
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(tmp_path)
    imported = import_folder(tmp_path, task="AutoModelForSequenceClassification")
    assert 'kaoken.results = ["logits"]' in str(imported)


def refused(path: Path, match: str, **options: Any) -> None:
    with pytest.raises(KaokenError, match=match) as raised:
        import_folder(path, **options)
    assert "\n" not in str(raised.value)


def test_no_folder_no_config_no_weights(tmp_path: Path) -> None:
    refused(tmp_path / "absent", "there is no folder")
    refused(tmp_path, r"holds no config\.json")
    CONFIGS["bert"]().save_pretrained(tmp_path)
    refused(tmp_path, "has a config but no weights")
    (tmp_path / "config.json").write_text("{")
    refused(tmp_path, r"config\.json is not JSON")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, "model_type")


def test_truncated_weights(tmp_path: Path) -> None:
    file = saved("bert", tmp_path) / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    refused(tmp_path, "truncated")
    file.write_bytes(whole[:5])
    refused(tmp_path, "truncated")
    file.write_bytes(b"not safetensors, but long enough to look like it" * 3)
    refused(tmp_path, "truncated|not a safetensors file")


@pytest.mark.parametrize("size", [0, 10, 1000])
def test_truncated_torch_weights(tmp_path: Path, size: int) -> None:
    model = transformers.AutoModel.from_config(CONFIGS["bert"]())
    model.config.save_pretrained(tmp_path)
    file = tmp_path / "pytorch_model.bin"
    torch.save(model.state_dict(), file)
    file.write_bytes(file.read_bytes()[:size])
    refused(tmp_path, r"the weights in .* are broken")


def test_weights_that_are_missing_from_the_file(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = saved("bert", tmp_path) / "model.safetensors"
    weights = load_file(file)
    del weights["encoder.layer.0.output.dense.weight"]
    save_file(weights, file)
    refused(tmp_path, r"lack encoder\.layer\.0\.output\.dense\.weight")


def test_a_checkpoint_without_pooler(tmp_path: Path) -> None:
    config = CONFIGS["bert"]()
    transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    assert 'kaoken.results = ["last_hidden_state"]' in str(import_folder(tmp_path))


def test_unknown_architecture_and_head(tmp_path: Path) -> None:
    saved("bert", tmp_path)
    refused(tmp_path, "unknown head 'tail'", head="tail")
    refused(tmp_path, "no class AutoModelForNothing", task="AutoModelForNothing")
    (tmp_path / "config.json").write_text('{"model_type": "perceptron"}')
    refused(tmp_path, "'perceptron' model, an architecture that transformers does not know")
