"""BitNet checkpoints: folders of transformers' conventions, and the stories' real weights."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaoken
from kaoken.backend.machine import TargetMachine
from kaoken.compiled_decoder import CompiledDecoder
from kaoken.dialect.nn import LinearOp
from kaoken.dialect.reference import run_module
from kaoken.errors import KaokenError
from kaoken.frontend.hugging_face import load_folder_model, read_config
from kaoken.frontend.hugging_face_decoder import import_decoder_folder
from tests.available import BITNET_STORIES, needs
from tests.helpers import apply_passes

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402
from transformers.integrations.bitnet import pack_weights  # noqa: E402

VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 92,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
}
BIASED = {"attention_bias": True}
FOLDERS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "bitlinear": ({}, {"linear_class": "bitlinear"}, True),
    "autobitlinear, packed": ({}, {"linear_class": "autobitlinear"}, True),
    "autobitlinear": (BIASED, {"linear_class": "autobitlinear", "use_rms_norm": True}, False),
    "online": ({}, {"linear_class": "autobitlinear", "quantization_mode": "online"}, False),
}
"""More of the config, more of its quantization_config, whether weights are packed."""


def write_folder(
    folder: Path, sizes: dict[str, Any], settings: dict[str, Any], packed: bool
) -> Path:
    """A BitNet model with random weights, as transformers writes such."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model("bitnet", **(SIZES | sizes))
    tensors: dict[str, Any] = {}
    for name, tensor in transformers.AutoModelForCausalLM.from_config(config).state_dict().items():
        layer, _, kind = name.rpartition(".")
        if "norm" in name:
            tensor = 1 + 0.3 * torch.randn_like(tensor)
        elif kind == "bias" or not layer.endswith("proj"):
            tensor = torch.randn_like(tensor)
        elif settings.get("quantization_mode") == "online":
            tensor = torch.randn_like(tensor) * 0.05
        else:
            tensors[f"{layer}.weight_scale"] = torch.rand(1) + 0.5
            signs = torch.randint(-1, 2, tensor.shape)
            tensor = pack_weights(signs) if packed else signs.float()
        if settings.get("use_rms_norm") and kind == "weight" and layer.endswith("proj"):
            tensors[f"{layer}.rms_norm.weight"] = 1 + 0.3 * torch.randn(tensor.shape[1])
        tensors[name] = tensor.contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    written = config.to_dict() | {"architectures": ["BitNetForCausalLM"]}
    written["quantization_config"] = {"quant_method": "bitnet"} | settings
    (folder / "config.json").write_text(json.dumps(written))
    return folder


@pytest.fixture
def plain_torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """transformers' BitNet without accelerate, which it asks for, and without compiling kernels."""
    check = "transformers.quantizers.quantizer_bitnet.is_accelerate_available"
    monkeypatch.setattr(check, lambda: True)
    with torch.compiler.set_stance("force_eager"):
        yield


def transformers_logits(folder: Path, ids: np.ndarray) -> np.ndarray:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.from_numpy(ids)).logits[0].numpy()


@pytest.mark.parametrize("name", FOLDERS)
def test_weights_and_rounding(name: str, tmp_path: Path, plain_torch: None) -> None:
    """PyTorch, running what kaoken reads, gives the logits of transformers."""
    folder = write_folder(tmp_path, *FOLDERS[name])
    ids = np.random.default_rng(0).integers(2, VOCABULARY, (1, 20))
    wanted = transformers_logits(folder, ids)
    own = load_folder_model(folder, read_config(folder), "AutoModelForCausalLM")
    with torch.no_grad():
        found = own(torch.from_numpy(ids)).logits[0].numpy()
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_import(tmp_path: Path, plain_torch: None) -> None:
    """By the reference interpreter, all layers in codes but that of the logits, in two pieces."""
    folder = write_folder(tmp_path, *FOLDERS["autobitlinear"])
    module = apply_passes(import_decoder_folder(folder, max_tokens=24), "fuse,quantize{dtype=auto}")
    linears = [op for op in module.walk() if isinstance(op, LinearOp)]
    assert [op.format is None for op in linears] == [False] * (len(linears) - 1) + [True]
    ids = np.random.default_rng(0).integers(2, VOCABULARY, (1, 20))
    wanted = transformers_logits(folder, ids)
    caches: dict[str, np.ndarray] = {}
    for past, piece in ((0, 13), (13, 7)):
        sizes = {"past": past, "outputs": 7}
        (got,) = run_module(module, [ids[:, past : past + piece]], sizes=sizes, caches=caches)
        rows = wanted[past + piece - 7 : past + piece]
        assert np.abs(got[0] - rows).max() <= 1e-5 * np.abs(rows).max()


