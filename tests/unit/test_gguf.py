"""GGUF files: the imported model against transformers, and files that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

import kaoken
from kaoken.bench import gguf_writer
from kaoken.compiled_decoder import CompiledDecoder
from kaoken.dialect.formats import Format
from kaoken.dialect.nn import LinearOp
from kaoken.dialect.reference import run_module
from kaoken.errors import KaokenError
from kaoken.frontend.gguf import KEPT, GgufFile, import_gguf
from kaoken.frontend.gguf_tokenizer import write_tokenizer
from kaoken.modules import notes_of
from tests.available import STORIES, needs_stories
from tests.helpers import apply_passes

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tokenizers import Tokenizer  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from tests.unit.gguf_files import (  # noqa: E402
    MODELS,
    SIZES,
    random_blocks,
    random_model,
    write_gguf,
)


def logits(module: ModuleOp, ids: list[int], pieces: list[int]) -> np.ndarray:
    """The logits behind every token, [tokens, vocabulary], with the ids given piece by piece."""
    caches: dict[str, np.ndarray] = {}
    past, rows = 0, []
    for size in pieces:
        piece = np.array([ids[past : past + size]])
        sizes = {"past": past, "outputs": size}
        (row,) = run_module(module, [piece], sizes=sizes, caches=caches)
        rows.append(row[0])
        past += size
    return np.concatenate(rows)


def expected(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().numpy()


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    kind, sizes, extra = MODELS[name]
    model = random_model(kind, **sizes)
    module = import_gguf(write_gguf(tmp_path / "m.gguf", model, **extra), max_tokens=40)
    module.verify()
    ids = np.random.default_rng(0).integers(0, 97, 23).tolist()
    wanted = expected(model, ids)
    found = logits(module, ids, [5, 1, 1, 16])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q5_1", "MXFP4"])
def test_tensor_types(kind: str, tmp_path: Path) -> None:
    model = random_model("llama", **(SIZES | {"intermediate_size": 64}))
    type_ = gguf.GGMLQuantizationType[kind]
    path = write_gguf(tmp_path / "m.gguf", model, {"ffn_up.weight": type_})
    module = import_gguf(path)
    if kind in KEPT:
        assert str(module).count("kaoken.dequantize") == 3
    else:
        notes = module.attributes["kaoken.notes"]
        assert str(notes) == f'["m.gguf: {kind} (3 tensors) become f32"]'
    exact = model.model.layers[0].mlp.up_proj.weight.detach().numpy()
    read = GgufFile(path).array("blk.0.ffn_up.weight")
    assert 0 < np.abs(read - exact).max() < 0.25 * np.abs(exact).max()


MIXED = {
    "attn_q.weight": "Q4_K",
    "attn_k.weight": "Q4_K",
    "attn_v.weight": "Q6_K",
    "attn_output.weight": "Q5_K",
    "ffn_gate.weight": "Q3_K",
    "ffn_up.weight": "Q2_K",
    "ffn_down.weight": "Q5_K",
    "token_embd.weight": "Q6_K",
    "output.weight": "Q5_0",
}


def test_a_file_of_many_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every matrix stays codes; all that the logits lose is what inputs of eight bits lose."""

    def quantize(array: np.ndarray, type_: Any) -> np.ndarray:
        return random_blocks(type_, *array.shape, worth=2e-4 if array.shape[0] > 97 else 1e-3)

    monkeypatch.setattr(gguf.quants, "quantize", quantize)
    sizes = SIZES | {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    kinds = {name: gguf.GGMLQuantizationType[kind] for name, kind in MIXED.items()}
    path = write_gguf(tmp_path / "m.gguf", random_model("llama", **sizes), kinds)
    ids = [5, 90, 0, 33]
    exact = logits(import_gguf(path), ids, [4])
    kept = apply_passes(import_gguf(path), "fuse,quantize{dtype=auto}")
    assert sum(op.format is not None for op in kept.walk() if isinstance(op, LinearOp)) == 19
    found = logits(kept, ids, [4])
    difference = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert 0 < difference < 0.02


BITNET_MATRICES = (
    *("attn_q", "attn_k", "attn_v", "attn_output"),
    *("ffn_gate", "ffn_up", "ffn_down"),
)


@pytest.mark.parametrize("kind", ["TQ1_0", "TQ2_0"])
def test_ternary_files_of_bitnet(kind: str, tmp_path: Path) -> None:
    """From the file to compiled code: ternary matrices stay exact, inputs have eight bits."""
    sizes = SIZES | {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    model = random_model("bitnet", **sizes, num_hidden_layers=2)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("_proj.weight"):
                weight.copy_((weight * 30).round().clamp(-1, 1) / 32)
    type_ = gguf.GGMLQuantizationType[kind]
    kinds = {f"{name}.weight": type_ for name in BITNET_MATRICES}
    path = write_gguf(tmp_path / "m.gguf", model, kinds)
    ids = [5, 90, 0, 33, 7]
    wanted = expected(model, ids)
    exact = import_gguf(path, max_tokens=16)
    np.testing.assert_allclose(logits(exact, ids, [5]), wanted, rtol=0, atol=1e-4 * wanted.max())
    kept = apply_passes(import_gguf(path, max_tokens=16), "fuse,quantize{dtype=auto}")
    formats = [op.format.data for op in kept.walk() if isinstance(op, LinearOp) and op.format]
    assert formats == [Format(2, 256, 1)] * 10  # q, k and v are one layer
    found = logits(kept, ids, [5])
    assert np.linalg.norm(found - wanted) < 0.05 * np.linalg.norm(wanted)
    compiled = kaoken.compile(path, out=tmp_path / "model", max_tokens=16)
    assert isinstance(compiled, CompiledDecoder)
    compiled.prefill(ids[:3])
    last = [compiled.step(token).copy() for token in ids[3:]]
    np.testing.assert_allclose(last, found[3:], rtol=0, atol=2e-3 * np.abs(found).max())


@needs_stories
def test_stories(tmp_path: Path) -> None:
    """A trained model: logits of a story, and the tokens of its own tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(STORIES)
    path = write_gguf(tmp_path / "stories.gguf", model, tokenizer=STORIES)
    original = Tokenizer.from_file(str(STORIES / "tokenizer.json"))
    ids = original.encode("Once upon a time, there was a little girl named Lily.").ids
    wanted = expected(model, ids)
    found = logits(import_gguf(path, 64), ids, [len(ids) - 3, 1, 1, 1])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
    tokenizer = Tokenizer.from_file(str(write_tokenizer(path)[0]))
    for text in ("Once upon a time", "", "  two  spaces\nand a line", "é ☃ 12", "The end."):
        encoded = original.encode(text).ids
        assert tokenizer.encode(text).ids == encoded
        assert tokenizer.decode(encoded) == original.decode(encoded)


def small_file(tmp_path: Path, **extra: Any) -> Path:
    return write_gguf(tmp_path / "m.gguf", random_model("llama", **SIZES), **extra)


def test_file_that_is_missing_or_something_else(tmp_path: Path) -> None:
    with pytest.raises(KaokenError, match=r"cannot read .*No such file"):
        import_gguf(tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("not a model")
    with pytest.raises(KaokenError, match=r"text\.gguf is not a GGUF file"):
        import_gguf(tmp_path / "text.gguf")


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.3, 0.9, 0.9999])
def test_truncated_file(share: float, tmp_path: Path) -> None:
    data = small_file(tmp_path).read_bytes()
    short = tmp_path / "short.gguf"
    short.write_bytes(data[: max(4, int(len(data) * share))])
    with pytest.raises(KaokenError, match=r"is truncated .*fetch it again$"):
        import_gguf(short)


def test_unknown_tensor_type(tmp_path: Path) -> None:
    path = small_file(tmp_path)
    data = bytearray(path.read_bytes())
    name = b"blk.0.attn_norm.weight"
    at = data.index(name) + len(name) + 4 + 8
    data[at : at + 4] = (199).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(KaokenError, match="a tensor has the type 199, which kaoken does not read"):
        import_gguf(path)


def test_known_type_that_is_not_read(tmp_path: Path) -> None:
    path = small_file(tmp_path)
    data = bytearray(path.read_bytes())
    name = b"blk.0.attn_norm.weight"
    at = data.index(name) + len(name) + 4 + 8
    data[at : at + 4] = int(gguf.GGMLQuantizationType.I32).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(KaokenError, match=r"attn_norm.weight has the type I32, .* one of F32"):
        import_gguf(path)


def test_unknown_architecture(tmp_path: Path) -> None:
    path = small_file(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"llama", b"lhama"))
    with pytest.raises(KaokenError, match="'lhama' model; of GGUF files kaoken reads llama"):
        import_gguf(path)


@pytest.mark.parametrize("kind", [None, "Q8_0", "Q4_1"])
def test_nan_in_weights(kind: str | None, tmp_path: Path) -> None:
    model = random_model("llama", **SIZES)
    model.model.layers[1].self_attn.k_proj.weight.data[0, 3] = np.nan
    kinds = {} if kind is None else {"attn_k.weight": gguf.GGMLQuantizationType[kind]}
    with np.errstate(invalid="ignore"):
        path = write_gguf(tmp_path / "m.gguf", model, kinds)
    with pytest.raises(KaokenError, match=r"blk\.1\.attn_k\.weight holds NaN or infinity"):
        import_gguf(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": [str(i) for i in range(98)]}, "has 98 tokens, the model's table 97"),
        ({"scores": [0.0] * 90}, "scores has 90 entries for 97 tokens"),
        ({"model": "rwkv"}, "tokenizer of the unknown kind 'rwkv'"),
    ],
)
def test_tokenizer_that_does_not_fit(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(KaokenError, match=message):
        write_tokenizer(with_tokenizer(tmp_path, changes))


def test_a_special_token_that_does_not_exist_is_left_out(tmp_path: Path) -> None:
    """As llama.cpp does: converters write such for models without one."""
    path = with_tokenizer(tmp_path, {"bos_token_id": 97})
    written = {file.name: json.loads(file.read_text()) for file in write_tokenizer(path)}
    assert written["tokenizer.json"]["post_processor"] is None
    assert "bos_token" not in written["tokenizer_config.json"]
    (note,) = notes_of(import_gguf(path))
    assert "bos_token_id is 97, which is none of its 97 tokens: left out" in note


def with_tokenizer(folder: Path, changes: dict[str, Any]) -> Path:
    """A small model whose tokenizer knows 97 numbers, but for what changes."""
    found: dict[str, Any] = {
        "model": "llama",
        "tokens": [str(i) for i in range(97)],
        "scores": [0.0] * len(changes.get("tokens", range(97))),
        "bos_token_id": 1,
    } | changes

    def add(writer: Any) -> None:
        writer.add_tokenizer_model(found["model"])
        writer.add_token_list(found["tokens"])
        writer.add_token_scores(found["scores"])
        writer.add_bos_token_id(found["bos_token_id"])

    return gguf_writer.write_gguf(folder / "m.gguf", random_model("llama", **SIZES), None, add)


def test_unknown_scaling(tmp_path: Path) -> None:
    path = small_file(tmp_path, **{"rope.scaling.type": "spiral"})
    with pytest.raises(KaokenError, match="scaling 'spiral' of rotary positions is unknown"):
        import_gguf(path)


def test_missing_metadata(tmp_path: Path) -> None:
    path = small_file(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"llama.block_count", b"llama.block_house"))
    with pytest.raises(KaokenError, match=r"does not say llama\.block_count"):
        import_gguf(path)


def test_context_is_at_most_the_models(tmp_path: Path) -> None:
    module = import_gguf(small_file(tmp_path), max_tokens=1000)
    assert "kaoken.cache<[64, 2, 8], f32, panels>" in str(module)
