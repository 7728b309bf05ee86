"""CTranslate2: Llama, Qwen and GPT-2 in fp32 and int8."""

# pyright: reportMissingImports=false
# (the extra `bench` brings what is imported here)

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kaoken.bench.peer import Arrived, Generating, Job, Peer, Unsuitable


def build(job: Job, folder: Path, quantization: str) -> None:
    import torch
    from ctranslate2.converters import transformers as converters

    model = job.decoder_module()
    config = model.config
    loader = converters._MODEL_LOADERS.get(type(config).__name__)
    if loader is None:
        raise Unsuitable("its converter does not know this model")
    # What the converter expects of transformers 4.
    rope = getattr(config, "rope_parameters", None) or {}
    config.rope_theta, config.rope_scaling = rope.get("rope_theta", 10000.0), None
    with torch.no_grad():
        spec = loader.get_model_spec(model)
    # The converter itself wants a tokenizer; token ids are all that is timed.
    spec.register_vocabulary([_name(i) for i in range(config.vocab_size)])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = _name(0)
    epsilon = getattr(config, "rms_norm_eps", getattr(config, "layer_norm_epsilon", None))
    spec.config.layer_norm_epsilon = epsilon
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))


def _name(token: int) -> str:
    return f"token {token}"


def open_(job: Job, folder: Path, compute_type: str) -> Generating:
    import ctranslate2

    generator = ctranslate2.Generator(
        str(folder), intra_threads=job.threads, inter_threads=1, compute_type=compute_type
    )

    def generate(prompt: np.ndarray, count: int, arrived: Arrived) -> None:
        def step(result: Any) -> bool:
            arrived()
            return False

        generator.generate_batch(
            [[_name(token) for token in prompt]],
            max_length=count,
            min_length=count,
            include_prompt_in_result=False,
            sampling_topk=1,
            end_token=[],
            callback=step,
        )

    def logits(prompt: np.ndarray) -> np.ndarray:
        ids = ctranslate2.StorageView.from_array(prompt.astype(np.int32)[None])
        lengths = ctranslate2.StorageView.from_array(np.array([len(prompt)], np.int32))
        return np.array(generator.forward_batch(ids, lengths), np.float32)[0, -1]

    return Generating(generate, logits)


PEERS = tuple(
    Peer(
        f"ct2_{kind}",
        precision,
        partial(build, quantization=kind),
        partial(open_, compute_type=kind),
        ("ctranslate2", "torch"),
    )
    for kind, precision in (("float32", "fp32"), ("int8", "int8"))
)
