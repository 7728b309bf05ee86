"""Encoders of transformers with random weights, by every way in, compared with PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import kaoken
from tests.parity.parity import MASK_KINDS, TOLERANCE, assert_encoder_parity, text_inputs

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

MAX_BATCH, MAX_TOKENS = 4, 100
SIZES = (
    ("none", 1, 1),
    ("none", 2, 64),
    ("prefix", 3, 17),
    ("suffix", 4, 33),
    ("scattered", 1, 100),
    ("scattered", 3, 7),
    ("mixed", 4, 49),
)


@dataclass(frozen=True)
class Encoder:
    """A kind of encoder, and the name of its config's number of layers."""

    module: Callable[..., Any]
    config: Callable[..., Any]
    depth: str = "num_hidden_layers"

    def build(self, **options: Any) -> Any:
        """The module with random weights, biases and norms included: new ones are 0 and 1."""
        torch.manual_seed(0)
        module = self.module(self.config(**options)).eval()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return module


ENCODERS = {
    "bert": Encoder(transformers.BertModel, transformers.BertConfig),
    "distilbert": Encoder(transformers.DistilBertModel, transformers.DistilBertConfig, "n_layers"),
    "roberta": Encoder(transformers.RobertaModel, transformers.RobertaConfig),
    "electra": Encoder(transformers.ElectraModel, transformers.ElectraConfig),
}
"""Their configs' defaults are BERT-base, DistilBERT-base, RoBERTa-base and ELECTRA-small."""

SMALL = dict(
    vocab_size=211,
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=100,
    max_position_embeddings=MAX_TOKENS + 3,
)


def example() -> dict[str, Any]:
    ids = torch.randint(2, 200, (2, 16))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def open_sizes() -> dict[str, Any]:
    """Both inputs with open batch and tokens."""
    dims = {
        0: torch.export.Dim("batch", min=1, max=MAX_BATCH),
        1: torch.export.Dim("tokens", min=1, max=MAX_TOKENS),
    }
    return {"input_ids": dims, "attention_mask": dims}


def compiled(module: Any, out: Path, **options: Any) -> kaoken.CompiledModel:
    return kaoken.compile(module, kwargs=example(), dynamic_shapes=open_sizes(), out=out, **options)


def check(model: kaoken.CompiledModel, module: Any) -> None:
    vocabulary = module.config.vocab_size
    for kind, batch, tokens in SIZES:
        assert_encoder_parity(model, module, text_inputs(kind, batch, tokens, vocabulary))


@pytest.mark.parametrize("name", ENCODERS)
def test_two_layers(name: str, tmp_path: Path) -> None:
    encoder = ENCODERS[name]
    module = encoder.build(**{encoder.depth: 2})
    check(compiled(module, tmp_path / name), module)


@pytest.mark.parametrize(
    "name",
    ["electra", *(pytest.param(n, marks=pytest.mark.sweep) for n in ENCODERS if n != "electra")],
)
def test_full_depth(name: str, tmp_path: Path) -> None:
    module = ENCODERS[name].build()
    model = compiled(module, tmp_path / name)
    check(model, module)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ENCODERS)
def test_every_size_of_two_layers(name: str, tmp_path: Path) -> None:
    encoder = ENCODERS[name]
    module = encoder.build(**{encoder.depth: 2})
    model = compiled(module, tmp_path / name)
    for tokens in range(1, MAX_TOKENS + 1):
        for kind in MASK_KINDS:
            batch = 1 + tokens % MAX_BATCH
            inputs = text_inputs(kind, batch, tokens, module.config.vocab_size)
            assert_encoder_parity(model, module, inputs)


@pytest.mark.parametrize("target", ["generic", "x86-64-v3", "x86-64-v4"])
def test_targets(target: str, tmp_path: Path) -> None:
    from kaoken.backend.machine import TargetMachine, cpu_flags

    if not cpu_flags().issuperset(TargetMachine.parse(target).cpu_flags):
        pytest.skip(f"this CPU is no {target}")
    module = ENCODERS["bert"].build(**SMALL)
    check(compiled(module, tmp_path / "bert", target=target), module)


def test_attention_written_out(tmp_path: Path) -> None:
    module = ENCODERS["bert"].build(**SMALL, attn_implementation="eager")
    check(compiled(module, tmp_path / "bert"), module)


@pytest.mark.parametrize("activation", ["gelu_new", "relu", "silu"])
def test_activations(activation: str, tmp_path: Path) -> None:
    module = ENCODERS["roberta"].build(**SMALL, hidden_act=activation)
    check(compiled(module, tmp_path / "roberta"), module)


@pytest.fixture(scope="module")
def small_bert() -> Any:
    return ENCODERS["bert"].build(**SMALL)


def test_folder_with_safetensors(small_bert: Any, tmp_path: Path) -> None:
    small_bert.save_pretrained(tmp_path / "bert")
    assert (tmp_path / "bert" / "model.safetensors").exists()
    check(compiled_path(tmp_path / "bert", tmp_path / "out"), small_bert)


def test_folder_with_pytorch_model_bin(small_bert: Any, tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    folder.mkdir()
    small_bert.config.save_pretrained(folder)
    torch.save(small_bert.state_dict(), folder / "pytorch_model.bin")
    check(compiled_path(folder, tmp_path / "out"), small_bert)


def test_pt2(small_bert: Any, tmp_path: Path) -> None:
    program = torch.export.export(
        small_bert, (), example(), dynamic_shapes=open_sizes(), strict=False
    )
    torch.export.save(program, tmp_path / "bert.pt2")
    check(kaoken.compile(tmp_path / "bert.pt2", out=tmp_path / "out"), small_bert)


@pytest.mark.parametrize("passes", ["", "bake,vectorize"])
def test_mlir_with_its_sidecar(small_bert: Any, passes: str, tmp_path: Path) -> None:
    """At two levels: as imported, and as vector loops over packed weights."""
    from kaoken.frontend.load import load_model
    from kaoken.modules import write_module
    from tests.helpers import apply_passes

    imported = load_model(small_bert, (), example(), dynamic_shapes=open_sizes())
    write_module(apply_passes(imported, passes) if passes else imported, tmp_path / "bert.mlir")
    check(kaoken.compile(tmp_path / "bert.mlir", out=tmp_path / "out"), small_bert)


def test_all_results_of_bert(small_bert: Any, tmp_path: Path) -> None:
    """The pooler's result too, in the module's own class, by position or by name."""
    model = compiled(small_bert, tmp_path / "bert")
    inputs = text_inputs("prefix", 3, 11, SMALL["vocab_size"])
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    with torch.inference_mode():
        wanted = small_bert(**tensors)
    actual = model(**tensors)
    assert type(actual) is type(wanted)
    assert list(actual) == list(wanted)
    by_position = model(*tensors.values())
    for name in wanted:
        assert isinstance(actual[name], torch.Tensor)
        torch.testing.assert_close(by_position[name], actual[name], rtol=0, atol=0)
    torch.testing.assert_close(actual.pooler_output, wanted.pooler_output, rtol=0, atol=TOLERANCE)


def compiled_path(folder: Path, out: Path) -> kaoken.CompiledModel:
    return kaoken.compile(folder, out=out, max_batch=MAX_BATCH, max_tokens=MAX_TOKENS)
