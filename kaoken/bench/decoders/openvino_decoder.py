"""OpenVINO: fp32, what it chooses itself, and int8 or int4 weights.

Its converter traces the model with keys and values of the past as arguments and results. These
become variables inside of the model, in the form that its attention for CPUs appends to in place
(as Hugging Face's optimum writes such models).
"""

# pyright: reportMissingImports=false
# (the extra `bench` brings what is imported here)

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kaoken.bench.peer import Arrived, Generating, Job, Peer
from kaoken.bench.peers.openvino_runtime import (
    MODEL,
    NNCF,
    OWN_CHOICE,
    PLAIN,
    int8_weights,
    settings,
)


def build(job: Job, folder: Path, change: Callable[[Any, Job], Any] | None = None) -> None:
    import openvino

    model = stateful_model(job.decoder_module())
    if change is not None:
        model = change(model, job)
    openvino.save_model(model, folder / MODEL, compress_to_fp16=False)


def int4_weights(model: Any, job: Job) -> Any:
    """A scale and a zero point for 32 weights, as in GGUF's Q4_1; embeddings and head in int8."""
    import nncf

    mode = nncf.CompressWeightsMode.INT4_ASYM
    return nncf.compress_weights(model, mode=mode, group_size=32, ratio=1.0)


def stateful_model(module: Any) -> Any:
    """A causal model of transformers as openvino.Model, which holds the text's keys and values.

    Inputs: ids int64 [1, tokens], positions int64 [1, tokens], beam_idx int32 [1]; output: float32
    [1, 1, vocabulary], the logits behind the last token.
    """
    import openvino
    import torch
    from openvino._offline_transformations import apply_make_stateful_transformation

    config = module.config
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", heads)
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    past = [torch.randn(1, kv_heads, 2, size) for _ in range(2 * config.num_hidden_layers)]
    ids, positions = torch.zeros(1, 3, dtype=torch.int64), torch.arange(2, 5)[None]
    with torch.no_grad():
        model = openvino.convert_model(_with_past(module), example_input=(ids, positions, *past))
    old = [f"past.{n}" for n in range(len(past))]
    new = [f"present.{n}" for n in range(len(past))]
    _name(model.inputs, ["ids", "positions", *old])
    _name(model.outputs, ["logits", *new])
    free, rows = openvino.PartialShape([-1, kv_heads, -1, size]), openvino.PartialShape([1, -1])
    model.reshape({p: rows if n < 2 else free for n, p in enumerate(model.inputs)})
    _choose_beams(model, model.inputs[2:])
    apply_make_stateful_transformation(model, dict(zip(old, new, strict=True)))
    _begin_empty(model, kv_heads, size)
    return model


def _with_past(module: Any) -> Any:
    """The module as a function of ids, positions, and keys and values layer by layer."""
    import torch
    from transformers.cache_utils import DynamicCache, DynamicLayer

    def layer(keys: Any, values: Any) -> Any:
        """Filled from outside: its own way begins with an array without dimensions."""
        filled = DynamicLayer()
        filled.lazy_initialization(keys, values)
        filled.keys, filled.values = keys, values
        return filled

    class WithPast(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, ids: Any, positions: Any, *past: Any) -> tuple[Any, ...]:
            cache = DynamicCache()
            cache.layers = list(map(layer, past[::2], past[1::2]))
            seen = torch.arange(past[0].shape[2] + ids.shape[1])
            mask = (seen <= positions[0, :, None])[None, None]
            result = module(
                ids,
                position_ids=positions,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            present = [t for layer in cache.layers for t in (layer.keys, layer.values)]
            return (result.logits, *present)

    return WithPast().eval()


def _name(ports: Sequence[Any], names: Sequence[str]) -> None:
    for port, name in zip(ports, names, strict=True):
        port.get_tensor().set_names({name})


def _choose_beams(model: Any, past: Sequence[Any]) -> None:
    """Let every past pass through a choice of beams, which the attention for CPUs looks for."""
    import openvino
    from openvino import opset13

    beams = opset13.parameter(openvino.PartialShape([-1]), np.int32, name="beam_idx")
    beams.output(0).get_tensor().set_names({"beam_idx"})
    for port in past:
        readers = port.get_target_inputs()
        chosen = opset13.gather(port.get_node(), beams, opset13.constant(0))
        for reader in readers:
            reader.replace_source_output(chosen.output(0))
    model.add_parameters([beams])
    model.validate_nodes_and_infer_types()


def _begin_empty(model: Any, kv_heads: int, size: int) -> None:
    """Give the variables no tokens to begin with."""
    from openvino import opset13

    shape = opset13.constant(np.array([1, kv_heads, 0, size], np.int64))
    empty = opset13.broadcast(opset13.constant(np.float32(0)), shape)
    for op in model.get_ops():
        if op.get_type_name() == "ReadValue":
            op.set_arguments([empty.output(0)])
    model.validate_nodes_and_infer_types()


def open_(job: Job, folder: Path, **precisions: str) -> Generating:
    import openvino

    core = openvino.Core()
    model = core.compile_model(core.read_model(folder / MODEL), "CPU", settings(job) | precisions)
    beams = np.zeros(1, np.int32)

    def add(request: Any, tokens: np.ndarray, past: int) -> np.ndarray:
        positions = np.arange(past, past + len(tokens))[None]
        feeds = {"ids": tokens[None], "positions": positions, "beam_idx": beams}
        request.infer(feeds, share_inputs=True, share_outputs=True)
        return request.get_output_tensor(0).data[0, 0]

    def generate(prompt: np.ndarray, count: int, arrived: Arrived) -> None:
        request = model.create_infer_request()
        row = add(request, prompt, 0)
        for past in range(len(prompt), len(prompt) + count):
            token = np.atleast_1d(row.argmax())
            arrived()
            if past < len(prompt) + count - 1:
                row = add(request, token, past)

    def logits(prompt: np.ndarray) -> np.ndarray:
        return np.array(add(model.create_infer_request(), prompt, 0), np.float32)

    return Generating(generate, logits)


_FLOATS = {"INFERENCE_PRECISION_HINT": "f32"}
"""Of what is not quantised. With bf16, 2026.4.1 divides by zero in a step on CPUs with AMX."""
_F32 = _FLOATS | {"KV_CACHE_PRECISION": "f32"}
_few_bits = partial(Peer, open=partial(open_, **_FLOATS), packages=NNCF, cache_bytes=1)
PEERS = (
    Peer("ov_f32", "fp32", build, partial(open_, **_F32), PLAIN),
    Peer("ov_default", OWN_CHOICE, build, open_, PLAIN, cache_bytes=1),
    _few_bits("ov_w8", "int8", partial(build, change=int8_weights)),
    _few_bits("ov_w4", "int4", partial(build, change=int4_weights)),
)
