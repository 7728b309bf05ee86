"""llama.cpp through llama-cpp-python: BERT encoders in F32, BF16 and Q8_0.

Its GELU is a table in half precision, so its F32 does not pass the check of fp32 outputs.
"""

# pyright: reportMissingImports=false
# (the extra `bench` brings what is imported here)

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kaoken.bench.peer import Job, Peer, Running, Unsuitable

MODEL = "model.gguf"
_LAYER_NAMES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_TABLE_NAMES = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}


def build(job: Job, folder: Path, kind: str) -> None:
    import gguf

    model = job.workload().module
    config = getattr(model, "config", None)
    if type(config).__name__ != "BertConfig":
        raise Unsuitable("only BERT is converted for it")
    writer = gguf.GGUFWriter(folder / MODEL, "bert")
    _describe(writer, config)
    type_ = gguf.GGMLQuantizationType[kind]
    for name, array in _tensors(model):
        if array.ndim == 2 and name.startswith("blk."):
            writer.add_tensor(name, gguf.quantize(array, type_), raw_dtype=type_)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: Any, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_token_type_count(config.type_vocab_size)
    writer.add_vocab_size(config.vocab_size)
    # Token ids are all that is timed.
    writer.add_tokenizer_model("no_vocab")


def _tensors(model: Any) -> Iterator[tuple[str, np.ndarray]]:
    for name, tensor in model.state_dict().items():
        if (found := _gguf_name(name)) is not None:
            yield found, tensor.float().numpy()


def _gguf_name(name: str) -> str | None:
    """None for the pooler, which llama.cpp does not run."""
    if not name.startswith("encoder.layer."):
        return _TABLE_NAMES.get(name)
    number, _, rest = name.removeprefix("encoder.layer.").partition(".")
    part, _, kind = rest.rpartition(".")
    return f"blk.{number}.{_LAYER_NAMES[part]}.{kind}"


def open_(job: Job, folder: Path) -> Running:
    import llama_cpp

    ids = job.inputs()["input_ids"]
    llama_cpp.llama_backend_init()
    path = str(folder / MODEL).encode()
    model = llama_cpp.llama_model_load_from_file(path, llama_cpp.llama_model_default_params())
    settings: Any = llama_cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = ids.size
    settings.n_seq_max = len(ids)
    settings.n_threads = settings.n_threads_batch = job.threads
    settings.embeddings = True
    settings.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE
    assert model is not None
    context = llama_cpp.llama_init_from_model(model, settings)
    assert context is not None
    batch = _batch(llama_cpp, ids)
    width = llama_cpp.llama_model_n_embd(model)

    def call() -> None:
        if llama_cpp.llama_encode(context, batch):
            raise RuntimeError("llama_encode failed")

    def output(_: None) -> np.ndarray:
        address = ctypes.cast(llama_cpp.llama_get_embeddings(context), ctypes.c_void_p).value
        assert address is not None
        values = (ctypes.c_float * (ids.size * width)).from_address(address)
        return np.array(values, np.float32).reshape(*ids.shape, width)

    return Running(call, output)


def _batch(llama_cpp: Any, ids: np.ndarray) -> Any:
    """Each row of ids a sequence of its own, with a vector wanted for each token."""
    batch = llama_cpp.llama_batch_init(ids.size, 0, 1)
    batch.n_tokens = ids.size
    for at, ((row, column), token) in enumerate(np.ndenumerate(ids)):
        batch.token[at], batch.pos[at] = int(token), column
        batch.n_seq_id[at], batch.seq_id[at][0], batch.logits[at] = 1, row, 1
    return batch


PEERS = tuple(
    Peer(
        f"llamacpp_{kind}",
        precision,
        partial(build, kind=kind),
        open_,
        ("llama_cpp", "gguf", "torch"),
        ("llama-cpp-python", "gguf", "torch"),
        mapping="file",
    )
    for kind, precision in (("F32", "fp32"), ("BF16", "bf16"), ("Q8_0", "int8"))
)
