"""CTranslate2: BERT and DistilBERT encoders in fp32 and int8."""

# pyright: reportMissingImports=false
# (the extra `bench` brings what is imported here)

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kaoken.bench.peer import Job, Peer, Running, Unsuitable

KINDS = ("BertConfig", "DistilBertConfig")


def build(job: Job, folder: Path, quantization: str) -> None:
    import torch
    from ctranslate2.converters import transformers as converters

    model = job.workload().module
    kind = type(getattr(model, "config", None)).__name__
    if kind not in KINDS:
        raise Unsuitable("its encoder runs only BERT and DistilBERT")
    # An assertion of the converter; transformers 5 has no other kind.
    model.config.position_embedding_type = "absolute"
    with torch.no_grad():
        spec = converters._MODEL_LOADERS[kind].get_model_spec(model)
    # The converter itself wants a tokenizer; token ids are all that is timed.
    spec.register_vocabulary([f"token {i}" for i in range(model.config.vocab_size)])
    spec.config.unk_token = "token 0"
    spec.config.layer_norm_epsilon = getattr(model.config, "layer_norm_eps", 1e-12)
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))


def open_(job: Job, folder: Path, compute_type: str) -> Running:
    import ctranslate2

    encoder = ctranslate2.Encoder(
        str(folder), intra_threads=job.threads, inter_threads=1, compute_type=compute_type
    )
    ids = job.inputs()["input_ids"].astype(np.int32)
    lengths = np.full(len(ids), ids.shape[1], np.int32)
    views = [ctranslate2.StorageView.from_array(array) for array in (ids, lengths)]

    def output(result: Any) -> np.ndarray:
        return np.array(result.last_hidden_state)

    return Running(lambda: encoder.forward_batch(*views), output)


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