def test_compiled(tmp_path: Path, plain_torch: None) -> None:
    """Teacher-forced, and the same bits for a prompt in pieces."""
    folder = write_folder(tmp_path / "source", *FOLDERS["bitlinear"])
    kaoken.compile(folder, out=tmp_path / "compiled", max_tokens=64)
    decoder = kaoken.load_decoder(tmp_path / "compiled")
    ids = np.random.default_rng(1).integers(2, VOCABULARY, (1, 60))
    wanted = transformers_logits(folder, ids)
    rows = _steps(decoder, ids[0].tolist())
    np.testing.assert_array_equal(rows.argmax(-1), wanted.argmax(-1))
    errors = np.abs(rows - wanted).max(-1) / np.abs(wanted).max()
    # Where the last bit of a float makes an input round the other way, more than that bit changes.
    assert np.quantile(errors, 0.9) <= 1e-6
    assert errors.max() <= 0.01
    decoder.reset()
    for start, stop in ((0, 17), (17, 18), (18, 60)):
        logits = decoder.prefill(ids[0, start:stop].tolist())
    np.testing.assert_array_equal(logits, rows[-1])


def _steps(decoder: CompiledDecoder, ids: list[int]) -> np.ndarray:
    """The logits behind each token."""
    decoder.reset()
    return np.stack([decoder.prefill([token]).copy() for token in ids])


