"""Encoders of images, sound and texts whose layers are convolutions, compared with PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaoken
from kaoken.errors import KaokenError
from kaoken.tools.kaoken import main

torch = pytest.importorskip("torch")
T = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
TEXT = SMALL | {"vocab_size": 99, "max_position_embeddings": 32}
IMAGE = {"image_size": 24, "patch_size": 8}
STAGES = {
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "sr_ratios": [2, 1],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "hidden_sizes": [16, 32],
    "num_attention_heads": [1, 2],
    "mlp_ratios": [2, 2],
    "decoder_hidden_size": 24,
}
IMAGE_MODELS: dict[str, Callable[[], Any]] = {
    "vit": lambda: T.ViTModel(T.ViTConfig(**SMALL, **IMAGE)),
    "segformer": lambda: T.SegformerModel(T.SegformerConfig(**STAGES)),
    "dinov2": lambda: T.Dinov2Model(T.Dinov2Config(**SMALL, **IMAGE, mlp_ratio=2)),
    "beit": lambda: T.BeitModel(T.BeitConfig(**SMALL, **IMAGE, use_relative_position_bias=True)),
    "siglip": lambda: T.SiglipVisionModel(T.SiglipVisionConfig(**SMALL, **IMAGE)),
    "clip": lambda: T.CLIPVisionModel(T.CLIPVisionConfig(**SMALL, **IMAGE)),
}
FAST = ("vit", "segformer")
TEXT_MODELS: dict[str, Callable[[], Any]] = {
    "clip": lambda: T.CLIPTextModel(T.CLIPTextConfig(**TEXT, eos_token_id=98)),
    "convbert": lambda: T.ConvBertModel(T.ConvBertConfig(**TEXT, embedding_size=64)),
    "squeezebert": lambda: T.SqueezeBertModel(T.SqueezeBertConfig(**TEXT, embedding_size=64)),
}
slow = pytest.mark.sweep


def build(make: Callable[[], Any]) -> Any:
    """A module with random weights, biases and norms included: new ones are 0 and 1."""
    torch.manual_seed(0)
    module = make().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def assert_equal(model: kaoken.CompiledModel, module: Any, **inputs: Any) -> None:
    """All results that are float32 within 1e-5 of the largest number."""
    with torch.no_grad():
        wanted = module(**inputs).to_tuple()
    actual = model(**{name: value.numpy() for name, value in inputs.items()}).to_tuple()
    assert len(actual) == len(wanted)
    for a, w in zip(actual, wanted, strict=True):
        assert np.abs(a - w.numpy()).max() <= 1e-5 * w.abs().max()


def folder_of(module: Any, path: Path) -> Path:
    module.save_pretrained(path)
    processor = {"size": {"height": 24, "width": 24}}
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return path


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=slow) for n in IMAGE_MODELS]
)
def test_a_folder_of_an_image_model(name: str, tmp_path: Path) -> None:
    module = build(IMAGE_MODELS[name])
    kaoken.compile(folder_of(module, tmp_path / name), max_batch=3, out=tmp_path / "out")
    model = kaoken.load(tmp_path / "out")
    for batch in (1, 3):
        assert_equal(model, module, pixel_values=torch.randn(batch, 3, 24, 24))


@pytest.mark.parametrize(
    "name", ["vit", *(pytest.param(n, marks=slow) for n in IMAGE_MODELS if n != "vit")]
)
def test_verify(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`kaoken verify` compares layers and outputs on images as well."""
    folder = folder_of(build(IMAGE_MODELS[name]), tmp_path / name)
    with pytest.raises(SystemExit) as done:
        main(["verify", str(folder), "--json"])
    assert not done.value.code
    report = json.loads(capsys.readouterr().out)
    names = [value["name"] for value in report["values"]]
    assert report["passed"]
    assert len(names) >= 3
    assert "last_hidden_state" in names


@pytest.mark.parametrize(
    "name", [n if n == "clip" else pytest.param(n, marks=slow) for n in TEXT_MODELS]
)
def test_a_folder_of_a_text_model(name: str, tmp_path: Path) -> None:
    module = build(TEXT_MODELS[name])
    module.save_pretrained(tmp_path / name)
    options: dict[str, Any] = {"max_batch": 3, "max_tokens": 20, "out": tmp_path / "out"}
    model = kaoken.compile(tmp_path / name, **options)
    for batch, tokens in ((1, 7), (3, 17)):
        ids = torch.randint(3, 98, (batch, tokens))
        assert_equal(model, module, input_ids=ids, attention_mask=torch.ones_like(ids))


def test_a_folder_that_does_not_say_its_size(tmp_path: Path) -> None:
    build(IMAGE_MODELS["segformer"]).save_pretrained(tmp_path)
    with pytest.raises(KaokenError, match=r"'segformer' model: nothing says how large its images"):
        kaoken.compile(tmp_path)


def test_a_folder_of_a_model_of_sound(tmp_path: Path) -> None:
    config = T.Wav2Vec2Config(
        **SMALL, conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3),
        num_feat_extract_layers=2, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    T.Wav2Vec2Model(config).save_pretrained(tmp_path)
    with pytest.raises(KaokenError, match="'wav2vec2' model: it reads input_values"):
        kaoken.compile(tmp_path)