Q = "model.layers.1.self_attn.q_proj"
MLP = "model.layers.0.mlp.down_proj"
BAD: dict[str, tuple[str, str, Any]] = {
    "a packed weight of another shape": (
        "bitlinear",
        rf'"{Q}.weight" cannot be read: it is \[15, 64\], but a packed layer of 64 x 64 is \[16',
        lambda t: t.update({f"{Q}.weight": t[f"{Q}.weight"][:15].contiguous()}),
    ),
    "no weight_scale": (
        "bitlinear",
        rf'there is no "{MLP}.weight_scale" in the weights',
        lambda t: t.pop(f"{MLP}.weight_scale"),
    ),
    "a scale of 0": (
        "autobitlinear, packed",
        "its weight_scale is 0 or not finite",
        lambda t: t[f"{Q}.weight_scale"].zero_(),
    ),
    "the code 3": (
        "bitlinear",
        "the code 3, which stands for none",
        lambda t: t[f"{Q}.weight"].fill_(255),
    ),
    "not ternary": (
        "autobitlinear",
        "more than one magnitude besides 0",
        lambda t: t[f"{Q}.weight"].mul_(torch.rand(64)),
    ),
    "NaN": ("online", "NaN or infinity", lambda t: t[f"{Q}.weight"].fill_(float("nan"))),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_weights(case: str, tmp_path: Path) -> None:
    name, message, spoil = BAD[case]
    folder = write_folder(tmp_path, *FOLDERS[name])
    tensors = load_file(folder / "model.safetensors")
    spoil(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(KaokenError, match=message) as caught:
        import_decoder_folder(folder, max_tokens=24)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["linear_class", "quantization_mode"])
def test_unknown_settings(field: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {}, {field: "other"}, True)
    with pytest.raises(KaokenError, match=f"it has the {field} 'other'; kaoken knows "):
        import_decoder_folder(folder, max_tokens=24)


# ---- the stories ----

PROMPTS = ("Once upon a time", "Lily and Tom", "The dog was")
"""Their first 100 greedy tokens are the same in float32, which is not so for all prompts: a logit
that is nearly another's changes with the rounding of one input."""


@pytest.fixture(scope="module")
def reference() -> Any:
    """The module `reference.py` beside the checkpoint."""
    spec = importlib.util.spec_from_file_location("reference", BITNET_STORIES / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> CompiledDecoder:
    folder = tmp_path_factory.mktemp("bitnet") / "stories"
    kaoken.compile(BITNET_STORIES, out=folder, max_tokens=256, threads=2)
    return kaoken.load_decoder(folder)


needs_bitnet_stories = needs(BITNET_STORIES.is_dir(), BITNET_STORIES)


@pytest.mark.xfail(
    not TargetMachine.native().has_quick_bf16,
    reason="a rounding goes the other way on AVX2, and texts part; open",
    strict=False,
)
@needs_bitnet_stories
def test_stories(stories: CompiledDecoder, reference: Any) -> None:
    """80 greedy tokens, the likeliest tokens of teacher-forced texts, one prompt in pieces."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(BITNET_STORIES / "tokenizer.json"))
    assert stories.end_tokens == (1, 2)
    model = reference.BitLlama()
    agrees: list[np.ndarray] = []
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt).ids
        text = ids + model.generate(ids, 200)
        found = stories.generate(ids, 80)[0].tolist()
        assert found == text[: len(ids) + 80]
        model.reset()
        rows = _steps(stories, text)
        agrees.append(rows.argmax(-1) == model.forward(text).argmax(-1))
        stories.reset()
        pieces = [stories.prefill(text[a:b]).copy() for a, b in ((0, 1), (1, 18), (18, len(text)))]
        np.testing.assert_array_equal(pieces[-1], rows[-1])
    assert np.concatenate(agrees).mean() >= 0.99


@needs_bitnet_stories
def test_every_linear_of_the_stories(reference: Any) -> None:
    """The integer sums of each layer on the inputs that the reference in float64 gives it.

    Between layers the reference's float32 inputs are used, so that each is tested on its own.
    """
    from kaoken.dialect.attributes import Rounding
    from kaoken.quantized import multiply, quantize_blocks

    model = reference.BitLlama(dtype=np.float64)
    module = load_folder_model(BITNET_STORIES, read_config(BITNET_STORIES), "AutoModelForCausalLM")
    layers: dict[str, Any] = dict(module.named_modules())
    checked: set[str] = set()

    def linear(name: str, q: np.ndarray, scale: np.ndarray) -> np.ndarray:
        sums = q @ model.tensors[f"{name}.weight"].T
        layer = layers[name]
        blocks = quantize_blocks(inputs[-1], 256, Rounding.EXACT, 0.0)
        ones = np.ones((layer.out_features, 1), np.float32)
        steps = blocks[..., :-2].copy().view(np.int8)[:, 0]
        np.testing.assert_array_equal(steps, q)
        unit = blocks.copy()
        unit[..., -2] = np.float32(1).view(np.int32)
        found = multiply(unit, layer.weight.numpy(), ones, None, layer.format)
        np.testing.assert_array_equal(found, sums)
        checked.add(name)
        return sums * (model.tensors[f"{name}.weight_scale"] * scale)

    inputs: list[np.ndarray] = []
    quantize_input = reference.quantize_input

    def rounded_input(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs.append(x.astype(np.float32))
        return quantize_input(inputs[-1].astype(np.float64))

    model.linear = linear
    reference.quantize_input = rounded_input
    try:
        model.forward([1, 403, 407, 261, 378, *range(10, 40)])
    finally:
        reference.quantize_input = quantize_input
    assert len(checked) == 56
